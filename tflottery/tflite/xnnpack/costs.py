"""Costs: predicted time of planar operators in LiteRT.js, one thread, in nanoseconds.

Only good for comparing ways to write one network. Fitted to the timings in
docs/export.md.
"""

import numpy as np

DENSE_MAC = 0.046  # a multiplication of a dense convolution
SPARSE_MAC = 0.081  # a nonzero weight, per pixel
DEPTHWISE_MAC = 0.065
ELEMENT = 0.2  # a value that is written


def written(channels: int, pixels: int) -> float:
    """Returns the time to write an image."""
    return channels * pixels * ELEMENT


def pointwise(kernel: np.ndarray, pixels: int) -> float:
    """Returns the time of a sparse 1x1 convolution `[outputs, 1, 1, inputs]`."""
    nonzeros = np.count_nonzero(kernel)
    return nonzeros * pixels * SPARSE_MAC + written(len(kernel), pixels)


def depthwise(kernel: np.ndarray, pixels: int) -> float:
    """Returns the time of a depthwise convolution `[1, k, k, channels]`."""
    return kernel.size * pixels * DEPTHWISE_MAC + written(kernel.shape[3], pixels)
