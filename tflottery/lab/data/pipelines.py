"""Pipelines: images in memory, gathered batch by batch in an order anyone can name."""

import importlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from tflottery.engines import shuffling
from tflottery.engines.shuffling import Augment


class Pipeline(Protocol):
    """What `fit` takes from `train_pipeline`, on every backend.

    Attributes:
        epoch: the epoch whose order the next pass takes. A pass that has handed out
            its last batch adds 1; one that stopped before leaves it. Set it to make
            the next `fit` start with the order of that epoch.
    """

    epoch: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def flip_and_crop(
    images: np.ndarray, rng: np.random.Generator, pad: int = 4
) -> np.ndarray:
    """Mirrors half the images, and cuts each from itself padded with zeros.

    Source: He et al. 2016, section 4.2; Mehta 2019, section 3.

    Args:
        images: [N, H, W, C], of any dtype.
        rng: where the draws come from.
        pad: how many pixels of zeros to add on each side, at least 0.

    Returns:
        New images of the same shape and dtype.
    """
    num_images, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    top, left = rng.integers(2 * pad + 1, size=(2, num_images))
    mirrored = rng.random(num_images) < 0.5
    out = np.empty_like(images)
    # A loop over slices takes half the time of one gather with indices per pixel.
    for i in range(num_images):
        cut = padded[i, top[i] : top[i] + height, left[i] : left[i] + width]
        out[i] = cut[:, ::-1] if mirrored[i] else cut
    return out


def train_pipeline(
    x: np.ndarray,
    y: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
    keras: Any = None,
) -> Pipeline:
    """Returns shuffled batches, for `fit`.

    The data stays in memory and a batch is one gather. The order of an epoch is
    `engines.ordered.order(len(x), seed, epoch)`, whatever came before, so that a search
    that resumes with the right `epoch` sees the very batches that an unbroken one
    would have seen.

    Args:
        x: images [N, ...] of any dtype, kept and handed out as float32.
        y: labels [N, ...]. Batches of whole numbers are int32, others float32.
        batch_size: images in a batch, at least 1; the last batch has what is left.
        seed: what the orders and the augmentation depend on, at least 0.
        augment: `(images, rng) -> images`, NumPy in and out, called on every batch
            with a generator that depends on the seed, the epoch and the batch alone.
        keras: the Keras module of the model to train, `keras` (the default) or
            `tf_keras`.

    Returns:
        A `tf.data.Dataset` for Keras on TensorFlow and for tf_keras, else a
        `keras.utils.PyDataset`; both with the attribute `epoch`, at first 0.

    Raises:
        ValueError: `x` and `y` differ in length or are empty, or `batch_size` is
            below 1.
    """
    return shuffling.batches(
        _checked(x, y, batch_size),
        seed=seed,
        keras=importlib.import_module("keras") if keras is None else keras,
        batch_size=batch_size,
        augment=augment,
    )


def eval_pipeline(
    x: np.ndarray, y: np.ndarray, *, batch_size: int, keras: Any = None
) -> Any:
    """Returns batches in the order of the data, never augmented, for `evaluate`.

    Arguments, result and errors are those of `train_pipeline`; the result has no
    attribute `epoch`.
    """
    x, y = _checked(x, y, batch_size)
    keras = importlib.import_module("keras") if keras is None else keras
    if keras.__name__ == "tf_keras" or keras.backend.backend() == "tensorflow":
        tf = importlib.import_module("tensorflow")
        with tf.device("/cpu:0"):
            images, labels = tf.constant(x), tf.constant(y)
        starts = tf.data.Dataset.range(0, len(x), batch_size)

        def batch(start):
            end = start + batch_size
            return images[start:end], labels[start:end]

        return starts.map(batch).prefetch(tf.data.AUTOTUNE)

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return -(-len(x) // batch_size)

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            if not 0 <= index < len(self):
                raise IndexError(f"There are {len(self)} batches. Received: {index=}")
            chosen = slice(index * batch_size, (index + 1) * batch_size)
            return x[chosen], y[chosen]

    return Batches()


def _checked(
    x: np.ndarray, y: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float32), np.asarray(y)
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            "`x` and `y` must hold the same number of examples, at least 1. "
            f"Received: {len(x)} images and {len(y)} labels"
        )
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size=}")
    return x, y.astype("int32" if np.issubdtype(y.dtype, np.integer) else "float32")
