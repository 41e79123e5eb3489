"""Data: what `fit` takes, looked at before a long search starts.

Serves Keras 3 and tf_keras alike; `keras` is always the module a model belongs to.
"""

import contextlib
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.engines import network
from tflottery.engines.shuffling import arrays_in, is_ordered


def as_arguments(data: Any, *, fit: bool = False) -> dict[str, Any]:
    """Returns the arguments that `fit` (or `evaluate`) takes data by."""
    if isinstance(data, (tuple, list)):
        return dict(zip(("x", "y", "sample_weight"), data, strict=False))
    # Keras warns where it is asked to shuffle a tf.data.Dataset.
    ordered = _is_tf(data) or is_ordered(data)
    return {"x": data, "shuffle": False} if fit and ordered else {"x": data}


def _is_tf(data: Any) -> bool:
    return hasattr(data, "element_spec")


def check(name: str, data: Any) -> None:
    """Checks that a dataset is one that `fit` can take again and again, and ends.

    Args:
        name: the argument's name, for the error.
        data: `(x, y)` or `(x, y, sample_weight)` arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or another object that `fit` can re-iterate.

    Raises:
        ValueError: where it is empty, endless, can be read only once, or its arrays
            are none or differ in length.
    """
    if isinstance(data, (tuple, list)):
        if len(data) not in (2, 3):
            raise ValueError(
                f"`{name}` must be (x, y) or (x, y, sample_weight) arrays, a dataset "
                f"or a PyDataset. Received a {type(data).__name__} of {len(data)}."
            )
        for part, value in zip(("x", "y", "sample_weight"), data, strict=False):
            _check_arrays(name, part, value)
        lengths = [len(leaf) for part in data for leaf in arrays_in(part)]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"The arrays in `{name}` must have one length. Received the lengths: "
                f"{', '.join(map(str, lengths))}."
            )
        if lengths[0] == 0:
            raise ValueError(f"`{name}` is empty: its arrays have the length 0.")
        return
    if hasattr(data, "__next__"):
        raise ValueError(
            f"`{name}` is a generator or iterator, which can be read only once, but "
            "every round reads it anew. Make it a tf.data.Dataset, a "
            f"keras.utils.PyDataset or arrays. Received: {data!r}"
        )
    if hasattr(data, "cardinality"):
        count = int(data.cardinality())
        if count == -1:
            raise ValueError(
                f"`{name}` is endless, so an epoch never ends. Drop its `.repeat()`, "
                "or end it with `.take(steps_per_epoch)`."
            )
    elif hasattr(data, "num_batches") and data.num_batches is None:
        raise ValueError(
            f"`{name}` is endless, so an epoch never ends: its `num_batches` is None. "
            "Give it a `__len__`."
        )
    elif (
        isinstance(data, Mapping | str | bytes)
        or getattr(data, "shape", None) == ()
        or (not hasattr(data, "__len__") and not hasattr(data, "__iter__"))
    ):
        raise ValueError(
            f"`{name}` must be (x, y) arrays, a tf.data.Dataset or a "
            "keras.utils.PyDataset. Received: "
            f"{reprlib.repr(data)} of type {type(data).__name__}"
        )
    if steps_per_epoch(data) == 0:
        raise ValueError(f"`{name}` is empty: it has no batch.")


def _check_arrays(name: str, part: str, value: Any) -> None:
    """Checks that x, y or sample weights are arrays with a row for each example."""
    leaves = arrays_in(value)
    if all(map(_is_array, leaves)) and (leaves or part != "x"):
        return
    listed = isinstance(value, list | tuple)
    received = f"a list of {len(value)}" if listed else reprlib.repr(value)
    raise ValueError(
        f"`{name}` must hold arrays, with a row for each example. Convert lists and "
        f'objects by `np.asarray(..., "float32")`. Received as {part}: {received}'
    )


def _is_array(leaf: Any) -> bool:
    """Returns whether a leaf has rows, of numbers or of texts."""
    if len(getattr(leaf, "shape", ())) == 0:
        return False
    if getattr(leaf, "dtype", None) != np.dtype(object):
        return True
    first = np.asarray(leaf[:1]).reshape(-1)[:1]
    return all(isinstance(item, str | bytes) for item in first)


def steps_per_epoch(data: Any, batch_size: int = 32) -> int | None:
    """Returns the number of batches in an epoch; `None` where that is not known."""
    if isinstance(data, (tuple, list)):
        return math.ceil(len(arrays_in(data[0])[0]) / batch_size)
    if hasattr(data, "cardinality"):
        count = int(data.cardinality())
        return count if count >= 0 else None
    if hasattr(data, "num_batches"):
        return data.num_batches
    return len(data) if hasattr(data, "__len__") else None


def execution_that_ends_at(step: int, steps: int | None, wanted: int) -> int:
    """Returns the steps per execution, near `wanted`, after which `step` can be seen.

    Where the steps of an epoch are not known (`None`), an execution may end early with
    any epoch, so that only single steps are sure to meet `step`.

    >>> execution_that_ends_at(0, 100, 20), execution_that_ends_at(150, 100, 20)
    (20, 10)
    >>> execution_that_ends_at(150, None, 20)
    1
    """
    if steps is None and step > 0:
        return 1
    inside = step % steps if steps else step
    return max(d for d in range(1, wanted + 1) if inside % d == 0)


