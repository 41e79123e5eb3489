"""Engine: what a search needs of a model, and what all generations of Keras share."""

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflottery.core.masks import Masks
from tflottery.engines import data as data_lib
from tflottery.engines import network

State = Mapping[str, np.ndarray]
"""All state of a training by name: `weights/...`, `optimizer/...`, `seeds/...`."""


class Engine(abc.ABC):
    """Trains a model for a search.

    Args:
        model: the model that trains.

    Attributes:
        model: likewise.
        prunable: the variables that can be pruned, by path.

    Raises:
        ValueError: where the model is not built, or nothing in it can be pruned.
    """

    def __init__(self, model: Any):
        self.model = model
        self._keras = network.keras_of(model)
        self._variables = network.variables(model)
        self.prunable: Mapping[str, Any] = network.prunable(model, self._keras)
        self._masks: dict[str, Any] = {}
        self._given_steps_per_execution: int | None = None
        self._later_steps_per_execution = 1
        self._given_schedule: Any = None

    @abc.abstractmethod
    def prepare(self, data: Any, *, rewind_step: int, callbacks: Any) -> list[str]:
        """Readies the model for training; returns what there is to tell the user."""

    @abc.abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Returns all that a training needs to go on from here, copied."""

    @abc.abstractmethod
    def restore(self, state: State, *, parts: tuple[str, ...]) -> None:
        """Sets the parts (`"weights"`, `"optimizer"`, `"seeds"`) to what they were."""

    @abc.abstractmethod
    def hold(self, masks: Masks) -> None:
        """Sets what `masks` prune to zero and keeps it there after every step."""

    @abc.abstractmethod
    def leave(self) -> None:
        """Takes masks and settings off the model again; weights stay as they are."""

    @abc.abstractmethod
    def finish(self) -> Any:
        """Returns the caller's model with the ticket's masks held for good."""

    @abc.abstractmethod
    def _set_steps_per_execution(self, steps: int) -> None:
        """Has the model take so many steps in one call from Python."""

    @abc.abstractmethod
    def _updating_optimizer(self) -> Any:
        """Returns the optimizer that updates the weights, out of loss scaling's."""

    @abc.abstractmethod
    def _trace_anew(self) -> None:
        """Has the model forget the step that it has traced."""

    def fit(
        self,
        data: Any,
        *,
        validation_data: Any,
        epochs: int,
        initial_epoch: int,
        callbacks: list,
        verbose: int,
    ) -> None:
        """Trains, as `fit` does."""
        self.model.fit(
            **data_lib.as_arguments(data, fit=True),
            validation_data=validation_data,
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=callbacks,
            verbose=verbose,
        )
        self._set_steps_per_execution(self._later_steps_per_execution)

    def evaluate(self, data: Any) -> dict[str, float]:
        """Returns the loss and the metrics on `data` by name."""
        logs = self.model.evaluate(
            **data_lib.as_arguments(data), return_dict=True, verbose=0
        )
        return data_lib.as_numbers(logs)

    def weights(self) -> dict[str, np.ndarray]:
        """Returns all weights by path, copied."""
        return network.read(self._variables)

    def agree(self) -> None:
        """Gives all replicas one value of what each keeps its own of."""
        network.agree(self._variables.values())

    def step(self) -> int:
        """Returns how many steps the optimizer has taken."""
        return int(network.value_of(self.model.optimizer.iterations))

    def batches(self, steps: int) -> int:
        """Returns how many batches so many optimizer steps take."""
        optimizer = getattr(self.model, "optimizer", None)
        for each in (optimizer, getattr(optimizer, "inner_optimizer", None)):
            steps *= getattr(each, "gradient_accumulation_steps", None) or 1
        return steps

    def _execution_that_ends_at(self, step: int, data: Any) -> int:
        """Returns the steps per execution with which `step` can be seen."""
        skips_steps = hasattr(self.model.optimizer, "inner_optimizer")
        if step and (skips_steps or self.batches(1) > 1):
            return 1
        return data_lib.execution_that_ends_at(
            step, data_lib.steps_per_epoch(data), self._later_steps_per_execution
        )

    def keep_learning_rate(self, step: int) -> None:
        """Keeps the learning rate that the optimizer's schedule has at `step`."""
        optimizer = self._updating_optimizer()
        # A legacy optimizer of tf_keras has it among its hyper-parameters.
        hyper = getattr(optimizer, "_hyper", {})
        schedule: Any = getattr(optimizer, "_learning_rate", hyper.get("learning_rate"))
        schedules = self._keras.optimizers.schedules
        if self._given_schedule is None and isinstance(
            schedule, schedules.LearningRateSchedule
        ):
            self._given_schedule = schedule
            rate = float(network.value_of(schedule(step)))
            optimizer.learning_rate = schedules.ExponentialDecay(rate, 1, 1.0)
            self._trace_anew()

    def _give_schedule_back(self) -> None:
        if self._given_schedule is not None:
            self._updating_optimizer().learning_rate = self._given_schedule
            self._given_schedule = None
            self._trace_anew()

    def callback(self, **calls: Any) -> Any:
        """Returns a callback for `fit`; see `data.make_callback`."""
        return data_lib.make_callback(self._keras, **calls)

    def stop(self) -> None:
        """Ends the training after this epoch."""
        self.model.stop_training = True

    def stopped(self) -> bool:
        """Returns whether something has asked the training to end."""
        return bool(self.model.stop_training)

    def better(self, monitor: str) -> Any:
        """Returns the function `(a, b) -> bool`: whether metric a beats b."""
        return data_lib.better(self.model, self._keras, monitor)

    def is_chief(self) -> bool:
        """Returns whether this process is the one of several workers that writes."""
        return network.is_chief(self.model)
