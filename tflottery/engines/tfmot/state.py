"""State: everything that a tf_keras training needs to resume."""

from collections.abc import Mapping
from typing import Any

from tflottery.engines import network
from tflottery.engines.tfmot.imported import tf

_OWNERS = (tf.Module, tf.__internal__.tracking.Trackable)


def parts(model: Any) -> dict[str, Any]:
    """Returns all variables of a training by part and name.

    The parts are `weights/` (of the layers, BatchNorm statistics included),
    `optimizer/` (slots, step counter, learning rate, averages, loss scale) and
    `seeds/` (of layers that have a random generator).
    """
    weights = network.variables(model)
    seen = {id(v) for v in weights.values()}
    layers = network.all_layers(model)
    generators = [getattr(layer, "_random_generator", None) for layer in layers]
    found = {f"weights/{path}": variable for path, variable in weights.items()}
    for part, owner in (("optimizer", model.optimizer), ("seeds", generators)):
        inside = enumerate(_variables_in(owner, seen))
        found |= {f"{part}/{i:05d}": variable for i, variable in inside}
    return found


def drawing_without_state(model: Any) -> list[str]:
    """Returns the classes of layers whose next random numbers are in no variable.

    By default these are tf_keras' Dropout and Random layers: TensorFlow's runtime keeps
    the state of their generators.
    """
    names = ("rate", "stddev", "dropout", "recurrent_dropout")
    found = set()
    for layer in network.all_layers(model):
        generator = getattr(layer, "_random_generator", None)
        if getattr(generator, "_rng_type", None) == "legacy_stateful":
            rates = [getattr(layer, name) for name in names if hasattr(layer, name)]
            if any(rates) or not rates:  # A rate of 0 draws nothing.
                found.add(type(layer).__name__)
    return sorted(found)


def _variables_in(owner: Any, seen: set[int]) -> list[Any]:
    """Returns the variables anywhere inside `owner` that are not in `seen`.

    `optimizer.variables` is not enough: it lacks the learning rate, which callbacks
    change, and the variables of a LossScaleOptimizer.
    """
    if owner is None or isinstance(owner, str) or id(owner) in seen:
        return []
    seen.add(id(owner))
    if isinstance(owner, tf.Variable):
        return [owner]
    if isinstance(owner, Mapping):
        inside = list(owner.values())
    elif isinstance(owner, (list, tuple)):
        inside = list(owner)
    elif isinstance(owner, _OWNERS):
        inside = list(vars(owner).values())
    else:
        return []
    return [variable for each in inside for variable in _variables_in(each, seen)]
