"""PyDatasets: a user's batches in an order that the seed and the epoch alone decide.

`fit` shuffles the batches of a PyDataset by Python's global generator, in threads of
its own, which a search that is taken up again in another process cannot repeat.
"""

import importlib
from typing import Any

import numpy as np

from tflottery.engines import shuffling


def is_py_dataset(data: Any, keras: Any) -> bool:
    """Returns whether `data` is a PyDataset or Sequence of `keras`, and the user's."""
    return isinstance(data, keras.utils.Sequence) and not shuffling.is_ordered(data)


def reordered(data: Any, *, seed: int, keras: Any) -> Any:
    """Returns a PyDataset that gives the batches of another in an order of its own.

    Args:
        data: a PyDataset or Sequence of `keras`.
        seed: what the orders depend on, at least 0.
        keras: the module of the model to train, `keras` or `tf_keras`.

    Returns:
        A PyDataset, to be trained on unshuffled. Its attribute `epoch`, at first 0, is
        the epoch whose order it has; whoever trains on it sets it before each epoch.
    """

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
            return len(data) if hasattr(data, "__len__") else data.num_batches

        def __getitem__(self, index: int) -> Any:
            wanted, (known, order) = (len(self), seed, self.epoch), self._last
            if wanted != known:
                order = shuffling.order(*wanted)
                self._last = wanted, order
            return data[int(order[index])]

        def on_epoch_begin(self) -> None:
            data.on_epoch_begin()

        def on_epoch_end(self) -> None:
            data.on_epoch_end()

        def __reduce__(self) -> Any:  # For processes that read ahead.
            return _again, (data, seed, keras.__name__, self.epoch)

    return Ordered()


def _again(data: Any, seed: int, keras: str, epoch: int) -> Any:
    same = reordered(data, seed=seed, keras=importlib.import_module(keras))
    same.epoch = epoch
    return same
