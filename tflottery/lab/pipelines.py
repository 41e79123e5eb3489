"""Pipelines: images in memory, gathered batch by batch in an order anyone can name."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


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


def order(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the images in an epoch: [num_images] int32.

    It depends on the arguments alone: not on the backend, nor on earlier epochs.

    >>> order(5, seed=0, epoch=3)
    array([3, 0, 2, 1, 4], dtype=int32)
    """
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(np.arange(num_images, dtype=np.int32))


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
    `order(len(x), seed, epoch)`, whatever came before, so that a search that resumes
    with the right `epoch` sees the very batches that an unbroken one would have seen.

    Args:
        x: images [N, ...] of any dtype. Batches are float32.
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
    x, y = _checked(x, y, batch_size)
    if not _on_tensorflow(keras):
        return _py_dataset(x, y, batch_size, seed, augment)
    return _tf_dataset(x, y, batch_size, seed, augment)


def eval_pipeline(
    x: np.ndarray, y: np.ndarray, *, batch_size: int, keras: Any = None
) -> Any:
    """Returns batches in the order of the data, never augmented, for `evaluate`.

    Arguments, result and errors are those of `train_pipeline`; the result has no
    attribute `epoch`.
    """
    x, y = _checked(x, y, batch_size)
    if not _on_tensorflow(keras):
        return _py_dataset(x, y, batch_size, None, None)
    tf = importlib.import_module("tensorflow")
    images, labels = _resident(tf, x, y)
    starts = tf.data.Dataset.range(0, len(x), batch_size)

    def batch(start):
        end = start + batch_size
        return tf.cast(images[start:end], tf.float32), labels[start:end]

    return starts.map(batch).prefetch(tf.data.AUTOTUNE)


def _checked(
    x: np.ndarray, y: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            "`x` and `y` must hold the same number of examples, at least 1. "
            f"Received: {len(x)} images and {len(y)} labels"
        )
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size=}")
    return x, y.astype("int32" if np.issubdtype(y.dtype, np.integer) else "float32")


def _on_tensorflow(keras: Any) -> bool:
    keras = importlib.import_module("keras") if keras is None else keras
    if keras.__name__ == "tf_keras":
        return True
    return keras.backend.backend() == "tensorflow"


def _augmented(
    augment: Augment, images: np.ndarray, seed: int, epoch: int, index: int
) -> np.ndarray:
    # The 1 keeps these draws apart from those of `order`: NumPy reads (seed, epoch)
    # as (seed, epoch, 0, 0).
    rng = np.random.default_rng((seed, int(epoch), 1, int(index)))
    return np.asarray(augment(images, rng), dtype=np.float32)


