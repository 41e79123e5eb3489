"""Shuffling: batches in an order that depends on the seed and the epoch alone.

Keras shuffles with global random generators. A search that resumes in another process
cannot know what they had drawn, so it could not train on the same batches again.
"""

import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tflottery.engines.data import FitSettings, arrays_in, map_arrays, steps_per_epoch

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def order(
    num_examples: int, seed: int, epoch: int, length: int | None = None
) -> np.ndarray:
    """Returns the order of the examples in an epoch, int64.

    It depends only on the arguments, not on the backend or on earlier epochs.

    Args:
        num_examples: Number of examples.
        seed: Random seed, at least 0.
        epoch: Number of the epoch, at least 0.
        length: Examples in an epoch, if that is not a pass over all of them: the
            epochs are then cut from an endless series of shuffled passes.

    >>> order(5, seed=0, epoch=3)
    array([3, 0, 2, 1, 4])
    >>> order(5, seed=0, epoch=5, length=3)
    array([3, 0, 2])
    """
    if length is None:
        return np.random.default_rng((seed, int(epoch))).permutation(num_examples)
    first = int(epoch) * length
    passes = range(first // num_examples, -(-(first + length) // num_examples))
    indices = np.concatenate([order(num_examples, seed, p) for p in passes])
    return indices[first % num_examples :][:length]


def batches(
    arrays: Any,
    *,
    seed: int,
    keras: Any,
    batch_size: int = 32,
    augment: Augment | None = None,
    steps: int | None = None,
) -> Any:
    """Returns in-memory arrays as shuffled batches for `fit`.

    Args:
        arrays: `(x, y)` or `(x, y, sample_weight)`: NumPy arrays of equal length, or
            dicts, lists and tuples of them.
        seed: Random seed, at least 0.
        keras: The module of the model to train, `keras` or `tf_keras`.
        batch_size: Number of examples per batch; the last batch may be smaller.
        augment: `(x, rng) -> x`, float32 NumPy in and out, called on every batch with
            a generator that depends only on the seed, the epoch and the batch.
        steps: Number of batches per epoch; `None` is one pass over the examples.

    Returns:
        A `tf.data.Dataset` for tf_keras and for Keras on TensorFlow, otherwise a
        `keras.utils.PyDataset`. Its attribute `epoch` starts at 0 and says whose order
        the next pass uses. Handing out the last batch of a pass adds 1.
    """
    floats = keras.backend.floatx()
    arrays = map_arrays(
        lambda a: a.astype(floats, copy=False) if a.dtype.kind == "f" else a, arrays
    )
    if keras.__name__ == "tf_keras" or keras.backend.backend() == "tensorflow":
        return _tf_dataset(arrays, batch_size, seed, augment, steps)
    return _py_dataset(keras, arrays, batch_size, seed, augment, steps)


def seeded(data: Any, settings: FitSettings, *, seed: int, keras: Any) -> Any:
    """Returns data in an order that `seed` decides, where that can be done.

    These are NumPy arrays and the user's own PyDataset, if they are to be shuffled;
    anything else comes back as it is.
    """
    if settings.shuffle is not True:
        return data
    if isinstance(data, tuple | list):
        if all(isinstance(array, np.ndarray) for array in arrays_in(data)):
            return batches(
                data,
                seed=seed,
                keras=keras,
                batch_size=settings.batch_size or 32,
                steps=settings.steps_per_epoch,
            )
        return data
    if (
        isinstance(data, keras.utils.Sequence)
        and not is_ordered(data)
        and steps_per_epoch(data) is not None
    ):
        return reordered(data, seed=seed, keras=keras, steps=settings.steps_per_epoch)
    return data


def is_ordered(data: Any) -> bool:
    """Returns whether `data` came from `batches` or `reordered`."""
    return getattr(type(data), "_of_tflottery", False) is True


def generator(seed: int, epoch: int, batch: int) -> np.random.Generator:
    """Returns the generator that augments a batch of an epoch."""
    # NumPy reads the seed (seed, epoch) of `order` as (seed, epoch, 0, 0): the 1 makes
    # this generator a different one.
    return np.random.default_rng((seed, int(epoch), 1, int(batch)))


def _augmented(
    augment: Augment, x: np.ndarray, seed: int, epoch: int, index: int
) -> np.ndarray:
    return np.asarray(augment(x, generator(seed, epoch, index)), dtype=np.float32)


def _tf_dataset(
    arrays: Any,
    batch_size: int,
    seed: int,
    augment: Augment | None,
    steps: int | None,
) -> Any:
    tf = importlib.import_module("tensorflow")
    # On the host: a gather on the device would bring each batch back to tf.data.
    with tf.device("/cpu:0"):
        given = tuple(part for part in arrays if part is not None)
        tensors = tf.nest.map_structure(tf.constant, given)
    count = len(tf.nest.flatten(tensors)[0])
    length = steps * batch_size if steps else None
    steps = steps or -(-count // batch_size)
    last = (steps - 1) * batch_size

    # Python runs at the start of a pass and for its last batch, not in between.
    # TensorFlow never frees these functions, so they must not refer to the data.
    passes = types.SimpleNamespace(epoch=0)

    def start():
        indices = order(count, seed, passes.epoch, length)
        return indices, np.int64(passes.epoch)

    def finish(epoch):
        passes.epoch = int(epoch) + 1
        return np.int64(epoch)

    def change(x, epoch, index):
        assert augment is not None
        return _augmented(augment, x, seed, epoch, index)

    def begin(_):
        indices, epoch = tf.numpy_function(start, [], (tf.int64, tf.int64))
        return tf.ensure_shape(indices, [length or count]), tf.ensure_shape(epoch, [])

    def gather(indices, index, epoch):
        x, *others = tf.nest.map_structure(lambda t: tf.gather(t, indices), tensors)
        if augment is not None:
            shape = x.shape
            x = tf.numpy_function(change, [x, epoch, index], tf.float32)
            x = tf.ensure_shape(x, shape)
        return x, *others

    def one_pass(indices, epoch):
        body = tf.reshape(indices[:last], [steps - 1, batch_size])
        body = tf.data.Dataset.from_tensor_slices(body).enumerate()
        body = body.map(
            lambda index, chosen: gather(chosen, index, epoch),
            num_parallel_calls=2,
            deterministic=True,
        ).prefetch(4)

        # After the prefetch, so that it runs only when the last batch is requested:
        # Keras reads a first batch to build the model, which must not end the pass.
        def end(indices):
            done = tf.ensure_shape(tf.numpy_function(finish, [epoch], tf.int64), [])
            with tf.control_dependencies([done]):
                indices = tf.identity(indices)
            return gather(indices, tf.constant(steps - 1, tf.int64), done)

        return body.concatenate(tf.data.Dataset.from_tensors(indices[last:]).map(end))

    dataset = tf.data.Dataset.from_tensors(0).map(begin).flat_map(one_pass)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    options = tf.data.Options()
    # The autotuning thread costs a tenth of LeNet's epoch on 2 cores and gains nothing.
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.with_options(options)

    class Ordered(type(dataset)):
        _of_tflottery = True
        epoch = property(
            lambda self: passes.epoch,
            lambda self, epoch: setattr(passes, "epoch", epoch),
        )

    dataset.__class__ = Ordered
    return dataset


def _py_dataset(
    keras: Any,
    arrays: Any,
    batch_size: int,
    seed: int,
    augment: Augment | None,
    steps: int | None,
) -> Any:
    count = len(arrays_in(arrays)[0])
    length = steps * batch_size if steps else None

    class Ordered(keras.utils.PyDataset):
        """Batches by index; within an epoch of `fit`, in the order of the requests.

        `fit` requests the batches in a random order of its own, which depends on more
        than the seed and the epoch. So its n-th request gets the n-th batch.
        """

        _of_tflottery = True

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
            return steps or -(-count // batch_size)

        def on_epoch_begin(self) -> None:
            self._asked = 0

        def on_epoch_end(self) -> None:
            # Keras reads one batch to build the model; that is no epoch. If it read
            # several, `steps_per_epoch` cut the epoch short, and the next one must be
            # shuffled again, or it would train on the same batches.
            if self._asked is not None and 1 < self._asked < len(self):
                self._epoch += 1
            self._asked = None

        def __getitem__(self, index: int) -> Any:
            if not -len(self) <= index < len(self):
                raise IndexError(f"There are {len(self)} batches. Received: {index=}")
            if self._asked is None:
                return self._batch(index % len(self), self._epoch)
            batch = self._batch(self._asked, self._epoch)
            self._asked += 1
            if self._asked == len(self):
                self._asked, self._epoch = 0, self._epoch + 1
            return batch

        def __iter__(self) -> Iterator[Any]:
            epoch = self._epoch
            for index in range(len(self)):
                if index == len(self) - 1:
                    self._epoch = epoch + 1
                yield self._batch(index, epoch)

        def _batch(self, index: int, epoch: int) -> Any:
            if self._order[0] != epoch:
                self._order = (epoch, order(count, seed, epoch, length))
            indices = self._order[1][index * batch_size : (index + 1) * batch_size]
            x, *others = map_arrays(
                lambda array: np.take(array, indices, axis=0), arrays
            )
            if augment is not None:
                x = _augmented(augment, x, seed, epoch, index)
            return x, *others

    return Ordered()


def reordered(data: Any, *, seed: int, keras: Any, steps: int | None = None) -> Any:
    """Returns the user's PyDataset with its batches in a reproducible order.

    `fit` itself shuffles a PyDataset with Python's global generator, in other threads.
    The arguments are as for `batches`. The attribute `epoch` of what is returned
    decides the order; the caller sets it before each epoch.
    """

    def count() -> int:  # It may change from one epoch to the next.
        return steps_per_epoch(data) or 0

    class Ordered(keras.utils.Sequence):
        _of_tflottery = True

        def __init__(self):
            if keras.__name__ != "tf_keras":
                super().__init__(
                    workers=data.workers,
                    use_multiprocessing=data.use_multiprocessing,
                    max_queue_size=data.max_queue_size,
                )
            self.epoch = 0
            self._last: tuple[Any, np.ndarray] = (None, np.arange(0))

        def __len__(self) -> int:
            return steps or count()

        def __getitem__(self, index: int) -> Any:
            wanted = (count(), seed, self.epoch, steps)
            known, indices = self._last
            if wanted != known:
                indices = order(*wanted)
                self._last = wanted, indices
            return data[int(indices[index])]

        def on_epoch_begin(self) -> None:
            data.on_epoch_begin()

        def on_epoch_end(self) -> None:
            data.on_epoch_end()

        def __reduce__(self) -> Any:  # For worker processes.
            return _reordered_at, (data, seed, keras.__name__, self.epoch, steps)

    return Ordered()


def _reordered_at(
    data: Any, seed: int, keras: str, epoch: int, steps: int | None
) -> Any:
    module = importlib.import_module(keras)
    view = reordered(data, seed=seed, keras=module, steps=steps)
    view.epoch = epoch
    return view
