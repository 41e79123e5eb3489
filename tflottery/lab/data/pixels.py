"""Pixels: resizes, converts (colour to grey and back) and standardizes images."""

from collections.abc import Iterator, Sequence

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

    Args:
        x: Images [N, H, W, C], C 1 or 3.
        input_shape: The new height, width and channels, 1 or 3.

    Returns:
        Images [N, *input_shape]; uint8 for uint8, rounded, else float32.

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
    rows = _interpolation(x.shape[1], shape[0])
    columns = _interpolation(x.shape[2], shape[1])
    dtype = np.uint8 if x.dtype == np.uint8 else np.float32
    out = np.empty((len(x), *shape), dtype)
    for chunk in _chunks(len(x)):
        part = x[chunk].astype(np.float32)
        if part.shape[3] > shape[2]:
            part = (part @ LUMA)[..., None]
        # [n, H, W, c] -> [n, W, c, h] -> [n, c, h, w] -> [n, h, w, c]
        part = np.tensordot(part, rows, axes=(1, 1))
        part = np.tensordot(part, columns, axes=(1, 1)).transpose(0, 2, 3, 1)
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
    total = np.zeros(x.shape[-1])
    squares = np.zeros(x.shape[-1])
    for chunk in _chunks(len(x)):
        part = x[chunk].reshape(-1, x.shape[-1]).astype(np.float64)
        total += part.sum(axis=0)
        squares += np.einsum("nc,nc->c", part, part)
    count = x.size // x.shape[-1]
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def standardize(x: np.ndarray, statistics: Statistics) -> np.ndarray:
    """Returns float32 images: each channel minus its mean, divided by its deviation.

    Args:
        x: Images [N, H, W, C].
        statistics: `channel_statistics` of the training images, also for test images.
            A channel without deviation is only shifted.

    >>> statistics = np.float32([2.0]), np.float32([4.0])
    >>> standardize(np.array([[[[0], [6]]]], np.uint8), statistics).tolist()
    [[[[-0.5], [1.0]]]]
    """
    mean, deviation = statistics
    out = np.subtract(x, mean, dtype=np.float32)
    out /= np.where(deviation > 0, deviation, 1)
    return out


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, length, CHUNK))


def _interpolation(size: int, new_size: int) -> np.ndarray:
    """Returns the weights [new_size, size] of the old pixels in each new one."""
    if size == new_size:
        return np.eye(size, dtype=np.float32)
    scale = size / new_size
    centres = (np.arange(new_size) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
