"""Paths: one network's names on another's, and the first that does not fit."""

import numpy as np
import pytest

from tflottery.core import paths


def weights(**shapes):
    return {name.replace("__", "/"): np.ones(shape) for name, shape in shapes.items()}


TWO = weights(dense__kernel=(2, 3), dense_1__kernel=(3, 1))


def test_numbers_that_keras_gives_are_counted_anew():
    assert paths.canonical(["dense_7/kernel", "dense_9/kernel", "dense_9/bias"]) == [
        "dense/kernel",
        "dense_1/kernel",
        "dense_1/bias",
    ]


def test_numbers_are_counted_within_each_layer():
    names = ["block_3/dense_5/kernel", "block_4/dense_6/kernel", "dense_7/kernel"]
    assert paths.canonical(names) == [
        "block/dense/kernel",
        "block_1/dense/kernel",
        "dense/kernel",
    ]


def test_a_variables_own_number_stays():
    assert paths.canonical(["kernel", "a/kernel_1"]) == ["kernel", "a/kernel_1"]


def test_a_network_that_was_built_again_fits():
    again = weights(dense_4__kernel=(2, 3), dense_5__kernel=(3, 1))
    assert paths.align(TWO, again) == {
        "dense/kernel": "dense_4/kernel",
        "dense_1/kernel": "dense_5/kernel",
    }


def test_equal_names_fit_in_any_order():
    shuffled = dict(reversed(TWO.items()))
    assert paths.align(TWO, shuffled) == {name: name for name in TWO}


def test_another_shape_is_an_error_that_names_both():
    other = weights(dense__kernel=(2, 3), dense_1__kernel=(3, 9))
    message = r"'dense_1/kernel' has shape \(3, 1\) in the ticket, and \(3, 9\) in the"
    with pytest.raises(ValueError, match=message):
        paths.align(TWO, other)


def test_the_first_path_that_does_not_fit_is_named():
    with pytest.raises(
        ValueError,
        match=r"where the ticket has 'dense_1/kernel', the model has 'head/kernel'",
    ):
        paths.align(TWO, weights(dense__kernel=(2, 3), head__kernel=(3, 1)))
    with pytest.raises(
        ValueError, match="has 'dense_1/kernel', the model has 'no furt"
    ):
        paths.align(TWO, weights(dense__kernel=(2, 3)))
    with pytest.raises(
        ValueError, match="has 'no further weight', the model has 'x/k'"
    ):
        paths.align(TWO, TWO | weights(x__k=(1,)))


def test_the_architecture_is_names_shapes_and_types_in_order():
    same = weights(dense_4__kernel=(2, 3), dense_5__kernel=(3, 1))
    assert paths.architecture(same) == paths.architecture(TWO)
    half = {name: w.astype("float16") for name, w in TWO.items()}
    others = [
        half,
        dict(reversed(TWO.items())),
        weights(dense__kernel=(3, 2), dense_1__kernel=(3, 1)),
        weights(dense__kernel=(2, 3), head__kernel=(3, 1)),
    ]
    hashes = {paths.architecture(w) for w in [TWO, *others]}
    assert len(hashes) == 5


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../b", "./a", "/a", "a/", "a//b", "", "a\nb", "\x1b[0m", "a\\b"],
)
def test_a_name_that_leads_out_or_steers_a_terminal_is_an_error(name):
    with pytest.raises(ValueError, match="is not the path of a weight"):
        paths.check(["dense/kernel", name])


def test_unusual_names_are_names():
    paths.check(["<script>/kernel", "naïve layer/kernel", "a.b/..c/kernel:0", "[/]/k"])
