"""State: all that a tf_keras training needs to go on from where it stands."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tflottery.engines import network
from tflottery.engines.tfmot.imported import tf

_OWNERS = (tf.Module, tf.__internal__.tracking.Trackable)


def parts(model: Any) -> dict[str, dict[str, Any]]:
    """Returns all variables of a training by part and name.

    The parts are `"weights"` (of the layers, BatchNorm statistics included),
    `"optimizer"` (slots, step counter, learning rate, averages, loss scale) and
    `"seeds"` (of layers with a generator of random numbers).
    """
    weights = network.variables(model)
    seen = {id(v) for v in weights.values()}
    optimizer = _variables_in(model.optimizer, seen)
    seeds = [
        variable
        for layer in network.all_layers(model)
        for variable in _variables_in(getattr(layer, "_random_generator", None), seen)
    ]
    return {
        "weights": weights,
        "optimizer": {f"{i:05d}": v for i, v in enumerate(optimizer)},
        "seeds": {f"{i:05d}": v for i, v in enumerate(seeds)},
    }


def capture(model: Any) -> dict[str, np.ndarray]:
    """Returns the values of all `parts` by `part/name`, copied."""
    return {
        f"{part}/{name}": np.array(network.value_of(variable))
        for part, variables in parts(model).items()
        for name, variable in variables.items()
    }


def restore(
    model: Any, state: Mapping[str, np.ndarray], wanted: tuple[str, ...]
) -> None:
    """Sets the wanted parts in place to what `capture` saw; nothing is traced anew."""
    for part, variables in parts(model).items():
        if part in wanted:
            for name, variable in variables.items():
                variable.assign(state[f"{part}/{name}"])


def drawing_without_state(model: Any) -> list[str]:
    """Returns the classes of layers whose next random numbers no variable tells.

    Such are tf_keras' Dropout and Random layers by default: they draw by operations
    that keep what they have drawn in the TensorFlow runtime.
    """
    return sorted(
        {
            type(layer).__name__
            for layer in network.all_layers(model)
            if _rng_type(layer) == "legacy_stateful" and _draws(layer)
        }
    )


def _rng_type(layer: Any) -> str | None:
    return getattr(getattr(layer, "_random_generator", None), "_rng_type", None)


def _draws(layer: Any) -> bool:
    """Returns whether a layer with a generator uses it: a rate of 0 draws nothing."""
    names = ("rate", "stddev", "dropout", "recurrent_dropout")
    rates = [getattr(layer, name) for name in names if hasattr(layer, name)]
    return any(rates) or not rates


def _variables_in(owner: Any, seen: set[int]) -> list[Any]:
    """Returns the variables that `owner` holds and that are not in `seen`.

    An optimizer's own list is not enough: it lacks the learning rate, which callbacks
    change, and what stands in a LossScaleOptimizer.
    """
    if owner is None or isinstance(owner, str) or id(owner) in seen:
        return []
    seen.add(id(owner))
    if isinstance(owner, tf.Variable):
        return [owner]
    if isinstance(owner, Mapping):
        held = list(owner.values())
    elif isinstance(owner, (list, tuple)):
        held = list(owner)
    elif isinstance(owner, _OWNERS):
        held = list(vars(owner).values())
    else:
        return []
    return [variable for each in held for variable in _variables_in(each, seen)]
