"""Callbacks: what happens at a step, or in an epoch, of a `fit`."""

from collections.abc import Callable
from typing import Any

from tflottery.engines import network


def at_step(
    keras: Any, now: Callable[[], int], step: int, function: Callable[[], Any]
) -> Any:
    """Returns a callback that calls `function` once `now()` returns `step`."""

    class AtStep(keras.callbacks.Callback):
        def _step(self):
            _ = self.model  # On JAX, brings the model's variables up to date.
            return now()

        def on_epoch_begin(self, epoch, logs=None):
            self._before = self._step()

        def on_train_batch_end(self, batch, logs=None):
            # `batch` is too high if the epoch ended within an execution.
            near = self._before < step <= self._before + batch + 1
            if near and self._step() == step:
                function()

    return AtStep()


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
