"""Ordered: arrays as shuffled batches whose order the seed and the epoch alone decide.

Keras shuffles arrays by what its global generators have drawn so far, which a search
that is taken up again in another process cannot know.
"""

import importlib
from typing import Any

import numpy as np

_BATCH = 32


def ordered(data: Any, seed: int, keras: Any) -> Any:
    """Returns `(x, y)` or `(x, y, sample_weight)` arrays as batches of 32, for `fit`.

    Args:
        data: arrays of one length, or dicts, lists and tuples of them.
        seed: what the orders depend on, at least 0.
        keras: the module of the model to train, `keras` or `tf_keras`.

    Returns:
        A `tf.data.Dataset`, or where TensorFlow is not the backend a
        `keras.utils.PyDataset`; both with the attribute `epoch`, whose order the next
        pass takes, and which counts up with every whole pass. Data that is not NumPy's
        is returned as it is.
    """
    kinds: list[type] = []
    tree = _map(lambda a: kinds.append(type(a)) or a, data)
    if not all(issubclass(kind, np.ndarray) for kind in kinds):
        return data
    floats = keras.backend.floatx()
    tree = _map(
        lambda a: a.astype(floats, copy=False) if a.dtype.kind == "f" else a, tree
    )
    count = len(_first(tree))
    if keras.__name__ == "tf_keras" or keras.backend.backend() == "tensorflow":
        return _tf_dataset(tree, count, seed)
    return _py_dataset(keras, tree, count, seed)


def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the examples in an epoch: [count] int64.

    >>> order(5, seed=0, epoch=3)
    array([3, 0, 2, 1, 4])
    """
    return np.random.default_rng((seed, int(epoch))).permutation(count)


def _map(function: Any, tree: Any) -> Any:
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {name: _map(function, value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return tuple(_map(function, value) for value in tree)
    return function(tree)


def _first(tree: Any) -> Any:
    while isinstance(tree, dict | tuple):
        tree = next(iter(tree.values() if isinstance(tree, dict) else tree))
    return tree


class _Passes:
    """Counts whole passes."""

    epoch = 0


def _tf_dataset(tree: Any, count: int, seed: int) -> Any:
    tf = importlib.import_module("tensorflow")
    with tf.device("/cpu:0"):
        tensors = _map(tf.constant, tuple(part for part in tree if part is not None))
    steps = -(-count // _BATCH)
    last = (steps - 1) * _BATCH
    # TensorFlow keeps these functions for ever, so they must not hold the data.
    passes = _Passes()

    def start():
        return order(count, seed, passes.epoch).astype(np.int64), np.int64(passes.epoch)

    def finish(epoch):
        passes.epoch = int(epoch) + 1
        return np.int64(epoch)

    def gather(indices):
        return _map(lambda tensor: tf.gather(tensor, indices), tensors)

    def begin(_):
        indices, epoch = tf.numpy_function(start, [], (tf.int64, tf.int64))
        return tf.ensure_shape(indices, [count]), tf.ensure_shape(epoch, [])

    def batches(indices, epoch):
        body = tf.data.Dataset.from_tensor_slices(
            tf.reshape(indices[:last], [steps - 1, _BATCH])
        )
        body = body.map(gather, num_parallel_calls=2, deterministic=True).prefetch(4)

        # Behind the prefetch: whoever looks at a first batch alone ends no pass.
        def end(indices):
            done = tf.numpy_function(finish, [epoch], tf.int64)
            with tf.control_dependencies([done]):
                return gather(tf.identity(indices))

        return body.concatenate(tf.data.Dataset.from_tensors(indices[last:]).map(end))

    dataset = tf.data.Dataset.from_tensors(0).map(begin).flat_map(batches)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = dataset.with_options(options)

    class Ordered(type(dataset)):
        epoch = property(
            lambda self: passes.epoch,
            lambda self, epoch: setattr(passes, "epoch", epoch),
        )

    dataset.__class__ = Ordered
    return dataset


def _py_dataset(keras: Any, tree: Any, count: int, seed: int) -> Any:
    class Ordered(keras.utils.PyDataset):
        epoch = 0
        _order = (-1, np.arange(0))

        def __len__(self) -> int:
            return -(-count // _BATCH)

        def __getitem__(self, index: int) -> Any:
            epoch = self.epoch
            if self._order[0] != epoch:
                self._order = (epoch, order(count, seed, epoch))
            if index == len(self) - 1:
                self.epoch = epoch + 1
            chosen = self._order[1][index * _BATCH : (index + 1) * _BATCH]
            return _map(lambda array: array[chosen], tree)

    return Ordered()
