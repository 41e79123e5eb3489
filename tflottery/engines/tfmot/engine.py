"""The engine for tf_keras: masks in tfmot's wrapper, held by variables' constraints.

The wrappers share the layers of the caller's model. What trains is therefore that
model itself, with its own `train_step` and callbacks, and it never has to be unwrapped.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tflottery import masks as masks_lib
from tflottery.engines import data as data_lib
from tflottery.engines import defaults, network
from tflottery.engines.tfmot import held
from tflottery.engines.tfmot import state as state_lib
from tflottery.engines.tfmot.imported import tf_keras
from tflottery.engines.tfmot.schedule import LotterySchedule
from tflottery.engines.tfmot.wrapper import HeldLowMagnitude, unwrap, wrap
from tflottery.masks import Masks
from tflottery.tickets import Ticket

_STEPS_PER_EXECUTION = 20


class TfmotEngine:
    """Trains a tf_keras model for a search; see `engines.Engine`.

    Attributes:
        model: the caller's model; where that holds tfmot's wrappers, one without them
            that shares its layers.
        prunable: the variables that can be pruned, by path.
    """

    prunable: Mapping[str, Any]

    def __init__(self, model: Any):
        network.variables(model)  # Fails where it is not built.
        self.model = unwrap(model)
        self.prunable = network.prunable(self.model, tf_keras)
        self._variables = network.variables(self.model)
        self._masks: dict[str, Any] = {}
        self._wrappers: list[HeldLowMagnitude] = []
        self._given_steps_per_execution: int | None = None
        self._later_steps_per_execution = 1

    def prepare(self, data: Any, *, rewind_step: int, callbacks: Any) -> list[str]:
        told = []
        if not self.model._is_compiled:
            told.append(defaults.compile_default(self.model, tf_keras, data))
        defaults.check_labels(self.model, data)
        state_lib.build_optimizer(self.model)
        given = int(self.model.steps_per_execution.numpy())
        steps = data_lib.steps_per_epoch(data)
        self._given_steps_per_execution = later = given
        if (
            given == 1
            and not self.model.run_eagerly
            and not self.model.autotune_steps_per_execution
            and not any(map(_wants_batches, callbacks))
            # tf_keras loses batches where it cannot tell an epoch's last execution.
            and steps is not None
            # TensorFlow cannot merge replicas inside a loop.
            and self.model.distribute_strategy.num_replicas_in_sync == 1
        ):
            later = _STEPS_PER_EXECUTION
        self._later_steps_per_execution = later
        # Step k is seen only where an execution ends at it.
        first = data_lib.execution_that_ends_at(rewind_step, steps, later)
        self._set_steps_per_execution(first)
        return told

    def _set_steps_per_execution(self, steps: int) -> None:
        before = int(self.model.steps_per_execution.numpy())
        self.model.steps_per_execution = steps
        # A step of one batch and one of several are traced apart.
        if (before == 1) != (steps == 1):
            self.model.train_function = None
            self.model.train_tf_function = None
            self.model.test_function = None

    def weights(self) -> dict[str, np.ndarray]:
        return network.read(self._variables)

    def step(self) -> int:
        return int(network.value_of(self.model.optimizer.iterations))

    def state(self) -> dict[str, np.ndarray]:
        return state_lib.capture(self.model)

    def restore(
        self, state: Mapping[str, np.ndarray], *, parts: tuple[str, ...]
    ) -> None:
        state_lib.restore(self.model, state, parts)

    def hold(self, masks: Masks) -> None:
        if not self._masks:
            self._wrap(masks)
            held.hold_averages(held.optimizer_of(self.model))
            # The step was traced without the masks.
            held.trace_anew(self.model)
        for wrapper in self._wrappers:
            wrapper.pruning_schedule = self._schedule(masks)
        for path, mask in masks.items():
            self._masks[path].assign(mask.astype(self._masks[path].dtype.name))
        held.cut_now(self.model, self._variables, masks)

    def _wrap(self, masks: Masks) -> None:
        """Wraps the layers that tfmot knows; other variables are held without."""
        wanted = {id(self._variables[path]): path for path in masks}
        schedule = self._schedule(masks)
        with held.scope(self.model):
            for layer in network.all_layers(self.model):
                weights = network.prunable_of(layer, tf_keras)
                if not weights or any(id(w) not in wanted for w in weights):
                    continue
                wrapper = wrap(layer, schedule)
                if wrapper is None:
                    continue
                self._wrappers.append(wrapper)
                for weight, mask, _ in wrapper.pruning_vars:
                    self._masks[wanted[id(weight)]] = mask
            for path in masks:
                if path not in self._masks:
                    variable = self._variables[path]
                    self._masks[path] = held.mask_variable(variable)
                    held.constrain(variable, self._masks[path])

    def _schedule(self, masks: Masks) -> LotterySchedule:
        """Returns what is held now in tfmot's words: one pruning, to this sparsity."""
        return LotterySchedule(
            rounds=1,
            steps_per_round=max(1, self.step()),
            target_sparsity=masks_lib.sparsity(masks) or None,
        )

    def fit(
        self,
        data: Any,
        *,
        validation_data: Any,
        epochs: int,
        initial_epoch: int,
        callbacks: list,
        verbose: int,
    ) -> dict[str, list[float]]:
        if (
            validation_data is not None
            and data_lib.steps_per_epoch(validation_data) is None
        ):
            # tf_keras refuses to execute steps together where it cannot count them.
            self._later_steps_per_execution = self._given_steps_per_execution or 1
            self._set_steps_per_execution(self._later_steps_per_execution)
        history = self.model.fit(
            **data_lib.as_arguments(data, fit=True),
            validation_data=validation_data,
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=callbacks,
            verbose=verbose,
        )
        self._set_steps_per_execution(self._later_steps_per_execution)
        return {
            name: [float(value) for value in values]
            for name, values in history.history.items()
        }

    def evaluate(self, data: Any) -> dict[str, float]:
        logs = self.model.evaluate(
            **data_lib.as_arguments(data), return_dict=True, verbose=0
        )
        return {name: float(value) for name, value in logs.items()}

    def callback(self, **calls: Any) -> Any:
        return data_lib.make_callback(tf_keras, **calls)

    def stop(self) -> None:
        self.model.stop_training = True

    def stopped(self) -> bool:
        return bool(self.model.stop_training)

    def better(self, monitor: str) -> Any:
        return data_lib.better(self.model, tf_keras, monitor)

    def describe(self) -> dict[str, Any]:
        return data_lib.describe(self.model, tf_keras)

    def is_chief(self) -> bool:
        return network.is_chief(self.model)

    def leave(self) -> None:
        held.release(self.model)
        if self._given_steps_per_execution is not None:
            self._set_steps_per_execution(self._given_steps_per_execution)

    def finish(self, ticket: Ticket) -> Any:
        self._set_steps_per_execution(self._given_steps_per_execution or 1)
        held.hold_through_compile(self.model)
        self.model.ticket = ticket
        return self.model


def _wants_batches(callback: Any) -> bool:
    """Returns whether a callback asks to be called for each single batch."""
    asks = getattr(callback, "_implements_train_batch_hooks", None)
    return asks is None or bool(asks())
