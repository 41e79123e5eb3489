"""Graph: where a network's classifier stands, and the network without it.

Serves functional and Sequential models of Keras 3 and tf_keras; `keras` is always the
module a model belongs to.
"""

import dataclasses
from typing import Any

import numpy as np

from tflottery.engines import network

_REMEDY = (
    "Pass `backbone=`, a model that ends in the features, with the same paths as in "
    "the ticket."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """A network cut before its classifier.

    Attributes:
        features: a functional model that shares the network's layers up to the cut.
        classifier: the Dense or 1x1-convolution layer that was cut off.
        activation: what the network's output went through last, a function.
        output_rank: how many dimensions the network's output has, the batch's too.
        output_dtype: of the network's output, by name.
    """

    features: Any
    classifier: Any
    activation: Any
    output_rank: int
    output_dtype: str


def is_graph(model: Any) -> bool:
    """Returns whether `model` is a functional or a built Sequential model."""
    if hasattr(model, "_is_graph_network"):  # tf_keras
        return bool(model._is_graph_network)
    functional = getattr(model, "_functional", None) is not None  # Sequential
    return functional or hasattr(model, "operations")


def cut(model: Any, keras: Any) -> Cut:
    """Returns `model` cut before the last Dense or 1x1 convolution to its output.

    What stands behind that layer without weights, such as a Softmax, a Reshape or a
    pooling, goes with it. `model` stays as it is.

    Raises:
        ValueError: where it is not a graph with one output, or no such layer makes
            its output.
    """
    if not is_graph(model):
        raise ValueError(
            f"`source` {model.name!r} is a subclassed model, which nobody can take "
            f"the classifier off. {_REMEDY}"
        )
    outputs = model.outputs
    if len(outputs) != 1:
        raise ValueError(
            f"`source` {model.name!r} has {len(outputs)} outputs, so it is not clear "
            f"which classifier is meant. {_REMEDY}"
        )
    tensor, activation = outputs[0], None
    while True:
        layer, inputs = _made_by(tensor)
        if len(inputs) == 1 and _is_classifier(layer, keras):
            activation = activation or layer.activation
            features = keras.Model(_inputs(model), inputs[0], name=model.name)
            break
        if len(inputs) == 1 and isinstance(layer, keras.Model):
            inner = cut(layer, keras)
            activation = activation or inner.activation
            layer, features = inner.classifier, inner.features(inputs[0])
            features = keras.Model(_inputs(model), features, name=model.name)
            break
        if len(inputs) != 1 or not _can_go(layer, keras):
            raise ValueError(
                f"`source` {model.name!r} has no classifier that can be told: its "
                f"output is made by {layer.name!r} ({type(layer).__name__}), where a "
                f"Dense layer or a 1x1 convolution is due. {_REMEDY}"
            )
        activation = activation or _activation(layer, keras)
        tensor = inputs[0]
    return Cut(
        features=features,
        classifier=layer,
        activation=activation,
        output_rank=len(outputs[0].shape),
        output_dtype=getattr(outputs[0].dtype, "name", outputs[0].dtype),
    )


def clone(model: Any, keras: Any, input_shape: Any = None) -> Any:
    """Returns a functional model like `model` with layers and weights of its own.

    Args:
        model: a functional model.
        keras: its Keras.
        input_shape: the shape of an input to take, without the batch, or `None`.

    Raises:
        ValueError: where the layers cannot take an input of that shape.
    """
    if input_shape is None:
        return keras.models.clone_model(model)
    if len(model.inputs) != 1:
        raise ValueError(
            f"`input_shape` is for a network with one input; {model.name!r} has "
            f"{len(model.inputs)}. Pass `backbone=` instead."
        )
    try:
        image = keras.Input(shape=tuple(input_shape), dtype=model.inputs[0].dtype)
        return keras.models.clone_model(
            model, input_tensors=image, clone_function=_clone_for_any_size
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`input_shape` {tuple(input_shape)} does not go through the network: "
            f"{error}"
        ) from error


def attach(body: Any, head: list[Any], keras: Any, input_shape: Any) -> Any:
    """Returns `body` with the layers of `head` on its output, as one model.

    A subclassed `body` becomes one layer of the new model.
    """
    if is_graph(body):
        inputs, x = _inputs(body), body.outputs[0]
    else:
        shape = _shape_taken(body) if input_shape is None else tuple(input_shape)
        inputs = keras.Input(shape=shape)
        x = body(inputs)
    for layer in head:
        x = layer(x)
    name = body.name if is_graph(body) else f"{body.name}_student"
    return keras.Model(inputs, x, name=name)


def check_runs(model: Any, input_shape: Any) -> None:
    """Checks that an example of a shape goes through the network.

    Raises:
        ValueError: where it does not. Keras 3 does not ask a network inside another.
    """
    if None in input_shape or len(model.inputs) != 1:
        return
    dtype = model.inputs[0].dtype
    example = np.zeros((1, *input_shape), getattr(dtype, "name", dtype))
    try:
        model(example, training=False)
    except Exception as error:  # Of whichever backend.
        raise ValueError(
            f"`input_shape` {tuple(input_shape)} does not go through the network: "
            f"{error}"
        ) from error


def layers_of(model: Any) -> set[str]:
    """Returns the names of the layers at the top of a model."""
    return {layer.name for layer in network.children(model)}


def _inputs(model: Any) -> Any:
    """Returns the symbolic inputs of a graph, in the structure that it takes."""
    return model.inputs[0] if len(model.inputs) == 1 else model.input


def _clone_for_any_size(layer: Any) -> Any:
    """Returns a layer's clone; a network inside then takes inputs of any size."""
    if is_graph(layer) and len(layer.inputs) == 1:
        *sizes, channels = layer.inputs[0].shape[1:]
        return clone(layer, network.keras_of(layer), (*[None] * len(sizes), channels))
    return type(layer).from_config(layer.get_config())


def _shape_taken(body: Any) -> tuple[Any, ...]:
    """Returns the shape of an example that a subclassed model was built with."""
    shapes = getattr(body, "_build_shapes_dict", None) or {}
    found = next(iter(shapes.values()), None) or getattr(
        body, "_build_input_shape", None
    )
    try:
        shape = tuple(found)  # type: ignore[arg-type]
        if len(shape) > 1 and all(d is None or isinstance(d, int) for d in shape):
            return shape[1:]
    except TypeError:
        pass
    raise ValueError(
        f"`input_shape` is needed: what `backbone` {body.name!r} takes is not known. "
        "Give the shape of one example, as input_shape=(32, 32, 3)."
    )


def _made_by(tensor: Any) -> tuple[Any, list[Any]]:
    """Returns the layer that made a symbolic tensor, and from which tensors."""
    layer, node_index, _ = tensor._keras_history
    node = layer._inbound_nodes[node_index]
    inputs = getattr(node, "keras_inputs", None)
    if inputs is None:
        inputs = node.input_tensors
    return layer, list(inputs)


def _is_classifier(layer: Any, keras: Any) -> bool:
    layers = keras.layers
    if isinstance(layer, layers.Dense):
        return True
    convolutions = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
    return isinstance(layer, convolutions) and set(layer.kernel_size) == {1}


def _can_go(layer: Any, keras: Any) -> bool:
    """Returns whether a layer behind the classifier goes with it."""
    if not isinstance(layer, keras.layers.Layer) or "OpLambda" in type(layer).__name__:
        return _activation(layer, keras) is not None
    return not layer.weights


def _activation(layer: Any, keras: Any) -> Any:
    # An operation of `keras.ops`, or tf_keras' layer of one: `tf.nn.softmax_1`.
    names = type(layer).__name__, layer.name.split(".")[-1].rstrip("_0123456789")
    for name in ("softmax", "sigmoid"):
        if name in (names[0].lower(), names[1]):
            return getattr(keras.activations, name)
    return getattr(layer, "activation", None)
