"""Each arm changes what it is named for, and nothing else."""

import dataclasses

import numpy as np
import pytest

from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig
from tflottery.ticket import WEIGHTS, Ticket
from tflottery.transfer import controls

SHAPES = {"a/kernel": (20, 30), "a/bias": (30,), "b/kernel": (30, 10)}


def weights(seed):
    rng = np.random.default_rng(seed)
    return {p: rng.normal(size=s).astype(np.float32) for p, s in SHAPES.items()}


def ticket():
    rng = np.random.default_rng(0)
    return Ticket(
        masks={
            "a/kernel": rng.random(SHAPES["a/kernel"]) < 0.1,
            "b/kernel": rng.random(SHAPES["b/kernel"]) < 0.6,
        },
        initial=weights(1),
        rewind=weights(2),
        trained=weights(3),
        config=LotteryConfig(),
        monitor="val_accuracy",
        rounds=(),
        round=2,
        origin={"weights": "trained"},
    )


def test_reinitialized_has_the_tickets_masks_on_fresh_weights():
    given, fresh = ticket(), weights(9)
    arm = controls.reinitialized(given, fresh, 0)
    for path, mask in given.masks.items():
        np.testing.assert_array_equal(arm.masks[path], mask)
    for name in WEIGHTS:
        for path, w in masks_lib.apply(given.masks, fresh).items():
            np.testing.assert_array_equal(getattr(arm, name)[path], w)


def test_random_masks_have_each_layers_count_in_other_places():
    given, fresh = ticket(), weights(9)
    arm = controls.randomly_masked(given, fresh, 0)
    for path, mask in given.masks.items():
        assert masks_lib.kept({path: arm.masks[path]}) == masks_lib.kept({path: mask})
    # Of what the first layer keeps, a tenth are in the same place by chance.
    assert masks_lib.overlap(arm.masks, given.masks) < 0.5
    np.testing.assert_array_equal(arm.trained["a/bias"], fresh["a/bias"])


def test_layer_shuffled_keeps_each_layers_values_and_their_masks_together():
    given = ticket()
    arm = controls.layer_shuffled(given, {}, 0)
    for name in WEIGHTS:
        for path, mask in given.masks.items():
            before, after = getattr(given, name)[path], getattr(arm, name)[path]
            assert sorted(before[mask]) == sorted(after[arm.masks[path]])
            assert np.any(before != after)
    np.testing.assert_array_equal(arm.trained["a/bias"], given.trained["a/bias"])
    # One weight moves to one place: from θ0 to θT it is still the same weight.
    i = np.flatnonzero(arm.masks["a/kernel"])[0]
    j = np.flatnonzero(given.initial["a/kernel"] == arm.initial["a/kernel"].flat[i])[0]
    assert arm.trained["a/kernel"].flat[i] == given.trained["a/kernel"].flat[j]


def test_globally_shuffled_keeps_the_count_but_not_each_layers():
    given = ticket()
    arm = controls.globally_shuffled(given, weights(9), 0)
    assert masks_lib.kept(arm.masks) == masks_lib.kept(given.masks)
    layers = masks_lib.density_per_layer(arm.masks)
    assert abs(layers["a/kernel"] - layers["b/kernel"]) < 0.1


def test_dense_prunes_nothing():
    fresh = weights(9)
    arm = controls.dense(ticket(), fresh, 0)
    assert arm.density == 1
    np.testing.assert_array_equal(arm.trained["a/kernel"], fresh["a/kernel"])


@pytest.mark.parametrize("name", controls.ARMS)
def test_an_arm_is_the_same_for_one_seed_and_says_where_it_comes_from(name):
    given, fresh = ticket(), weights(9)
    one, again, other = (controls.ARMS[name](given, fresh, s) for s in (1, 1, 2))
    for path in SHAPES:
        np.testing.assert_array_equal(one.trained[path], again.trained[path])
    assert one.origin == {"arm": name, "seed": 1, "origin": {"weights": "trained"}}
    if "shuffled" in name or name == "randomly_masked":
        assert np.any(one.masks["a/kernel"] != other.masks["a/kernel"])


def test_fresh_weights_may_have_other_numbers_in_their_names():
    fresh = {f"{p[0]}_7{p[1:]}": w for p, w in weights(9).items()}
    arm = controls.reinitialized(ticket(), fresh, 0)
    np.testing.assert_array_equal(arm.trained["a/bias"], fresh["a_7/bias"])


def test_fresh_weights_of_another_network_are_an_error():
    fresh = {**weights(9), "b/kernel": np.zeros((30, 11), np.float32)}
    with pytest.raises(ValueError, match=r"'b/kernel' has shape \(30, 10\)"):
        controls.dense(ticket(), fresh, 0)


@pytest.mark.parametrize("arm", ["randomly_masked", "layer_shuffled"])
def test_places_do_not_depend_on_how_keras_numbered_the_layers(arm):
    def named(a, b):
        names = {"a/": f"{a}/", "b/": f"{b}/"}
        given = ticket()
        return {
            part: {names[p[:2]] + p[2:]: w for p, w in getattr(given, part).items()}
            for part in ("masks", *WEIGHTS)
        }

    found = []
    for names in (("dense", "dense_1"), ("dense_4", "dense_9")):
        parts = named(*names)
        given = dataclasses.replace(ticket(), **parts)
        found.append(controls.ARMS[arm](given, parts["trained"], 0).masks.values())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
