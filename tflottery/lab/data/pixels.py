"""Pixels: resizes, converts (colour to grey and back) and standardizes images."""

import importlib
from collections.abc import Sequence

import numpy as np

# Images per step of a pass over a large array, so that temporaries stay small.
CHUNK = 1024
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Statistics = tuple[np.ndarray, np.ndarray]


def adapt(x: np.ndarray, input_shape: Sequence[int]) -> np.ndarray:
    """Resizes images and converts their channels.

    Sizes change by antialiased bilinear interpolation with half-pixel centres, as in
    `tf.image.resize(x, size, antialias=True)`: a smaller image averages all pixels of
    the larger one. Grey becomes three equal channels; colour becomes its luma (ITU-R
    BT.601).

    Images [N, H, W, C] become [N, *input_shape]; uint8 stays uint8, rounded; others are
    float32.

    Raises:
        ValueError: If a shape is not one of images with 1 or 3 channels.

    >>> adapt(np.array([[[[0], [8]], [[4], [4]]]], np.uint8), (1, 1, 3)).tolist()
    [[[[4, 4, 4]]]]
    """
    shape = tuple(input_shape)
    if len(shape) != 3 or shape[2] not in (1, 3) or min(shape) < 1:
        raise ValueError(
            "`input_shape` must be height, width and 1 or 3 channels. "
            f"Received: input_shape={input_shape!r}"
        )
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        raise ValueError(
            "`x` must be images [N, H, W, C] with 1 or 3 channels. "
            f"Received: x of shape {x.shape}"
        )
    if x.shape[1:] == shape:
        return x
    image = importlib.import_module("keras").ops.image
    dtype = np.uint8 if x.dtype == np.uint8 else np.float32
    out = np.empty((len(x), *shape), dtype)
    for start in range(0, len(x), CHUNK):
        chunk = slice(start, start + CHUNK)
        part = x[chunk].astype(np.float32)
        if part.shape[3] > shape[2]:
            part = (part @ LUMA)[..., None]
        part = image.resize(
            part, shape[:2], antialias=True, data_format="channels_last"
        )
        part = np.asarray(part)
        if dtype == np.uint8:
            part = np.clip(np.rint(part), 0, 255)
        out[chunk] = part  # One channel spreads over three.
    return out


def channel_statistics(x: np.ndarray) -> Statistics:
    """Returns the mean and the standard deviation of each channel: two [C] float32.

    Pass only the training images.

    >>> channel_statistics(np.array([[[[0, 3], [2, 3]]]], np.uint8))
    (array([1., 3.], dtype=float32), array([1., 0.], dtype=float32))
    """
    mean = x.mean(axis=(0, 1, 2), dtype=np.float64)
    # Unlike `std`, without a copy of all images.
    squares = np.einsum("nhwc,nhwc->c", x, x, dtype=np.float64)
    variance = np.maximum(squares * x.shape[-1] / x.size - mean**2, 0)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def standardize(x: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Returns float32 images: each channel minus its mean, divided by its deviation.

    `statistics` are those of the training images, also for test images. A channel
    without deviation is only shifted.

    >>> statistics = np.float32([2.0]), np.float32([4.0])
    >>> standardize(np.array([[[[0], [6]]]], np.uint8), statistics).tolist()
    [[[[-0.5], [1.0]]]]
    """
    mean, deviation = statistics
    out = np.subtract(x, mean, dtype=np.float32)
    out /= np.where(deviation > 0, deviation, 1)
    return out
