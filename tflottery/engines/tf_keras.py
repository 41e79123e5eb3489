"""tf_keras: masks in tfmot's wrapper, held by the variables' constraints.

The wrappers share the layers of the caller's model, so that model itself trains, with
its own `train_step` and callbacks, and never has to be unwrapped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.engines import data as data_lib
from tflottery.engines import network
from tflottery.engines.engine import Engine
from tflottery.engines.tfmot import held
from tflottery.engines.tfmot import state as state_lib
from tflottery.engines.tfmot.imported import tf_keras
from tflottery.engines.tfmot.schedule import LotterySchedule
from tflottery.engines.tfmot.wrapper import unwrap, wrap


class TfKerasEngine(Engine):
    """Trains a tf_keras model for a search; see `engines.engine.Engine`.

    If the caller's model contains tfmot's wrappers, a model without them trains that
    shares its layers.
    """

    kind = held

    def __init__(self, model: Any, include: Sequence[str] = ()):
        network.variables(model)  # Raises if it is not built.
        super().__init__(unwrap(model), include)

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

    def _parts(self) -> dict[str, Any]:
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

    def _make_masks(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Wraps the layers that tfmot knows; other variables are held without."""
        wanted = {id(variable): path for path, variable in variables.items()}
        schedule = LotterySchedule(rounds=1, steps_per_round=max(1, self.step()))
        made = {}
        for layer in network.all_layers(self.model):
            weights = network.prunable_of(layer, tf_keras)
            if weights and all(id(w) in wanted for w in weights):
                wrapper = wrap(layer, schedule)
                for weight, mask, _ in wrapper.pruning_vars if wrapper else ():
                    made[wanted[id(weight)]] = mask
        rest = {path: v for path, v in variables.items() if path not in made}
        return {**made, **held.make_masks(rest)}
