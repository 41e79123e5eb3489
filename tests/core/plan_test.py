import numpy as np
import pytest

from tflottery.core import masks as masks_lib
from tflottery.core import plan as plan_lib
from tflottery.core import pruning


def test_plan_gives_the_densities_that_pruning_comes_to():
    masks = {"a": np.ones(600, bool), "b": np.ones(400, bool)}
    scores = {
        path: np.random.default_rng(0).random(m.shape) for path, m in masks.items()
    }
    for layer_fractions in ({}, {"b": 0.1}):
        plan = plan_lib.densities(
            masks, 0.3, layer_fractions=layer_fractions, target_density=0.1
        )
        assert plan[0] == 1.0
        assert plan[-1] == pytest.approx(0.1)
        now = masks
        for density in plan[1:]:
            now = pruning.prune(
                scores, now, 0.3, layer_fractions=layer_fractions, target_density=0.1
            )
            assert masks_lib.density(now) == pytest.approx(density, abs=0.002)


def test_plan_ends_with_the_rounds_that_were_asked_for():
    masks = {"a": np.ones(100, bool)}
    assert len(plan_lib.densities(masks, 0.2, target_density=0.01, rounds=3)) == 4
    assert plan_lib.densities({}, 0.2, target_density=0.1) == [1.0]


def test_the_fraction_reaches_the_target_in_the_rounds_that_are_given():
    masks = masks_lib.ones({"w": np.ones((30, 30)), "output": np.ones((10, 10))})
    scores = {p: np.random.default_rng(0).random(m.shape) for p, m in masks.items()}
    for layer_fractions in ({}, {"output": 0.1}):
        held = masks
        for done in range(3):
            fraction = plan_lib.fraction_for(
                held, 3 - done, layer_fractions=layer_fractions, target_density=0.2
            )
            held = pruning.prune(
                scores,
                held,
                fraction,
                layer_fractions=layer_fractions,
                target_density=0.2,
            )
        assert masks_lib.kept(held) == 200
    assert np.count_nonzero(held["output"]) == 73  # 100 * 0.9 ** 3


def test_layers_that_keep_more_than_the_target_are_an_error():
    masks = masks_lib.ones({"w": np.ones(100), "output": np.ones(100)})
    with pytest.raises(ValueError, match="`layer_fractions` prunes its layers so lit"):
        plan_lib.fraction_for(
            masks, 2, layer_fractions={"output": 0.1}, target_density=0.3
        )


def test_more_rounds_than_weights_to_prune_are_an_error():
    with pytest.raises(ValueError, match="at most 5, the number of weights to prune"):
        plan_lib.densities({"w": np.ones(10, bool)}, 0.1, target_density=0.5, rounds=6)


def test_a_round_prunes_one_weight_at_least():
    densities = plan_lib.densities({"w": np.ones(4, bool)}, 0.01, target_density=0.5)
    assert densities == [1.0, 0.75, 0.5]


def test_a_search_of_very_many_rounds_is_an_error():
    masks = {"w": np.ones(10**6, bool)}
    with pytest.raises(ValueError, match=r"more than 10,000 rounds.*fraction=1e-12"):
        plan_lib.densities(masks, 1e-12, target_density=0.5)
