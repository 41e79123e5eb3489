"""Network: a model's variables by path, and which of them can be pruned.

Serves Keras 3 and tf_keras alike; `keras` is always the module a model belongs to.
"""

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

# Layers whose weights may be pruned, and the names of those weights. A layer counts
# as the first class here that it is an instance of.
_PRUNABLE = {
    "SeparableConv1D": "pointwise_kernel",
    "SeparableConv2D": "pointwise_kernel",
    "Dense": "kernel",
    "EinsumDense": "kernel",
    "Conv1D": "kernel",
    "Conv2D": "kernel",
    "Conv3D": "kernel",
    "Conv1DTranspose": "kernel",
    "Conv2DTranspose": "kernel",
    "Conv3DTranspose": "kernel",
}


def keras_of(model: Any) -> Any:
    """Returns the module, `keras` or `tf_keras`, that `model` was made with.

    Raises:
        TypeError: where it is a model of neither.
    """
    for name in {base.__module__.split(".")[0] for base in type(model).__mro__}:
        if name in ("keras", "tf_keras"):
            keras = importlib.import_module(name)
            if keras.__version__.startswith("2."):
                keras = importlib.import_module("tf_keras")
            if isinstance(model, keras.Model):
                return keras
    raise TypeError(
        "`model` must be a Keras 3 or tf_keras model. "
        f"Received: {model!r} of type {type(model).__module__}.{type(model).__name__}"
    )


def variables(model: Any) -> dict[str, Any]:
    """Returns the model's weights by path, each shared one under its first path.

    A path is the names of the layers on the way and the variable's own, such as
    `"block/conv2d/kernel"`; the model's own name is left out.

    Raises:
        ValueError: where the model is not built, or two layers that lie side by side
            have one name.
    """
    if (
        model.built
        and not model.weights
        and getattr(model, "layers", ())
        # `build` may mark a subclassed model alone, and none of its layers.
        and all(layer.built for layer in all_layers(model))
    ):
        raise ValueError(
            f"`model` {model.name!r} has no weights, so there is nothing to prune."
        )
    if not model.built or not model.weights:
        raise ValueError(
            f"`model` {model.name!r} is not built, so it has no weights to prune. "
            "Give it an `Input`, call `model.build(input_shape)`, or call it once on "
            "a batch."
        )
    found: dict[str, Any] = {}
    _walk(model, "", found, set(), set())
    known = {id(variable) for variable in found.values()}
    for variable in model.trainable_weights:
        if id(variable) not in known:
            raise ValueError(
                f"`model` {model.name!r} has the weight {variable.name!r} in no layer "
                "that Keras lists, so it could not be rewound. Make its layer an "
                "attribute of its own of the layer that calls it."
            )
    return found


def _walk(layer: Any, prefix: str, found: dict, seen: set, layers: set) -> None:
    layers.add(id(layer))
    for variable in own_variables(layer):
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        name = path = prefix + variable.name.split("/")[-1].split(":")[0]
        number = 1
        while path in found:  # A layer may name several of its variables alike.
            path = f"{name}_{number}"
            number += 1
        found[path] = variable
    names = set()
    for child in children(layer):
        if id(child) in layers or not child.weights:
            continue
        if child.name in names:
            raise ValueError(
                f"`model` has two layers named {prefix + child.name!r}, so a weight's "
                "path would not say which is meant. Give them different names."
            )
        names.add(child.name)
        _walk(child, f"{prefix}{child.name}/", found, seen, layers)


def children(layer: Any) -> list[Any]:
    """Returns the layers directly inside a layer; tfmot's wrappers are seen through."""
    # Only a model's `layers` are Keras'; a layer may have an attribute of that name.
    if any(base.__name__ == "Model" for base in type(layer).__mro__):
        found = list(layer.layers)
    else:
        found = list(layer._flatten_layers(recursive=False, include_self=False))
    return [_unwrapped(child) for child in found]


def _unwrapped(layer: Any) -> Any:
    names = {base.__name__ for base in type(layer).__mro__}
    return layer.layer if "PruneLowMagnitude" in names else layer


def own_variables(layer: Any) -> list[Any]:
    """Returns the variables that belong to the layer and to none inside it."""
    if hasattr(layer, "_trainable_variables"):
        return [*layer._trainable_variables, *layer._non_trainable_variables]
    return [*layer._trainable_weights, *layer._non_trainable_weights]


def prunable(model: Any, keras: Any) -> dict[str, Any]:
    """Returns the trainable variables that may be pruned, by path.

    These are the kernels of Dense, EinsumDense, Conv1D/2D/3D and their transposes,
    the pointwise kernels of separable convolutions, and what a layer of the user's
    own returns from `get_prunable_weights()` (tfmot's convention).

    Raises:
        ValueError: where there is none.
    """
    trainable = {id(v) for v in model.trainable_variables}
    wanted = {id(v) for layer in all_layers(model) for v in prunable_of(layer, keras)}
    found = {
        path: variable
        for path, variable in variables(model).items()
        if id(variable) in wanted and id(variable) in trainable
    }
    if not found:
        raise ValueError(
            f"`model` {model.name!r} has no trainable weight that can be pruned: no "
            "kernel of a Dense, EinsumDense, convolution or separable convolution "
            "that is not frozen. Set `layer.trainable = True`, or give a layer of "
            "your own the method `get_prunable_weights()`."
        )
    return found


def prunable_of(layer: Any, keras: Any) -> list[Any]:
    """Returns the variables of this one layer that may be pruned."""
    # On the class: tfmot puts its own function on layers that it has wrapped.
    if hasattr(type(layer), "get_prunable_weights"):
        return list(layer.get_prunable_weights())
    for name, variable_name in _PRUNABLE.items():
        if isinstance(layer, getattr(keras.layers, name, ())):
            return [
                v
                for v in own_variables(layer)
                if v.name.split("/")[-1].split(":")[0] == variable_name
            ]
    return []


def all_layers(model: Any) -> list[Any]:
    """Returns the model and every layer inside it, each once."""
    found: dict[int, Any] = {}
    queue = [model]
    while queue:
        layer = queue.pop()
        if id(layer) not in found:
            found[id(layer)] = layer
            queue.extend(children(layer))
    return list(found.values())


def is_chief(model: Any) -> bool:
    """Returns whether this process writes files; of several workers one does."""
    strategy = getattr(model, "distribute_strategy", None)
    return bool(getattr(getattr(strategy, "extended", None), "should_checkpoint", True))


def read(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the values of variables by path; they share no memory with them."""
    return {path: np.array(value_of(v)) for path, v in variables.items()}


def value_of(variable: Any) -> np.ndarray:
    """Returns the value of a Keras 3 or TensorFlow variable, or of a tensor."""
    raw = _raw(variable)
    return raw.numpy() if hasattr(raw, "numpy") else np.asarray(raw)


def agree(variables: Iterable[Any]) -> None:
    """Gives all replicas one value of what each keeps its own of.

    Such are a batch normalization's statistics under TensorFlow's strategies. What is
    read of them is their mean, or in Keras 3 the first replica's, so a training that
    was stopped can only go on from that.
    """
    for variable in variables:
        raw = _raw(variable)
        if hasattr(raw, "values") and not variable.trainable:
            raw.assign(raw.numpy())


def _raw(variable: Any) -> Any:
    """Returns the backend's own variable or value of a Keras or TensorFlow variable."""
    value = getattr(variable, "value", variable)
    return variable if callable(value) else value
