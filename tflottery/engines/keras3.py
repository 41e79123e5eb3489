"""Keras 3: masks held by the variables' constraints, on any backend."""

import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tflottery.engines import network
from tflottery.engines.engine import Engine
from tflottery.engines.holding import Held, optimizer_of

# Before 3.15, Keras takes no constraint of another class than its own.
_Constraint: Any = type("Held", (Held, keras.constraints.Constraint), {})


class Keras3Engine(Engine):
    """Trains a Keras 3 model for a search; see `engines.engine.Engine`.

    On JAX the masks are variables of the optimizer: they are part of the step's state
    then, so that new masks take effect without a new trace.
    """

    kind = sys.modules[__name__]

    def _parts(self) -> dict[str, Any]:
        found = {f"weights/{path}": v for path, v in self._variables.items()}
        constraints = [v.constraint for v in self._variables.values()]
        known = {id(c.mask) for c in constraints if isinstance(c, Held)}
        known |= {id(v) for v in self._variables.values()}
        optimizers = (self.model.optimizer, *self._own_optimizers)
        for part, variables in (
            ("optimizer", [v for each in optimizers for v in each.variables]),
            ("seeds", self.model.variables),
        ):
            others = enumerate(v for v in variables if id(v) not in known)
            found |= {f"{part}/{i:05d}": v for i, v in others}
        return found

    def _make_masks(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        # TensorFlow cannot export a model whose optimizer lost a variable.
        made = {}
        for path, v in variables.items():
            shape, layout = tuple(v.shape), getattr(v, "_layout", None)
            if TRACES_READ_MASKS:
                made[path] = keras.Variable(shape=shape, trainable=False, **_MASK)
            else:
                add = optimizer_of(self.model).add_variable
                made[path] = add(shape, layout=layout, **_MASK)
        return made


_MASK = {"initializer": "ones", "dtype": "bool", "name": "mask"}
# On JAX masks are constants of a traced step, unless they are the optimizer's.
TRACES_READ_MASKS = keras.backend.backend() == "tensorflow"


def make_masks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns masks of ones for variables by path."""
    return {
        path: keras.Variable(shape=tuple(v.shape), trainable=False, **_MASK)
        for path, v in variables.items()
    }


def drop(model: Any, mask: Any) -> None:
    """Takes a mask out of the optimizer."""
    optimizer = optimizer_of(model)
    if optimizer is not None:
        optimizer._untrack_variable(mask)


def constrain(variable: Any, mask: Any) -> None:
    """Makes `variable` obey `mask`, or no mask, besides the user's constraint."""
    given = variable.constraint
    inner = given.inner if isinstance(given, Held) else given
    if mask is not None:
        value_of = keras.ops.convert_to_tensor  # JAX takes no variables of Keras.
        inner = _Constraint(
            mask, inner, lambda w, mask: keras.ops.where(value_of(mask), value_of(w), 0)
        )
    variable.constraint = inner


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
