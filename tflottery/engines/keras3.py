"""Keras 3: masks held by the variables' constraints, on any backend.

An optimizer calls `variable.constraint` after every update. During a search the mask
is a variable of the optimizer: on JAX it is then part of the step's state, so that a
new mask takes effect without a new trace.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tflottery.core.masks import Masks
from tflottery.engines import compiling, network
from tflottery.engines.engine import Engine, State

_STEPS_PER_EXECUTION = 20


class Held:
    """A constraint that keeps a variable's pruned weights at exactly zero.

    Args:
        mask: a boolean Keras variable of the weight's shape.
        inner: the constraint that was there before, or `None`; both apply.
    """

    def __init__(self, mask: Any, inner: Callable | None):
        self.mask = mask
        self.inner = inner

    def __call__(self, weight: Any) -> Any:
        if self.inner is not None:
            # On the pruned weight, so that a norm does not count what is cut.
            weight = self.inner(self._cut(weight))
        return self._cut(weight)

    def _cut(self, weight: Any) -> Any:
        weight = keras.ops.convert_to_tensor(weight)
        mask = keras.ops.convert_to_tensor(self.mask)
        return keras.ops.where(mask, weight, keras.ops.cast(0, weight.dtype))


class Keras3Engine(Engine):
    """Trains a Keras 3 model for a search; see `engines.Engine`."""

    def prepare(self, data: Any, *, rewind_step: int, callbacks: Any) -> list[str]:
        told = []
        if not self.model.compiled:
            told.append(compiling.compile_default(self.model, keras, data))
        compiling.check_labels(self.model, data)
        optimizer = self.model.optimizer
        if not optimizer.built:
            with _scope(self.model):
                optimizer.build(self.model.trainable_variables)
        given = self.model.steps_per_execution
        self._given_steps_per_execution = given
        strategy = getattr(self.model, "distribute_strategy", None)
        if (
            given == 1
            and not self.model.run_eagerly
            and not _wants_batches(callbacks)
            # TensorFlow cannot merge replicas inside a loop.
            and (strategy is None or strategy.num_replicas_in_sync == 1)
        ):
            self._set_steps_per_execution(_STEPS_PER_EXECUTION)
        self._later_steps_per_execution = self.model.steps_per_execution
        # Step k is seen only where an execution ends at it.
        self._set_steps_per_execution(self._execution_that_ends_at(rewind_step, data))
        return told

    def fit(self, *args: Any, **kwargs: Any) -> None:
        super().fit(*args, **kwargs)
        _unshare_averages(_optimizer(self.model))

    def _updating_optimizer(self) -> Any:
        return _optimizer(self.model)

    def _trace_anew(self) -> None:
        self.model.train_function = None

    def _set_steps_per_execution(self, steps: int) -> None:
        if self.model.steps_per_execution != steps:
            self.model.steps_per_execution = steps
            self.model.train_function = None
            self.model.test_function = None

    def _parts(self) -> dict[str, dict[str, Any]]:
        masks = {id(mask) for mask in self._masks.values()}
        optimizer = [v for v in self.model.optimizer.variables if id(v) not in masks]
        known = {id(v) for v in self._variables.values()}
        seeds = [v for v in self.model.variables if id(v) not in known]
        return {
            "weights": self._variables,
            "optimizer": {f"{i:05d}": v for i, v in enumerate(optimizer)},
            "seeds": {f"{i:05d}": v for i, v in enumerate(seeds)},
        }

    def state(self) -> dict[str, np.ndarray]:
        return {
            f"{part}/{name}": np.array(network.value_of(variable))
            for part, variables in self._parts().items()
            for name, variable in variables.items()
        }

    def restore(self, state: State, *, parts: tuple[str, ...]) -> None:
        for part, variables in self._parts().items():
            if part in parts:
                for name, variable in variables.items():
                    variable.assign(state[f"{part}/{name}"])

    def hold(self, masks: Masks) -> None:
        inner = _optimizer(self.model)
        if not self._masks:
            with _scope(self.model):
                self._masks = {
                    path: self._mask_variable(inner, self._variables[path])
                    for path in masks
                }
            _constrain(
                {path: self._variables[path] for path in self._masks}, self._masks
            )
            _hold_averages(inner)
            # A step that was traced before knows of no masks.
            self.model.train_function = None
        for path, mask in masks.items():
            self._masks[path].assign(mask)
        _cut_now(self.model, self._variables, masks)

    @staticmethod
    def _mask_variable(optimizer: Any, weight: Any) -> Any:
        arguments = {"initializer": "ones", "dtype": "bool", "name": "mask"}
        if keras.backend.backend() == "tensorflow":
            # It need not be the optimizer's; and TensorFlow could not export a model
            # whose optimizer has lost a variable again.
            return keras.Variable(
                shape=tuple(weight.shape), trainable=False, **arguments
            )
        layout = getattr(weight, "_layout", None)
        return optimizer.add_variable(weight.shape, layout=layout, **arguments)

    def finish(self) -> Any:
        self._untrack_masks()
        _hold_through_compile(self.model)
        return self.model

    def leave(self) -> None:
        self._untrack_masks()
        release(self.model)

    def _untrack_masks(self) -> None:
        """Holds the masks on, but has them saved no longer as the optimizer's."""
        self._give_schedule_back()
        if self._given_steps_per_execution is not None:
            self._set_steps_per_execution(self._given_steps_per_execution)
        inner = _optimizer(self.model)
        for mask in self._masks.values():
            inner._untrack_variable(mask)
        self._masks = {}
        self.model.train_function = None


