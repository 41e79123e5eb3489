"""Network: a model's variables by path, and which of them can be pruned.

Serves Keras 3 and tf_keras. `keras` is always the module that the model belongs to.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tflottery.core import plan

# Layers that are pruned, by the name of their class, and which of their weights. The
# first class that a layer is an instance of counts.
_RECURRENT = ("kernel", "recurrent_kernel")
_PRUNABLE = {
    "SeparableConv1D": ("pointwise_kernel",),
    "SeparableConv2D": ("pointwise_kernel",),
    **dict.fromkeys(("Dense", "EinsumDense"), ("kernel",)),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), ("kernel",)),
    **dict.fromkeys(
        ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), ("kernel",)
    ),
    **dict.fromkeys(("LocallyConnected1D", "LocallyConnected2D"), ("kernel",)),
    **dict.fromkeys(
        ("SimpleRNNCell", "LSTMCell", "GRUCell", "ConvLSTMCell"), _RECURRENT
    ),
}


OLDEST_KERAS = (3, 13)


def keras_of(model: Any) -> Any:
    """Returns the module, `keras` or `tf_keras`, that `model` was made with.

    Raises:
        TypeError: If `model` is not a Keras model.
        ImportError: If it is of an old Keras.
    """
    for name in {base.__module__.split(".")[0] for base in type(model).__mro__}:
        if name in ("keras", "tf_keras"):
            keras = importlib.import_module(name)
            version = tuple(map(int, keras.__version__.split(".")[:2]))
            if name == "keras" and version < OLDEST_KERAS:
                raise ImportError(
                    "`model` must be of Keras {}.{} or later, or of tf_keras. Received "
                    "one of keras {}. Run: pip install --upgrade keras".format(
                        *OLDEST_KERAS, keras.__version__
                    )
                )
            if isinstance(model, keras.Model):
                return keras
    raise TypeError(
        "`model` must be a Keras 3 or tf_keras model. "
        f"Received: {model!r} of type {type(model).__module__}.{type(model).__name__}"
    )


def is_graph(model: Any) -> bool:
    """Returns whether `model` is a functional or a built Sequential model."""
    if hasattr(model, "_is_graph_network"):  # tf_keras
        return bool(model._is_graph_network)
    functional = getattr(model, "_functional", None) is not None  # Sequential
    return functional or hasattr(model, "operations")


def variables(model: Any) -> dict[str, Any]:
    """Returns the model's weights by path. A shared weight has its first path only.

    A path joins the names of the layers that contain the variable and its own name,
    as in `"block/conv2d/kernel"`. The model's own name is left out.

    Raises:
        ValueError: If the model is not built, or two sibling layers have one name.
    """
    return walk(model)[0]


def walk(model: Any) -> tuple[dict[str, Any], list[Any]]:
    """Returns what `variables` returns, and all layers with weights."""
    # A model whose `train_step` does not call it stays unbuilt, but its layers do not.
    if not (model.built and model.weights):
        layers = all_layers(model)[1:]
        if not layers or not all(layer.built for layer in layers):
            raise ValueError(
                f"`model` {model.name!r} is not built, so it has no weights to prune. "
                + (
                    "Give it an `Input`, call `model.build(input_shape)`, or call it "
                    "once on a batch."
                    if can_be_called(model, keras_of(model))
                    else "Train it for a step by `fit`. Keras does not save the "
                    "weights of a model without `call`: save `model.ticket`, and "
                    "`apply` the loaded ticket after that step."
                )
            )
        if not model.weights:
            raise ValueError(
                f"`model` {model.name!r} has no weights, so there is nothing to prune."
            )
    found, layers, known = {}, {}, set()
    _walk(model, "", found, layers, known)
    for variable in model.trainable_weights:
        if id(variable) not in known:
            raise ValueError(
                f"`model` {model.name!r} has the weight {variable.name!r} in a layer "
                "that Keras does not track, so it cannot be rewound. Make that layer "
                "an attribute of the layer that calls it."
            )
    return found, list(layers.values())


def finalize(model: Any) -> None:
    """Lets layers that use a copy of their weights (Normalization) read them."""
    for layer in all_layers(model):
        if layer.weights and hasattr(layer, "finalize_state"):
            layer.finalize_state()


def on_tensorflow(keras: Any) -> bool:
    """Returns whether TensorFlow runs the models of the module `keras`."""
    return keras.__name__ == "tf_keras" or keras.backend.backend() == "tensorflow"


def can_be_called(model: Any, keras: Any) -> bool:
    """Returns whether a model has a `call`, without which Keras cannot build it."""
    return type(model).call is not keras.Model.call


def _walk(
    layer: Any,
    prefix: str,
    found: dict[str, Any],
    layers: dict[int, Any],
    seen: set[int],
) -> None:
    """Adds the variables in `layer` to `found`, and its layers to `layers`."""
    layers[id(layer)] = layer
    for variable in own_variables(layer):
        if id(variable) in seen:
            continue
        seen.add(id(variable))
        name = path = prefix + variable.name.split("/")[-1].split(":")[0]
        number = 1
        while path in found:  # A layer may give several variables one name.
            path = f"{name}_{number}"
            number += 1
        found[path] = variable
    names = set()
    for child in children(layer):
        if id(child) in layers or not child.weights:
            continue
        if child.name in names:
            raise ValueError(
                f"`model` has two layers named {prefix + child.name!r}, so the path of "
                "a weight would be ambiguous. Give them different names."
            )
        names.add(child.name)
        _walk(child, f"{prefix}{child.name}/", found, layers, seen)


def children(layer: Any) -> list[Any]:
    """Returns the layers directly inside a layer, without tfmot's wrappers."""
    # `layers` is Keras' own attribute in models only.
    if any(base.__name__ == "Model" for base in type(layer).__mro__):
        found = list(layer.layers)
    else:
        found = list(layer._flatten_layers(recursive=False, include_self=False))
    return [
        child.layer
        if any(base.__name__ == "PruneLowMagnitude" for base in type(child).__mro__)
        else child
        for child in found
    ]


