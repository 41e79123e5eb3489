"""Masks: hand-worked arrays, and the errors that name what does not fit."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tflottery.core import masks

HALF = np.array([True, False, True, False])


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int32", "bool", ml_dtypes.bfloat16]
)
def test_apply_zeroes_what_is_pruned_and_keeps_the_type(dtype):
    weight = np.array([1, 1, 0, 1]).astype(dtype)
    result = masks.apply({"w": HALF}, {"w": weight})["w"]
    assert result.dtype == weight.dtype
    assert result.astype(int).tolist() == [1, 0, 0, 0]
    assert weight.astype(int).tolist() == [1, 1, 0, 1]


def test_apply_zeroes_pruned_nan_and_infinity():
    weight = np.array([1.0, np.nan, 2.0, -np.inf])
    assert masks.apply({"w": HALF}, {"w": weight})["w"].tolist() == [1, 0, 2, 0]


def test_apply_passes_weights_without_a_mask_through():
    bias = np.ones(2)
    assert masks.apply({}, {"bias": bias})["bias"] is bias


def test_counts_and_shares():
    some = {"a": HALF, "b": np.ones((2, 3), bool)}
    assert masks.kept(some) == 8
    assert masks.size(some) == 10
    assert masks.density(some) == 0.8
    assert masks.sparsity(some) == pytest.approx(0.2)
    assert masks.density_per_layer(some) == {"a": 0.5, "b": 1.0}


def test_masks_that_cover_nothing_are_dense():
    assert masks.density({}) == 1.0
    assert masks.sparsity({"w": np.ones((0, 3), bool)}) == 0.0
    assert masks.overlap({}, {}) == 1.0


def test_nested_means_that_nothing_pruned_returns():
    outer = {"w": np.array([True, True, True, False])}
    assert masks.is_nested({"w": HALF}, outer)
    assert not masks.is_nested(outer, {"w": HALF})
    assert not masks.is_nested({"w": HALF}, {"v": HALF})
    assert not masks.is_nested({"w": HALF}, {"w": HALF.reshape(2, 2)})


def test_overlap_is_the_share_of_what_either_keeps():
    other = np.array([True, True, False, False])
    assert masks.overlap({"w": HALF}, {"w": other}) == pytest.approx(1 / 3)
    assert masks.overlap({"w": HALF}, {"w": HALF}) == 1.0
    assert masks.overlap({"w": HALF}, {"w": ~HALF}) == 0.0


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4)))
def test_unpack_gives_back_what_pack_took(mask):
    bits = masks.pack(mask)
    assert bits.nbytes == (mask.size + 7) // 8
    again = masks.unpack(bits, mask.shape)
    assert again.shape == mask.shape
    assert again.dtype == bool
    assert np.array_equal(again, mask)


@given(st.lists(st.integers(-3, 10**9), max_size=5))
def test_unpack_takes_a_shape_that_fits_or_says_that_it_does_not(shape):
    bits = np.zeros(2, np.uint8)
    try:
        assert 9 <= masks.unpack(bits, tuple(shape)).size <= 16
    except ValueError as error:
        assert "shape" in str(error)  # noqa: PT017


def test_unpack_says_how_many_bytes_it_needs():
    with pytest.raises(ValueError, match=r"shape \(3, 3\) needs 2 bytes of bits. Rec"):
        masks.unpack(np.zeros(1, np.uint8), (3, 3))
    with pytest.raises(ValueError, match="Received: float32 array of shape"):
        masks.unpack(np.zeros(2, np.float32), (3, 3))


def test_a_mask_without_its_weight_is_an_error():
    with pytest.raises(ValueError, match=r"mask for 'w', but no such weight.*are: v\."):
        masks.apply({"w": HALF}, {"v": np.ones(4)})


def test_a_mask_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"shape \(4,\), but the weight has shape"):
        masks.apply({"w": HALF}, {"w": np.ones(5)})
