"""A k x k convolution taken apart is the same convolution."""

import numpy as np
import pytest

from tflottery.tflite.xnnpack import split_conv

GENERATOR = np.random.default_rng(0)
PIXELS = 36


def convolve(image, kernel, *, depthwise=False):
    """Returns a convolution of stride 1 with symmetric padding, tap by tap."""
    width = kernel.shape[1]
    rows, columns, _ = image.shape
    padded = np.pad(image, [(width // 2,) * 2, (width // 2,) * 2, (0, 0)])
    result = 0.0
    for r in range(width):
        for c in range(width):
            part = padded[r : r + rows, c : c + columns]
            weights = kernel[:, r, c]
            result += part * weights[0] if depthwise else part @ weights.T
    return result


def kernel(outs, width, channels, density):
    weights = GENERATOR.normal(size=(outs, width, width, channels)).astype(np.float32)
    return weights * (GENERATOR.random(weights.shape) < density)


KERNELS = {
    "3x3": kernel(4, 3, 2, 0.5),
    "5x5": kernel(2, 5, 3, 0.3),
    "few": kernel(3, 3, 2, 0.05),
    "one row of taps": kernel(2, 3, 2, 1) * np.array([0, 0, 1])[:, None, None],
    "none": kernel(2, 3, 2, 0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_triple_is_the_convolution(name):
    image = GENERATOR.normal(size=(6, 6, KERNELS[name].shape[3]))
    split = split_conv.triple(KERNELS[name], PIXELS, PIXELS)
    middle = convolve(convolve(image, split.first), split.shift, depthwise=True)
    expected = convolve(image, KERNELS[name])
    np.testing.assert_allclose(convolve(middle, split.last), expected, atol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_a_cross_is_the_convolution(name):
    image = GENERATOR.normal(size=(6, 6, KERNELS[name].shape[3]))
    cross = split_conv.cross(KERNELS[name])
    middle = convolve(convolve(image, cross.first), cross.shift, depthwise=True)
    total = convolve(middle, cross.last[0])
    for offset, move in cross.moves.items():
        part = convolve(middle, cross.last[offset])
        total = total + convolve(part, move, depthwise=True)
    np.testing.assert_allclose(total, convolve(image, KERNELS[name]), atol=1e-6)


def test_a_cross_shifts_three_and_two_times_where_a_triple_shifts_nine():
    wide = kernel(16, 3, 16, 0.5)
    split, cross = split_conv.triple(wide, PIXELS, PIXELS), split_conv.cross(wide)
    assert split.shift.shape[3] == 9 * 16
    assert cross.shift.shape[3] == 3 * 16
    assert len(cross.moves) == 2
    assert cross.nanoseconds(PIXELS) < 0.8 * split.nanoseconds(PIXELS, PIXELS)


def test_rows_and_columns_without_a_weight_are_not_shifted():
    cross = split_conv.cross(KERNELS["one row of taps"])
    assert sorted(cross.last) == [0, 1]
    assert list(cross.moves) == [1]
