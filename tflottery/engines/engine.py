"""Engine: what a search needs of a model, and what both generations of Keras share."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tflottery.core.masks import Masks
from tflottery.engines import building, holding, network, shuffling
from tflottery.engines import data as data_lib

State = Mapping[str, np.ndarray]
"""All state of a training by name: `weights/...`, `optimizer/...`, `seeds/...`."""

PARTS = ("weights", "optimizer", "seeds")
_STEPS_PER_EXECUTION = 20

# The ends of metrics' names that tell their direction where Keras cannot.
_MORE_IS_BETTER = ("acc", "accuracy", "auc", "precision", "recall", "score", "iou")
_LESS_IS_BETTER = ("loss", "error", "mae", "mse", "mape", "msle", "crossentropy", "nll")


class Engine(abc.ABC):
    """Trains a model for a search.

    Args:
        model: The model to train.
        include: Patterns of weights to prune that are not pruned by default.

    Attributes:
        model: The model that trains.
        keras: The module that it belongs to, `keras` or `tf_keras`.
        kind: What `holding` needs to know of this generation of Keras.
        prunable: The variables that can be pruned, by path.
        held: The masks that the model holds before the search, by path.
        sizes: The sizes of the trainable weights, by path.
        with_lora: The names of the layers in which LoRA is enabled.
        distributed: Whether several replicas train.
        settings: What `fit` takes besides the data.

    Raises:
        ValueError: If the model is not built, or nothing in it can be pruned.
    """

    kind: Any

    def __init__(self, model: Any, include: Sequence[str] = ()):
        self.model = model
        self.keras = network.keras_of(model)
        self.prunable: Mapping[str, Any] = network.prunable(model, self.keras, include)
        strategy = getattr(model, "distribute_strategy", None)
        self.distributed = getattr(strategy, "num_replicas_in_sync", 1) > 1
        self._variables, layers = network.walk(model)
        self.with_lora = [e.name for e in layers if getattr(e, "lora_enabled", False)]
        trainable = {id(v) for v in model.trainable_variables}
        self.held = {
            path: network.value_of(v.constraint.mask) != 0
            for path, v in self._variables.items()
            if isinstance(v.constraint, holding.Held)
        }
        self.sizes = {
            path: int(np.prod(v.shape))
            for path, v in self._variables.items()
            if id(v) in trainable
        }
        # Steps per execution: as the user set them, now, and from step k on.
        self._given_execution: int | None = None
        self._execution = self._later_execution = 1
        self._given_schedule: Any = None
        self._own_optimizers: list[Any] = []
        self.settings = data_lib.PLAIN

    @abc.abstractmethod
    def _parts(self) -> dict[str, Any]:
        """Returns all variables of the training by part and name; see `State`."""

    @abc.abstractmethod
    def _make_masks(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Returns mask variables of ones for variables by path."""

    def prepare(
        self,
        data: Any,
        *,
        rewind_step: int,
        callbacks: Iterable[Any],
        validation_data: Any = None,
    ) -> list[str]:
        """Prepares the model for training; returns lines to tell the user."""
        model, told = self.model, []
        if self.held:  # The search makes masks of its own.
            holding.release(model, self.kind)
        if getattr(model, "_initial_epoch", None):
            model._initial_epoch = None  # BackupAndRestore leaves it after a `fit`.
        if not getattr(model, "compiled", getattr(model, "_is_compiled", False)):
            told.append(data_lib.compile_default(model, self.keras, data))
        data_lib.check_labels(model, data, "ds")
        if validation_data is not None:
            data_lib.check_labels(model, validation_data, "validation_data")
        holding.build_optimizer(model)
        # A custom `train_step` may have optimizers of its own, and leave `optimizer`.
        kind = self.keras.optimizers.Optimizer
        others = [o for o in vars(model).values() if isinstance(o, kind)]
        self._own_optimizers = [o for o in others if o is not model.optimizer]
        built = all(getattr(o, "built", True) for o in self._own_optimizers)
        if not built and network.on_tensorflow(self.keras):
            building.trace_step(model, data)
        given = later = int(network.value_of(model.steps_per_execution))
        if (
            given == 1
            and not model.run_eagerly
            and not getattr(model, "autotune_steps_per_execution", False)
            and not any(holding.wants_batches(c, self.keras) for c in callbacks)
            and not self.distributed  # TensorFlow cannot merge replicas in a loop.
            # tf_keras loses batches if it cannot tell an epoch's last execution; and a
            # loop takes longer to trace than the calls of a few batches.
            and (
                self.keras.__name__ != "tf_keras"
                if (batches := data_lib.steps_per_epoch(data, self.settings)) is None
                else batches > _STEPS_PER_EXECUTION
            )
        ):
            # An execution may run past `steps_per_epoch`.
            steps = self.settings.steps_per_epoch or _STEPS_PER_EXECUTION
            later = max(n for n in range(1, _STEPS_PER_EXECUTION + 1) if steps % n == 0)
        self._given_execution = self._execution = given
        self._later_execution = later
        # Step k can be seen only if an execution ends at it, as with an epoch, and
        # only if every batch is a step.
        if rewind_step:
            steps = data_lib.steps_per_epoch(data, self.settings)
            plain = not hasattr(model.optimizer, "inner_optimizer")
            if steps is None or not plain or self.batches(1) > 1:
                later = 1
            else:
                inside = rewind_step % steps
                later = max(n for n in range(1, later + 1) if inside % n == 0)
        self._execute(later)
        return told

    def _execute(self, steps: int) -> None:
        """Makes the model take so many steps per call from Python."""
        if self._execution != steps:
            self._execution = self.model.steps_per_execution = steps
            self.model.test_function = None
            holding.forget_traces(self.model)

    def fit(self, data: Any, **arguments: Any) -> None:
        """Trains as `fit` does."""
        given = dataclasses.asdict(self.settings)
        if isinstance(data, (tuple, list)):
            parts = dict(zip(("x", "y", "sample_weight"), data, strict=False))
        else:
            parts, size = {"x": data}, given.pop("batch_size")
            given["validation_batch_size"] = given["validation_batch_size"] or size
            ordered = shuffling.is_ordered(data)
            # Keras warns if it is asked to shuffle what it cannot.
            if ordered or not isinstance(data, self.keras.utils.Sequence):
                given["shuffle"] = False
            if ordered:  # It has so many.
                del given["steps_per_epoch"]
        self.model.fit(**parts, **given, **arguments)
        optimizer = holding.optimizer_of(self.model)
        if getattr(optimizer, "use_ema", False):
            # On JAX, `evaluate` needs the averages to have their own memory.
            self.kind.averages_of(optimizer, self._variables)
        self._execute(self._later_execution)

    def evaluate(self, data: Any) -> dict[str, float]:
        """Returns the loss and the metrics on validation data by name."""
        settings = self.settings
        batch_size = settings.validation_batch_size or settings.batch_size
        arrays = isinstance(data, (tuple, list))
        parts = data if arrays else (data,)
        logs = self.model.evaluate(
            **dict(zip(("x", "y", "sample_weight"), parts, strict=False)),
            batch_size=batch_size if arrays else None,
            steps=settings.validation_steps,
            return_dict=True,
            verbose=0,
        )
        return as_numbers(logs)

    def weights(self) -> dict[str, np.ndarray]:
        """Returns copies of all weights by path."""
        return network.read(self._variables)

    def averaged(self) -> dict[str, np.ndarray]:
        """Returns the weights as `fit` would leave them if it ended now (`use_ema`)."""
        weights, optimizer = self.weights(), holding.optimizer_of(self.model)
        if getattr(optimizer, "use_ema", False):
            averages = self.kind.averages_of(optimizer, self._variables)
            found = {p: averages.get(id(v)) for p, v in self._variables.items()}
            weights |= network.read({p: a for p, a in found.items() if a is not None})
        return weights

    def state(self) -> dict[str, np.ndarray]:
        """Returns copies of everything that a training needs to go on from here."""
        return network.read(self._parts())

    def restore(self, state: State, *, parts: tuple[str, ...] = PARTS) -> None:
        """Restores these parts of a state in place; nothing is traced anew."""
        for name, variable in self._parts().items():
            if name.startswith(parts):
                variable.assign(state[name])

    def hold(self, masks: Masks) -> None:
        """Zeroes the pruned weights and keeps them at zero after every step."""
        holding.hold(self.model, masks, self.kind, self._make_masks)

    def sync_replicas(self) -> None:
        """Syncs per-replica variables (BatchNorm statistics)."""
        network.sync_replicas(self._variables.values())

    def step(self) -> int:
        """Returns how many steps the optimizer has taken."""
        optimizer = (*self._own_optimizers, self.model.optimizer)[0]
        return int(network.value_of(optimizer.iterations))

    def batches(self, steps: int) -> int:
        """Returns how many batches so many optimizer steps take."""
        optimizer = getattr(self.model, "optimizer", None)
        for each in (optimizer, getattr(optimizer, "inner_optimizer", None)):
            steps *= getattr(each, "gradient_accumulation_steps", None) or 1
        return steps

    def keep_learning_rate(self, step: int) -> None:
        """Keeps the learning rate at what its schedule says at `step`."""
        optimizer = holding.optimizer_of(self.model)
        # A legacy optimizer of tf_keras keeps it among its hyperparameters.
        hyper = getattr(optimizer, "_hyper", {})
        schedule: Any = getattr(optimizer, "_learning_rate", hyper.get("learning_rate"))
        schedules = self.keras.optimizers.schedules
        if self._given_schedule is None and isinstance(
            schedule, schedules.LearningRateSchedule
        ):
            self._given_schedule = schedule
            rate = float(network.value_of(schedule(step)))
            optimizer.learning_rate = schedules.ExponentialDecay(rate, 1, 1.0)
            holding.forget_traces(self.model)

    def leave(self) -> None:
        """Removes masks and settings from the model; weights stay as they are."""
        if self._given_schedule is not None:
            optimizer = holding.optimizer_of(self.model)
            optimizer.learning_rate = self._given_schedule
            self._given_schedule = None
        if self._given_execution is not None:
            self._execute(self._given_execution)
        holding.release(self.model, self.kind)

    def better(self, monitor: str) -> Callable[[float, float], bool]:
        """Returns the function `(a, b) -> bool` that tells if metric `a` beats `b`.

        It decides as EarlyStopping does. Keras 3 cannot tell the direction of metrics
        of several outputs, of a custom `train_step` and of plain functions; then the
        name decides.

        Raises:
            ValueError: If the name does not tell either.
        """
        probe = self.keras.callbacks.EarlyStopping(monitor=monitor)
        probe.set_model(self.model)
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
            "Choose another metric, or give yours a name that ends in 'accuracy' or "
            "'loss'."
        )


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