def _resident(tf: Any, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
    # On the host: a gather on the device would bring each batch back to tf.data.
    with tf.device("/cpu:0"):
        return tf.constant(x), tf.constant(y)


def _tf_dataset(
    x: np.ndarray, y: np.ndarray, batch_size: int, seed: int, augment: Augment | None
) -> Any:
    tf = importlib.import_module("tensorflow")
    images, labels = _resident(tf, x, y)
    steps = -(-len(x) // batch_size)
    last = (steps - 1) * batch_size

    # Python runs when a pass starts and with its last batch, not in between.
    # TensorFlow keeps these functions for ever, so they must not hold the data.
    passes, num_images = _Passes(), len(x)

    def start():
        epoch = passes.epoch
        return order(num_images, seed, epoch), np.int64(epoch)

    def finish(epoch):
        passes.epoch = int(epoch) + 1
        return np.int64(epoch)

    def change(images, epoch, index):
        assert augment is not None
        return _augmented(augment, images, seed, epoch, index)

    def begin(_):
        indices, epoch = tf.numpy_function(start, [], (tf.int32, tf.int64))
        return tf.ensure_shape(indices, [len(x)]), tf.ensure_shape(epoch, [])

    def gather(indices, index, epoch):
        chosen = tf.gather(images, indices)
        shape = chosen.shape
        if augment is None:
            chosen = tf.cast(chosen, tf.float32)
        else:
            inputs = [chosen, epoch, index]
            chosen = tf.numpy_function(change, inputs, tf.float32)
        return tf.ensure_shape(chosen, shape), tf.gather(labels, indices)

    def batches(indices, epoch):
        body = tf.reshape(indices[:last], [steps - 1, batch_size])
        body = tf.data.Dataset.from_tensor_slices(body).enumerate()
        body = body.map(
            lambda index, chosen: gather(chosen, index, epoch),
            num_parallel_calls=2,
            deterministic=True,
        ).prefetch(4)

        # Behind the prefetch, so that it runs only when the last batch is asked for:
        # whoever looks at a first batch, as Keras does to build, ends no epoch.
        def end(indices):
            done = tf.ensure_shape(tf.numpy_function(finish, [epoch], tf.int64), [])
            return gather(indices, tf.constant(steps - 1, tf.int64), done)

        return body.concatenate(tf.data.Dataset.from_tensors(indices[last:]).map(end))

    dataset = tf.data.Dataset.from_tensors(0).map(begin).flat_map(batches)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    options = tf.data.Options()
    # Its thread costs more than it can tune here: a tenth of LeNet's epoch on 2 cores.
    options.autotune.enabled = False
    dataset = dataset.with_options(options)

    class Shuffled(type(dataset)):
        epoch = property(
            lambda self: passes.epoch,
            lambda self, epoch: setattr(passes, "epoch", epoch),
        )

    dataset.__class__ = Shuffled
    return dataset


class _Passes:
    """Counts the passes of a `tf.data.Dataset`, of which iterators know nothing."""

    epoch = 0


def _py_dataset(
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
    seed: int | None,
    augment: Augment | None,
) -> Any:
    keras = importlib.import_module("keras")

    class Batches(keras.utils.PyDataset):
        """Batches by number; inside an epoch of Keras, in the order of the pass.

        `fit` asks for the batches in a random order of its own. As that would depend
        on more than seed and epoch, what it asks for first is the first batch.
        """

        def __init__(self):
            super().__init__()
            self._epoch = 0
            self._asked: int | None = None
            self._order = (-1, np.arange(0))

        @property
        def epoch(self) -> int:
            return self._epoch

        @epoch.setter
        def epoch(self, epoch: int) -> None:
            self._epoch, self._asked = epoch, None

        def __len__(self) -> int:
            return -(-len(x) // batch_size)

        def on_epoch_begin(self) -> None:
            self._asked = 0

        def on_epoch_end(self) -> None:
            # Keras looks at one batch to build, which ends no epoch. More than one
            # are an epoch that `steps_per_epoch` cut short: the next one shuffles
            # anew, or it would see the same batches again.
            if self._asked is not None and 1 < self._asked < len(self):
                self._epoch += 1
            self._asked = None

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            if not -len(self) <= index < len(self):
                raise IndexError(f"There are {len(self)} batches. Received: {index=}")
            if self._asked is None:
                return self._batch(index % len(self))
            batch = self._batch(self._asked)
            self._asked += 1
            if self._asked == len(self):
                self._asked, self._epoch = 0, self._epoch + 1
            return batch

        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            epoch = self._epoch
            for index in range(len(self)):
                if index == len(self) - 1:
                    self._epoch = epoch + 1
                yield self._batch(index, epoch)

        def _batch(self, index: int, epoch: int | None = None):
            epoch = self._epoch if epoch is None else epoch
            chosen = slice(index * batch_size, (index + 1) * batch_size)
            if seed is None:
                return x[chosen].astype(np.float32, copy=False), y[chosen]
            if self._order[0] != epoch:
                self._order = (epoch, order(len(x), seed, epoch))
            indices = self._order[1][chosen]
            images = np.take(x, indices, axis=0)
            if augment is not None:
                images = _augmented(augment, images, seed, epoch, index)
            return images.astype(np.float32, copy=False), y[indices]

    return Batches()
