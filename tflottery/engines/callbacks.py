"""Callbacks: what `fit` reports to a search, and which of two metrics is better."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tflottery.engines import network

# The ends of metrics' names that tell their direction where Keras cannot.
_MORE_IS_BETTER = ("acc", "accuracy", "auc", "precision", "recall", "score", "iou")
_LESS_IS_BETTER = ("loss", "error", "mae", "mse", "mape", "msle", "crossentropy")


def checked(callbacks: Any, keras: Any) -> list[Any]:
    """Returns the callbacks as a list.

    Raises:
        TypeError: If they are not callbacks of `keras`, the module of the model.
    """
    kind = keras.callbacks.Callback
    if not isinstance(callbacks, list | tuple) or not all(
        isinstance(callback, kind) for callback in callbacks
    ):
        raise TypeError(
            f"`callbacks` must be a list of {keras.__name__}.callbacks.Callback. "
            f"Received: callbacks={callbacks!r}"
        )
    return list(callbacks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions that `Engine.fit` calls.

    Attributes:
        on_epoch: Called after each epoch with its number and its logs.
        on_begin: Called when the training begins, or `None`.
        on_step: Called once, when the optimizer has taken `at_step` steps, or `None`.
        at_step: The step to wait for.
    """

    on_epoch: Callable[[int, dict[str, float]], Any]
    on_begin: Callable[[], Any] | None = None
    on_step: Callable[[], Any] | None = None
    at_step: int = 0


def hooked(keras: Any, hooks: Hooks) -> Any:
    """Returns a callback of `keras` that calls the hooks."""

    on_begin, on_step = hooks.on_begin, hooks.on_step

    class Hooked(keras.callbacks.Callback):
        def _step(self):
            # On JAX, `self.model` first brings the model's variables up to date.
            return int(network.value_of(self.model.optimizer.iterations))

        if on_begin is not None:

            def on_train_begin(self, logs=None):
                on_begin()

        if on_step is not None:

            def on_epoch_begin(self, epoch, logs=None):
                self._before = self._step()

            def on_train_batch_end(self, batch, logs=None):
                # `batch` is too high if the epoch ended within an execution.
                near = self._before < hooks.at_step <= self._before + batch + 1
                if near and self._step() == hooks.at_step:
                    on_step()

        def on_epoch_end(self, epoch, logs=None):
            self._step()
            hooks.on_epoch(epoch, as_numbers(logs or {}))

    return Hooked()


def as_numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Returns what `fit` or `evaluate` logged, by name, as plain numbers.

    Raises:
        ValueError: If a metric is not one number. It names the metric.
    """
    for name, value in logs.items():
        shape = tuple(getattr(value, "shape", ()))
        if shape:
            raise ValueError(
                f"The metric {name!r} is not one number, but an array of shape "
                f"{shape}, so tickets cannot be judged by it. Give it an average, as "
                'in F1Score(average="macro"), or leave it out of `compile`.'
            )
    return {name: float(value) for name, value in logs.items()}


def better(model: Any, keras: Any, monitor: str) -> Callable[[float, float], bool]:
    """Returns the function `(a, b) -> bool` that tells if one metric beats another.

    It decides as EarlyStopping does. Keras 3 cannot tell the direction of the metrics
    of several outputs, of a custom `train_step` and of plain functions; then the name
    decides.

    Raises:
        ValueError: If the name does not tell either.
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
        f"It is not clear whether more or less of `monitor` {monitor!r} is better. "
        "Choose another metric, or give yours a name that ends in 'accuracy' or 'loss'."
    )


def batch_counter(keras: Any) -> Any:
    """Returns a callback that counts an epoch's batches, and each as one step.

    Executions must be of one batch. If Keras on TensorFlow does not know that a batch
    is the last one, it begins another step, which updates nothing, but which the
    optimizer may have counted.
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
