"""Graph: finds a network's classifier, cuts it off, and attaches a new head.

Works on functional and Sequential models of Keras 3 and tf_keras; `keras` is always the
module that a model belongs to.
"""

import dataclasses
from typing import Any

import numpy as np

from tflottery.engines import network

_REMEDY = (
    "Pass `backbone=`, a model that outputs the features and has the same paths as the "
    "ticket."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """A network without its classifier.

    Attributes:
        features: A functional model that shares the network's layers up to the cut.
        classifier: The Dense or 1x1-convolution layer that was cut off.
        activation: The last activation function before the network's output.
        output_rank: Number of dimensions of the network's output, batch included.
        output_dtype: Name of the output's dtype.
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
    """Cuts a model before its classifier, the last Dense or 1x1 convolution.

    Layers without weights that follow the classifier, such as Softmax, Reshape or
    pooling, are cut off with it. `model` itself does not change.

    Raises:
        ValueError: If the model is not a graph with one output, or its output does not
            come from such a layer.
    """
    if not is_graph(model):
        raise ValueError(
            f"`source` {model.name!r} is a subclassed model, so its classifier cannot "
            f"be cut off. {_REMEDY}"
        )
    output, *others = model.outputs
    if others:
        raise ValueError(
            f"`source` {model.name!r} has {len(model.outputs)} outputs, so it is not "
            f"clear which classifier to replace. {_REMEDY}"
        )
    tensor, activation = output, None
    while True:
        layer, inputs = _made_by(tensor)
        if len(inputs) == 1 and _is_classifier(layer, keras):
            features, last = inputs[0], layer.activation
            break
        if len(inputs) == 1 and isinstance(layer, keras.Model):
            inner = cut(layer, keras)
            features, last = inner.features(inputs[0]), inner.activation
            layer = inner.classifier
            break
        if len(inputs) != 1 or not _is_cut_too(layer, keras):
            raise ValueError(
                f"`source` {model.name!r} has no classifier that could be recognized: "
                f"its output comes from {layer.name!r} ({type(layer).__name__}) "
                f"instead of a Dense layer or a 1x1 convolution. {_REMEDY}"
            )
        activation = activation or _activation(layer, keras)
        tensor = inputs[0]
    return Cut(
        features=keras.Model(_inputs(model), features, name=model.name),
        classifier=layer,
        activation=activation or last,
        output_rank=len(output.shape),
        output_dtype=getattr(output.dtype, "name", output.dtype),
    )


def clone(model: Any, keras: Any, input_shape: Any = None) -> Any:
    """Returns a copy of a functional model with its own layers and weights.

    Args:
        model: A functional model.
        keras: The module that it belongs to.
        input_shape: A new input shape without the batch, or `None` to keep it.

    Raises:
        ValueError: If the layers cannot take an input of that shape.
    """
    if input_shape is None:
        return keras.models.clone_model(model)
    if len(model.inputs) != 1:
        raise ValueError(
            f"`input_shape` is for networks with one input, but {model.name!r} has "
            f"{len(model.inputs)}. Pass `backbone=` instead."
        )
    try:
        image = keras.Input(shape=input_shape, dtype=model.inputs[0].dtype)
        return keras.models.clone_model(
            model, input_tensors=image, clone_function=_clone_for_any_size
        )
    except (ValueError, TypeError) as error:
        raise _does_not_fit(input_shape, error) from error


def attach(body: Any, head: list[Any], keras: Any, input_shape: Any) -> Any:
    """Returns one model of `body` with the layers of `head` on its output.

    A subclassed `body` becomes one layer of the new model.
    """
    name = body.name
    if is_graph(body):
        inputs, x = _inputs(body), body.outputs[0]
    else:
        shape = _shape_taken(body) if input_shape is None else input_shape
        inputs = keras.Input(shape=shape)
        x, name = body(inputs), f"{name}_student"
    for layer in head:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def check_runs(model: Any, input_shape: Any) -> None:
    """Checks that an example of a shape passes through the network.

    Raises:
        ValueError: If it does not; Keras 3 does not check this for nested networks.
    """
    if None in input_shape or len(model.inputs) != 1:
        return
    dtype = model.inputs[0].dtype
    example = np.zeros((1, *input_shape), getattr(dtype, "name", dtype))
    try:
        model(example, training=False)
    except Exception as error:  # Every backend has its own.
        raise _does_not_fit(input_shape, error) from error


def _does_not_fit(input_shape: Any, error: Exception) -> ValueError:
    return ValueError(f"`input_shape` {input_shape} does not fit the network: {error}")


def _inputs(model: Any) -> Any:
    """Returns the symbolic inputs of a graph, in the structure that it takes."""
    return model.inputs[0] if len(model.inputs) == 1 else model.input


def _clone_for_any_size(layer: Any) -> Any:
    """Returns a layer's clone; a nested network then takes inputs of any size."""
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
        f"`input_shape` is needed, because the input shape of `backbone` {body.name!r} "
        "is not known. Pass the shape of one example, as input_shape=(32, 32, 3)."
    )


def _made_by(tensor: Any) -> tuple[Any, list[Any]]:
    """Returns the layer that a symbolic tensor comes from, and the layer's inputs."""
    layer, node_index, _ = tensor._keras_history
    node = layer._inbound_nodes[node_index]
    inputs = getattr(node, "keras_inputs", None)
    return layer, list(node.input_tensors if inputs is None else inputs)


def _is_classifier(layer: Any, keras: Any) -> bool:
    layers = keras.layers
    convolutions = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
    return isinstance(layer, layers.Dense) or (
        isinstance(layer, convolutions) and set(layer.kernel_size) == {1}
    )


def _is_cut_too(layer: Any, keras: Any) -> bool:
    """Returns whether a layer behind the classifier is cut off with it."""
    if not isinstance(layer, keras.layers.Layer) or "OpLambda" in type(layer).__name__:
        return _activation(layer, keras) is not None
    return not layer.weights


def _activation(layer: Any, keras: Any) -> Any:
    # An operation of `keras.ops`, or tf_keras' layer for one: `tf.nn.softmax_1`.
    names = type(layer).__name__, layer.name.split(".")[-1].rstrip("_0123456789")
    for name in ("softmax", "sigmoid"):
        if name in (names[0].lower(), names[1]):
            return getattr(keras.activations, name)
    return getattr(layer, "activation", None)