def own_variables(layer: Any) -> list[Any]:
    """Returns the variables of the layer itself, without those of layers inside it."""
    if hasattr(layer, "_trainable_variables"):
        return [*layer._trainable_variables, *layer._non_trainable_variables]
    found = [*layer._trainable_weights, *layer._non_trainable_weights]
    return [v for v in found if hasattr(v, "name")]  # Not tf_keras' lookup tables.


def prunable(model: Any, keras: Any, include: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the trainable variables to prune, by path.

    These are the kernels of Dense, EinsumDense, Conv1D/2D/3D and their transposes, of
    locally connected and recurrent layers (with the recurrent kernel), the pointwise
    kernels of separable convolutions, whatever a custom layer returns from
    `get_prunable_weights()` (tfmot's convention), and what `include` names.

    Args:
        model: The model.
        keras: The module that it belongs to.
        include: Patterns of other weights of two and more dimensions to prune.

    Raises:
        ValueError: If there is none, or a pattern matches nothing.
    """
    weights, layers = walk(model)
    wanted = {id(v) for layer in layers for v in prunable_of(layer, keras)}
    trainable = {id(v) for v in model.trainable_variables}
    matrices = [
        p for p, v in weights.items() if id(v) in trainable and len(v.shape) > 1
    ]
    if include:
        plan.check_patterns("include", include, matrices)
    found = {
        path: variable
        for path, variable in weights.items()
        if id(variable) in wanted & trainable
        or (
            path in matrices and any(plan.matches(path, pattern) for pattern in include)
        )
    }
    if not found and matrices:
        raise ValueError(
            f"`model` {model.name!r} has no layer that is pruned by default. Its "
            f"weights of two and more dimensions are: {', '.join(matrices)}. Name "
            f"those to prune, for example include=({matrices[0]!r},)."
        )
    if not found:
        raise ValueError(
            f"`model` {model.name!r} has no trainable weight that can be pruned: no "
            "kernel of a Dense, EinsumDense, convolution or recurrent layer that is "
            "not frozen. Set `layer.trainable = True`."
        )
    return found


def prunable_of(layer: Any, keras: Any) -> list[Any]:
    """Returns the variables of this one layer that are pruned by default."""
    # Only on the class: tfmot adds a function of that name to layers it has wrapped.
    if hasattr(type(layer), "get_prunable_weights"):
        return list(layer.get_prunable_weights())
    # In tfmot's quantization-aware training a wrapper owns the kernel of its layer.
    aware = type(layer).__name__ == "QuantizeWrapperV2"
    for base in type(layer.layer if aware else layer).__mro__:
        ours = base.__module__.split(".")[0] == keras.__name__
        names = _PRUNABLE.get(base.__name__, ()) if ours else ()
        if names:
            return [
                v
                for v in own_variables(layer)
                if v.name.split("/")[-1].split(":")[0] in names
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
    """Returns whether this process writes files; among several workers one does."""
    strategy = getattr(model, "distribute_strategy", None)
    return bool(getattr(getattr(strategy, "extended", None), "should_checkpoint", True))


def read(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns copies of the variables' values by path."""
    return {path: np.array(value_of(v)) for path, v in variables.items()}


def value_of(variable: Any) -> np.ndarray:
    """Returns the value of a Keras 3 or TensorFlow variable, or of a tensor."""
    raw = getattr(variable, "value", variable)
    raw = variable if callable(raw) else raw  # `value` of a tf.Variable is a method.
    raw = raw.detach().cpu() if hasattr(raw, "detach") else raw  # PyTorch
    return raw.numpy() if hasattr(raw, "numpy") else np.asarray(raw)


def sync_replicas(variables: Iterable[Any]) -> None:
    """Syncs per-replica variables (BatchNorm statistics).

    Under a TensorFlow strategy their value reads as the replicas' mean, or in Keras 3
    as the first replica's. A training that was interrupted resumes from that value.
    """
    for variable in variables:
        raw = getattr(variable, "value", variable)
        raw = variable if callable(raw) else raw
        if hasattr(raw, "values") and not variable.trainable:
            raw.assign(raw.numpy())
