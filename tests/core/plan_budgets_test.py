"""Budgets: sums to the weight, and the published rule by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tflottery.core import plan


def test_halves_go_up_though_binary_fractions_fall_short():
    counts = [([1], 0.5), ([14_999], 0.9999), ([15], 0.9), ([25_000_000], 0.2)]
    left, fractions = zip(*counts, strict=True)
    kept = plan.of_groups(list(left), list(fractions), at_least=0)
    assert kept == [1, 1, 2, 20_000_000]


def test_groups_give_in_proportion_until_the_least_is_met():
    assert plan.of_groups([[10], [20]], [0.5, 0.5], at_least=0) == [5, 10]
    assert plan.of_groups([[10], [20]], [0.5, 0.5], at_least=27) == [9, 18]
    assert plan.of_groups([[10], [20]], [0.5, 0.5], at_least=99) == [10, 20]


def test_of_equal_groups_the_last_give_first():
    assert plan.of_groups([[2]] * 4, [0.5] * 4, at_least=6) == [2, 2, 1, 1]


def test_the_last_weight_of_each_layer_counts_towards_the_least():
    # Each group keeps one whatever its number: three of the four that are wanted.
    counts = plan.of_groups([[1], [1], [10]], [0.9, 0.9, 0.9], at_least=4)
    assert counts[2] == 2


def test_erk_by_hand():
    # Evci et al. 2020: the density of a layer is in proportion to the sum of its
    # dimensions over their product, so its count to the sum: 3+3+2+4, 8+10 and 4+6.
    masks = {
        "conv": np.ones((3, 3, 2, 4), bool),
        "dense": np.ones((8, 10), bool),
        "head": np.ones((4, 6), bool),
    }
    left = {"conv": 72, "dense": 80, "head": 24}
    assert plan.of_layers(masks, left, 20) == {"conv": 6, "dense": 9, "head": 5}
    # At 120 the head would get 30 of its 24: the others share the rest, 12 to 18.
    counts = plan.of_layers(masks, left, 120)
    assert counts == {"conv": 38, "dense": 58, "head": 24}


def test_erk_gives_each_layer_one_and_no_more_in_all():
    masks = {"tiny": np.ones(1, bool), "a": np.ones((50, 50), bool)}
    assert plan.of_layers(masks, {"tiny": 1, "a": 2500}, 3) == {"tiny": 1, "a": 2}


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=8),
    st.floats(0, 1),
    st.randoms(use_true_random=False),
)
def test_erk_divides_exactly(shapes, share, random):
    masks = {str(i): np.ones(shape, bool) for i, shape in enumerate(shapes)}
    left = {path: random.randint(0, mask.size) for path, mask in masks.items()}
    layers = sum(1 for n in left.values() if n)
    keep = layers + round(share * (sum(left.values()) - layers))
    counts = plan.of_layers(masks, left, keep)
    assert list(counts) == list(masks)
    assert sum(counts.values()) == keep
    assert all(min(1, left[p]) <= counts[p] <= left[p] for p in masks)
