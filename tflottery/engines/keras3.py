"""Keras 3: masks held by the variables' constraints, on any backend."""

import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tflottery.engines import holding, network
from tflottery.engines.engine import Engine
from tflottery.engines.holding import Held, optimizer_of

# Before 3.15, Keras takes no constraint of another class than its own.
Constraint: Any = type("Held", (Held, keras.constraints.Constraint), {})


class Keras3Engine(Engine):
    """Trains a Keras 3 model for a search; see `engines.engine.Engine`.

    On JAX the masks are variables of the optimizer: they are part of the step's state
    then, so that new masks take effect without a new trace.
    """

    kind = sys.modules[__name__]

    def _parts(self) -> dict[str, Any]:
        masks = holding.mask_variables(self._variables).values()
        known = {id(v) for v in (*self._variables.values(), *masks)}
        optimizers = (self.model.optimizer, *self._own_optimizers)
        parts = {
            "optimizer": [v for each in optimizers for v in each.variables],
            "seeds": self.model.variables,
        }
        return network.numbered(self._variables, parts, known)

    def _make_masks(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        # TensorFlow cannot export a model whose optimizer lost a variable.
        if keras.backend.backend() == "tensorflow":
            return make_masks(variables)
        optimizer = optimizer_of(self.model)
        return {
            path: optimizer.add_variable(
                tuple(variable.shape),
                layout=getattr(variable, "_layout", None),
                **_MASK,
            )
            for path, variable in variables.items()
        }


_MASK = {"initializer": "ones", "dtype": "bool", "name": "mask"}


def make_masks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns masks of ones for variables by path."""
    return {
        path: keras.Variable(shape=tuple(v.shape), trainable=False, **_MASK)
        for path, v in variables.items()
    }


def in_traces(model: Any, masks: Mapping[str, Any]) -> bool:
    """Returns whether a traced step reads these mask variables anew.

    On JAX they are constants of the step, unless they are the optimizer's.
    """
    if keras.backend.backend() == "tensorflow":
        return True
    known = {id(v) for v in getattr(optimizer_of(model), "variables", ())}
    return all(id(mask) in known for mask in masks.values())


def drop(model: Any, mask: Any) -> None:
    """Takes a mask out of the optimizer."""
    optimizer = optimizer_of(model)
    if optimizer is not None:
        optimizer._untrack_variable(mask)


def set_constraint(variable: Any, constraint: Any) -> None:
    """Sets a variable's constraint."""
    variable.constraint = constraint


def cut(weight: Any, mask: Any) -> Any:
    """Returns `weight` with zeros where `mask` is 0."""
    value_of = keras.ops.convert_to_tensor  # JAX takes no variables of Keras.
    return keras.ops.where(value_of(mask), value_of(weight), 0)


def averages_of(optimizer: Any, variables: Any) -> dict[int, Any]:
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


def hold_averages(optimizer: Any) -> None:
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
