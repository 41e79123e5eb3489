"""tf_keras: masks in tfmot's wrapper, held by the variables' constraints.

The wrappers share the layers of the caller's model, so that model itself trains, with
its own `train_step` and callbacks, and never has to be unwrapped.
"""

from collections.abc import Sequence
from typing import Any

from tflottery.core import masks as masks_lib
from tflottery.core.masks import Masks
from tflottery.engines import data as data_lib
from tflottery.engines import holding, network
from tflottery.engines.engine import Engine
from tflottery.engines.tfmot import held
from tflottery.engines.tfmot import state as state_lib
from tflottery.engines.tfmot.held import hold as hold
from tflottery.engines.tfmot.held import release as release
from tflottery.engines.tfmot.imported import tf_keras
from tflottery.engines.tfmot.schedule import LotterySchedule
from tflottery.engines.tfmot.wrapper import HeldLowMagnitude, unwrap, wrap


class TfKerasEngine(Engine):
    """Trains a tf_keras model for a search; see `engines.engine.Engine`.

    If the caller's model contains tfmot's wrappers, a model without them trains that
    shares its layers.
    """

    def __init__(self, model: Any, include: Sequence[str] = ()):
        network.variables(model)  # Raises if it is not built.
        super().__init__(unwrap(model), include)
        self._wrappers: list[HeldLowMagnitude] = []

    def prepare(self, data: Any, **settings: Any) -> list[str]:
        told = super().prepare(data, **settings)
        kinds = state_lib.drawing_without_state(self.model)
        if kinds:
            told.append(
                f"A `run_dir` does not keep the random state of {', '.join(kinds)}, so "
                "a resumed search will differ, unless the model is built after "
                "tf_keras.backend.experimental.enable_tf_random_generator()."
            )
        return told

    def _parts(self) -> dict[str, dict[str, Any]]:
        return state_lib.parts(self.model)

    def fit(self, data: Any, *, validation_data: Any, **settings: Any) -> None:
        if (
            validation_data is not None
            and self.settings.validation_steps is None
            and data_lib.steps_per_epoch(validation_data) is None
        ):
            # tf_keras refuses to group steps if it cannot count them.
            self._later_execution = self._given_execution or 1
            self._execute(self._later_execution)
        super().fit(data, validation_data=validation_data, **settings)

    def hold(self, masks: Masks) -> None:
        super().hold(masks)
        for wrapper in self._wrappers:
            wrapper.pruning_schedule = self._schedule(masks)

    def _make_masks(self, masks: Masks) -> dict[str, Any]:
        """Wraps the layers that tfmot knows; other variables are held without."""
        wanted = {id(self._variables[path]): path for path in masks}
        schedule, made = self._schedule(masks), {}
        with holding.scope(self.model):
            for layer in network.all_layers(self.model):
                weights = network.prunable_of(layer, tf_keras)
                if not weights or any(id(w) not in wanted for w in weights):
                    continue
                wrapper = wrap(layer, schedule)
                if wrapper is None:
                    continue
                self._wrappers.append(wrapper)
                for weight, mask, _ in wrapper.pruning_vars:
                    made[wanted[id(weight)]] = mask
            for path in masks:
                if path not in made:
                    made[path] = held.mask_variable(self._variables[path])
                    held.constrain(self._variables[path], made[path])
        optimizer = holding.optimizer_of(self.model)
        if getattr(optimizer, "use_ema", False):
            held.hold_averages(optimizer)
        return made

    def _averages(self) -> dict[int, Any]:
        return held.averages_of(holding.optimizer_of(self.model), self._variables)

    def _release(self) -> None:
        held.release(self.model)
        self._wrappers = []

    def _schedule(self, masks: Masks) -> LotterySchedule:
        """Returns what is held now in tfmot's terms: one pruning, to this sparsity."""
        return LotterySchedule(
            rounds=1,
            steps_per_round=max(1, self.step()),
            target_sparsity=masks_lib.sparsity(masks) or None,
        )