def hold(model: Any, masks: Masks) -> None:
    """Holds masks that will not change, in a model that may not be compiled."""
    variables = network.variables(model)
    release(model)
    with _scope(model):
        constants = {
            path: keras.Variable(mask, dtype="bool", trainable=False, name="mask")
            for path, mask in masks.items()
        }
    _constrain({path: variables[path] for path in masks}, constants)
    _cut_now(model, variables, masks)
    optimizer = _optimizer(model)
    if optimizer is not None:
        _hold_averages(optimizer)
        model.train_function = None
    _hold_through_compile(model)


def release(model: Any) -> None:
    """Takes the masks' constraints off again; constraints of the user's own stay."""
    for variable in network.variables(model).values():
        if isinstance(variable.constraint, Held):
            variable.constraint = variable.constraint.inner
    vars(model).pop("compile", None)
    optimizer = _optimizer(model)
    if optimizer is not None:
        vars(optimizer).pop("_update_model_variables_moving_average", None)
        model.train_function = None


def _constrain(variables: dict[str, Any], masks: dict[str, Any]) -> None:
    for path, variable in variables.items():
        given = variable.constraint
        inner = given.inner if isinstance(given, Held) else given
        variable.constraint = Held(masks[path], inner)


def _cut_now(model: Any, variables: dict[str, Any], masks: Masks) -> None:
    """Zeroes what is pruned in the weights, and in their moving averages."""
    _unshare_averages(_optimizer(model))
    cut = {id(variables[path]): mask for path, mask in masks.items()}
    for path in masks:
        variable = variables[path]
        value = np.where(masks[path], network.value_of(variable), 0)
        variable.assign(value.astype(value.dtype))
    optimizer = _optimizer(model)
    if getattr(optimizer, "use_ema", False) and optimizer.built:
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(
            optimizer._trainable_variables, averages, strict=True
        ):
            if average is not None and id(variable) in cut:
                value = network.value_of(average)
                value = np.where(cut[id(variable)], value, 0).astype(value.dtype)
                average.assign(value)


def _unshare_averages(optimizer: Any) -> None:
    """Gives an optimizer's averages memory of their own again.

    `fit` ends by putting the averages into the weights. On JAX the two share memory
    from then on, which `evaluate` gives away, and the next step of Keras 3.15 refuses.
    """
    if not getattr(optimizer, "use_ema", False) or not optimizer.built:
        return
    averages = optimizer._model_variables_moving_average
    for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
        if average is not None:
            try:
                value = np.array(network.value_of(average))
            except RuntimeError:  # Given away: it was what the weight is.
                value = np.array(network.value_of(variable))
            average.assign(value)


def _hold_averages(optimizer: Any) -> None:
    """Keeps what is pruned out of an optimizer's moving averages (`use_ema`).

    Keras averages the weights before it applies the constraints, and writes the
    averages over the weights when `fit` ends.
    """
    if not getattr(optimizer, "use_ema", False):
        return
    update = type(optimizer)._update_model_variables_moving_average

    def update_held(trainable_variables: Any) -> None:
        for variable in trainable_variables:
            if isinstance(variable.constraint, Held):
                variable.assign(variable.constraint(variable))
        update(optimizer, trainable_variables)

    optimizer._update_model_variables_moving_average = update_held


def _hold_through_compile(model: Any) -> None:
    """Has a later `compile` tell its new optimizer of the masks."""
    compile_model = type(model).compile

    def compile_and_hold(*args: Any, **kwargs: Any) -> None:
        compile_model(model, *args, **kwargs)
        _hold_averages(_optimizer(model))

    object.__setattr__(model, "compile", compile_and_hold)


def _optimizer(model: Any) -> Any:
    """Returns the optimizer that updates the weights, or `None`.

    With mixed precision it is the one inside the LossScaleOptimizer.
    """
    optimizer = getattr(model, "optimizer", None)
    return getattr(optimizer, "inner_optimizer", optimizer)


def _scope(model: Any) -> Any:
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def _wants_batches(callbacks: Any) -> bool:
    """Returns whether a callback asks to be called for each single batch."""
    return any(
        # A LambdaCallback has its functions as attributes of its own.
        name in vars(callback)
        or getattr(type(callback), name, None)
        is not getattr(keras.callbacks.Callback, name)
        for callback in callbacks
        for name in (
            "on_batch_begin",
            "on_batch_end",
            "on_train_batch_begin",
            "on_train_batch_end",
        )
    )
