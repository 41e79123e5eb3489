"""Costs: predicted nanoseconds of operators in LiteRT.js, with one thread.

Fitted to the timings in docs/export.md; use them only to compare versions of a network.
"""

import numpy as np

DENSE_MAC = 0.046  # one multiplication of a dense convolution
SPARSE_MAC = 0.081  # one nonzero weight, per pixel
DEPTHWISE_MAC = 0.065  # one multiplication of a depthwise convolution
ELEMENT = 0.2  # writing one value


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
