"""Judge: what other weights of a trained network are worth on validation data."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.core.masks import Weights
from tflottery.engines import batch_norm, network
from tflottery.engines import data as data_lib
from tflottery.engines.engine import Engine


@dataclasses.dataclass(frozen=True)
class Judge:
    """Gives weights to a model, and judges them by a metric.

    Attributes:
        engine: The engine of the model.
        data: The `validation_data`, and perhaps the `ds` to estimate statistics on.
        monitor: The metric; `"val_..."` or without.
        layers: The layers of batch normalization whose statistics are estimated.
    """

    engine: Engine
    data: Mapping[str, Any]
    monitor: str
    layers: Sequence[Any] = ()

    @property
    def name(self) -> str:
        """The metric as `evaluate` calls it."""
        return self.monitor.removeprefix("val_")

    def give(self, weights: Weights) -> None:
        """Gives the model these weights."""
        state = {f"weights/{path}": w for path, w in weights.items()}
        self.engine.restore(state, parts=("weights",))
        network.finalize(self.engine.model)

    def estimate_statistics(self) -> Weights:
        """Estimates the model's BatchNorm statistics anew, and returns its weights."""
        model, settings = self.engine.model, self.engine.settings
        if self.layers:
            data, steps = self.data.get("ds"), settings.steps_per_epoch
            size = settings.batch_size
            if data is None:
                data, steps = self.data["validation_data"], settings.validation_steps
                size = settings.validation_batch_size or size
            batches = data_lib.batches(data, size, steps)
            batch_norm.estimate(model, self.layers, batches)
        return self.engine.weights()

    def metric(self) -> float:
        """Returns the metric of the model as it is.

        Raises:
            ValueError: If the model was not compiled with it.
        """
        logs = self.engine.evaluate(self.data["validation_data"])
        if self.name not in logs:
            listed = ", ".join(f"'val_{name}'" for name in logs)
            raise ValueError(
                f"`monitor` must be a metric that `model` is compiled with: {listed}. "
                f"Received: monitor={self.monitor!r} (by default that of the search)"
            )
        return logs[self.name]
