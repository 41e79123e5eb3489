"""The engine for tf_keras: masks in tfmot's wrapper, held by variables' constraints.

The wrappers share the layers of the caller's model. What trains is therefore that
model itself, with its own `train_step` and callbacks, and it never has to be unwrapped.
"""

from typing import Any

import numpy as np

from tflottery.core import masks as masks_lib
from tflottery.core.masks import Masks
from tflottery.engines import compiling, network
from tflottery.engines import data as data_lib
from tflottery.engines.engine import Engine, State
from tflottery.engines.tfmot import held
from tflottery.engines.tfmot import state as state_lib
from tflottery.engines.tfmot.held import hold as hold
from tflottery.engines.tfmot.held import release as release
from tflottery.engines.tfmot.imported import tf_keras
from tflottery.engines.tfmot.schedule import LotterySchedule
from tflottery.engines.tfmot.wrapper import HeldLowMagnitude, unwrap, wrap

_STEPS_PER_EXECUTION = 20


class TfmotEngine(Engine):
    """Trains a tf_keras model for a search; see `engines.Engine`.

    Where the caller's model holds tfmot's wrappers, what trains is one without them
    that shares its layers.
    """

    def __init__(self, model: Any):
        network.variables(model)  # Fails where it is not built.
        super().__init__(unwrap(model))
        self._wrappers: list[HeldLowMagnitude] = []

    def prepare(self, data: Any, *, rewind_step: int, callbacks: Any) -> list[str]:
        told = []
        if not self.model._is_compiled:
            told.append(compiling.compile_default(self.model, tf_keras, data))
        compiling.check_labels(self.model, data)
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
        self._set_steps_per_execution(self._execution_that_ends_at(rewind_step, data))
        kinds = state_lib.drawing_without_state(self.model)
        if kinds:
            told.append(
                f"What {', '.join(kinds)} will draw is in no `run_dir`, so a search "
                "that goes on there will differ, unless the model is built after "
                "tf_keras.backend.experimental.enable_tf_random_generator()."
            )
        return told

    def _updating_optimizer(self) -> Any:
        return held.optimizer_of(self.model)

    def _trace_anew(self) -> None:
        held.trace_anew(self.model)

    def _set_steps_per_execution(self, steps: int) -> None:
        before = int(self.model.steps_per_execution.numpy())
        self.model.steps_per_execution = steps
        # A step of one batch and one of several are traced apart.
        if (before == 1) != (steps == 1):
            self.model.train_function = None
            self.model.train_tf_function = None
            self.model.test_function = None

    def state(self) -> dict[str, np.ndarray]:
        return state_lib.capture(self.model)

    def restore(self, state: State, *, parts: tuple[str, ...]) -> None:
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

    def fit(self, data: Any, *, validation_data: Any, **settings: Any) -> None:
        if (
            validation_data is not None
            and data_lib.steps_per_epoch(validation_data) is None
        ):
            # tf_keras refuses to execute steps together where it cannot count them.
            self._later_steps_per_execution = self._given_steps_per_execution or 1
            self._set_steps_per_execution(self._later_steps_per_execution)
        super().fit(data, validation_data=validation_data, **settings)

    def leave(self) -> None:
        self._give_schedule_back()
        held.release(self.model)
        if self._given_steps_per_execution is not None:
            self._set_steps_per_execution(self._given_steps_per_execution)

    def finish(self) -> Any:
        self._give_schedule_back()
        self._set_steps_per_execution(self._given_steps_per_execution or 1)
        held.hold_through_compile(self.model)
        return self.model


def _wants_batches(callback: Any) -> bool:
    """Returns whether a callback asks to be called for each single batch."""
    asks = getattr(callback, "_implements_train_batch_hooks", None)
    return asks is None or bool(asks())
