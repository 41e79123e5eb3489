"""Keras 3: masks held by the variables' constraints, on any backend."""

from typing import Any

import keras
import numpy as np

from tflottery.core.masks import Masks
from tflottery.engines import holding, network
from tflottery.engines.engine import Engine
from tflottery.engines.holding import Held, optimizer_of

# Before 3.15, Keras takes no constraint of another class than its own.
_Constraint: Any = type("Held", (Held, keras.constraints.Constraint), {})


class Keras3Engine(Engine):
    """Trains a Keras 3 model for a search; see `engines.engine.Engine`.

    On JAX the masks are variables of the optimizer: they are part of the step's state
    then, so that new masks take effect without a new trace.
    """

    def _parts(self) -> dict[str, dict[str, Any]]:
        masks = {id(mask) for mask in self._masks.values()}
        optimizer = [
            v
            for optimizer in (self.model.optimizer, *self._own_optimizers)
            for v in optimizer.variables
            if id(v) not in masks
        ]
        known = {id(v) for v in self._variables.values()}
        seeds = [v for v in self.model.variables if id(v) not in known]
        return {
            "weights": self._variables,
            "optimizer": {f"{i:05d}": v for i, v in enumerate(optimizer)},
            "seeds": {f"{i:05d}": v for i, v in enumerate(seeds)},
        }

    def _make_masks(self, masks: Masks) -> dict[str, Any]:
        optimizer = optimizer_of(self.model)
        made: dict[str, Any] = {}
        arguments = {"initializer": "ones", "dtype": "bool", "name": "mask"}
        with holding.scope(self.model):
            for path in masks:
                variable = self._variables[path]
                shape = tuple(variable.shape)
                # TensorFlow cannot export a model whose optimizer lost a variable.
                if keras.backend.backend() == "tensorflow":
                    made[path] = keras.Variable(
                        shape=shape, trainable=False, **arguments
                    )
                else:
                    layout = getattr(variable, "_layout", None)
                    made[path] = optimizer.add_variable(
                        shape, layout=layout, **arguments
                    )
                _constrain(variable, made[path])
        if optimizer.use_ema:
            _hold_averages(optimizer)
        return made

    def _averages(self) -> dict[int, Any]:
        return _averages_of(optimizer_of(self.model))

    def _release(self) -> None:
        for mask in self._masks.values():
            optimizer_of(self.model)._untrack_variable(mask)
        release(self.model)


def hold(model: Any, masks: Masks) -> None:
    """Holds masks outside a search, in a model that need not be compiled."""
    variables = network.variables(model)
    constraints = {path: v.constraint for path, v in variables.items()}
    held = {path: c.mask for path, c in constraints.items() if isinstance(c, Held)}
    # On TensorFlow a traced step reads the mask variables, so that it stays valid. On
    # JAX they are constants of the step.
    keeps_traces = (
        keras.backend.backend() == "tensorflow"
        and holding.is_held(model)
        and held.keys() == masks.keys()
    )
    if keeps_traces:
        for path, mask in masks.items():
            held[path].assign(mask)
    else:
        release(model)
        with holding.scope(model):
            for path, mask in masks.items():
                constant = keras.Variable(
                    mask, dtype="bool", trainable=False, name="mask"
                )
                _constrain(variables[path], constant)
        holding.forget_traces(model)
    optimizer = optimizer_of(model)
    averages = {}
    if getattr(optimizer, "use_ema", False):
        averages = _averages_of(optimizer)
        _hold_averages(optimizer)
    holding.cut_now(variables, masks, averages)
    holding.keep_held(model, _hold_averages)


def release(model: Any) -> None:
    """Removes the masks' constraints; the user's own constraints stay."""
    for variable in network.variables(model).values():
        if isinstance(variable.constraint, Held):
            variable.constraint = variable.constraint.inner
    holding.let_go(model)


def _constrain(variable: Any, mask: Any) -> None:
    given = variable.constraint
    inner = given.inner if isinstance(given, Held) else given
    value_of = keras.ops.convert_to_tensor  # JAX takes no variables of Keras.
    variable.constraint = _Constraint(
        mask, inner, lambda w, mask: keras.ops.where(value_of(mask), value_of(w), 0)
    )


def _averages_of(optimizer: Any) -> dict[int, Any]:
    """Returns the moving averages (`use_ema`) by the id of their variable.

    `fit` ends by copying the averages into the weights. On JAX the two share memory
    from then on, which `evaluate` donates, and the next step of Keras 3.15 fails. So
    each average gets memory of its own again.
    """
    if not optimizer.built:
        return {}
    found = {}
    averages = optimizer._model_variables_moving_average
    for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
        if average is not None:
            found[id(variable)] = average
            try:
                value = np.array(network.value_of(average))
            except RuntimeError:  # Donated: it was equal to the weight.
                value = np.array(network.value_of(variable))
            average.assign(value)
    return found


def _hold_averages(optimizer: Any) -> None:
    """Keeps pruned weights out of an optimizer's moving averages (`use_ema`).

    Keras averages the weights before it applies the constraints, and copies the
    averages into the weights when `fit` ends.
    """
    update = type(optimizer)._update_model_variables_moving_average

    def update_held(trainable_variables: Any) -> None:
        for variable in trainable_variables:
            if isinstance(variable.constraint, Held):
                variable.assign(variable.constraint(variable))
        update(optimizer, trainable_variables)

    optimizer._update_model_variables_moving_average = update_held