def first_batch(data: Any, name: str = "ds") -> tuple[Any, Any]:
    """Returns `(x, y)` of the first batch, or all of arrays; `name` is for errors."""
    if not isinstance(data, (tuple, list)):
        batch = data[0] if hasattr(data, "__getitem__") else next(iter(data), None)
        if batch is None:
            raise ValueError(
                f"`{name}` yields no batch. Is everything filtered away, or is there "
                "no file where it reads?"
            )
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            what = f"{type(batch).__name__}"
            if isinstance(batch, (tuple, list)):
                what += f" of {len(batch)}"
            raise ValueError(
                f"`{name}` must yield (x, y) batches: a ticket is judged by how well "
                f"the model learns y. It yields: {what}"
            )
        data = batch
    return data[0], data[1]


def shape_of_examples(data: Any) -> tuple[Any, ...] | None:
    """Returns the shape of one example, or `None` where that cannot be told unread.

    >>> shape_of_examples(np.zeros((5, 28, 28, 1)))
    (28, 28, 1)
    """
    spec = getattr(data, "element_spec", None)
    if spec is not None:
        x = spec[0] if isinstance(spec, tuple) else spec
    elif hasattr(data, "__getitem__") and not hasattr(data, "shape"):
        if not isinstance(data, dict | list | tuple):  # A PyDataset or a Sequence.
            data = data[0][0]
        x = data
    else:
        x = data
    try:
        shape = getattr(x, "shape", None)
        return None if shape is None else tuple(shape)[1:]
    except ValueError:  # A TensorFlow shape of no known rank.
        return None


def make_callback(
    keras: Any,
    *,
    at_step: int = 0,
    on_step: Callable[[], Any] | None = None,
    on_epoch: Callable[[int, dict], Any] | None = None,
    on_begin: Callable[[], Any] | None = None,
) -> Any:
    """Returns a callback of `keras` that calls plain functions.

    Args:
        keras: the module whose `Callback` it is.
        at_step: the optimizer step after which `on_step()` is called, once.
        on_step: a function, or `None`.
        on_epoch: a function of the epoch and its logs, or `None`.
        on_begin: a function called as the training begins, or `None`.
    """

    step_call = on_step or (lambda: None)
    epoch_call = on_epoch or (lambda epoch, logs: None)
    begin_call = on_begin or (lambda: None)

    class Calls(keras.callbacks.Callback):
        def _step(self):
            # On JAX `self.model` brings the model's variables up to date, which
            # otherwise happens only at the end of an epoch.
            return int(network.value_of(self.model.optimizer.iterations))

        if on_begin is not None:

            def on_train_begin(self, logs=None):
                begin_call()

        if on_step is not None:

            def on_epoch_begin(self, epoch, logs=None):
                self._before = self._step()

            def on_train_batch_end(self, batch, logs=None):
                # `batch` is too high where the epoch ended within an execution.
                near = self._before < at_step <= self._before + batch + 1
                if near and self._step() == at_step:
                    step_call()

        if on_epoch is not None:

            def on_epoch_end(self, epoch, logs=None):
                self._step()
                epoch_call(epoch, as_numbers(logs or {}))

    return Calls()


def as_numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Returns what `fit` or `evaluate` logged, by name, as plain numbers.

    Raises:
        ValueError: naming the metric that is not one number.
    """
    for name, value in logs.items():
        shape = tuple(getattr(value, "shape", ()))
        if shape:
            raise ValueError(
                f"The metric {name!r} is not one number, but an array of shape "
                f"{shape}, by which no ticket can be judged. Give it an average, as "
                'F1Score(average="macro"), or leave it out of `compile`.'
            )
    return {name: float(value) for name, value in logs.items()}


def better(model: Any, keras: Any, monitor: str) -> Callable[[float, float], bool]:
    """Returns whether one value of a metric beats another, as `(a, b) -> bool`.

    It is told as EarlyStopping tells it, and where Keras 3 cannot (the metrics of
    several outputs, of a `train_step` of the user's own, plain functions) by the name.

    Raises:
        ValueError: where the name does not tell either.
    """
    probe = keras.callbacks.EarlyStopping(monitor=monitor)
    probe.set_model(model)
    if probe.monitor_op is None:  # Keras 3 asks the model's metrics, later.
        with contextlib.suppress(ValueError):
            probe._set_monitor_op()
    if probe.monitor_op is not None:
        return lambda a, b: bool(probe.monitor_op(a, b))
    name = monitor.lower()
    if name.endswith(_MORE_IS_BETTER):
        return lambda a, b: a > b
    if name.endswith(_LESS_IS_BETTER):
        return lambda a, b: a < b
    raise ValueError(
        f"`monitor` {monitor!r} does not tell whether more of it is better. Choose "
        "another metric, or give yours a name that ends in 'accuracy' or 'loss'."
    )


_MORE_IS_BETTER = ("acc", "accuracy", "auc", "precision", "recall", "score", "iou")
_LESS_IS_BETTER = ("loss", "error", "mae", "mse", "mape", "msle", "crossentropy")


def batch_counter(keras: Any) -> Any:
    """Returns a callback that counts an epoch's batches, and each as one step.

    Executions must be of one batch. Where Keras on TensorFlow does not know that a
    batch is the last, it begins another step, whose update comes to nothing, but which
    the optimizer may have counted.
    """

    class Counter(keras.callbacks.Callback):
        batches = 0

        def _steps(self) -> Any:
            optimizer = self.model.optimizer
            return getattr(optimizer, "inner_optimizer", optimizer)._iterations

        def on_train_batch_end(self, batch, logs=None):
            self.batches = batch + 1
            self.steps = int(network.value_of(self._steps()))

        def on_epoch_end(self, epoch, logs=None):
            if int(network.value_of(self._steps())) != self.steps:
                self._steps().assign(self.steps)

    return Counter()
