"""Graph: finds a network's classifier, cuts it off, and attaches a new head.

Works on functional and Sequential models of Keras 3 and tf_keras; `keras` is always the
module that a model belongs to.
"""

import dataclasses
from typing import Any

import numpy as np

from tflottery.engines import network
from tflottery.transfer import copying

_REMEDY = (
    "Pass `backbone=`, the part whose output the new head gets: a model inside the "
    "source, such as keras.Model(source.inputs, source.get_layer(NAME).output), which "
    "is copied, or a model built anew with the ticket's first paths."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """A network without its classifier.

    Attributes:
        features: A functional model that shares the network's layers up to the cut.
        classifier: The Dense or convolution layer that was cut off.
        activation: The last activation function before the network's output.
        output_rank: Number of dimensions of the network's output, batch included.
        output_dtype: Name of the output's dtype.
    """

    features: Any
    classifier: Any
    activation: Any
    output_rank: int
    output_dtype: str


def cut(model: Any, keras: Any, output: str | None = None) -> Cut:
    """Cuts a model before its classifier, the last Dense layer or convolution.

    Layers without weights that follow the classifier, such as Softmax, Reshape or
    pooling, are cut off with it. `model` itself does not change.

    Args:
        model: A model.
        keras: The module that it belongs to.
        output: Which of several outputs to follow.

    Raises:
        ValueError: If the model is not a graph, its output is not clear or does not
            come from such a layer.
    """
    if not network.is_graph(model):
        inside = [name for name, x in vars(model).items() if isinstance(x, keras.Model)]
        raise ValueError(
            f"`source` {model.name!r} is a subclassed model, so its classifier cannot "
            "be cut off. Pass `backbone=`, the part whose output the new head gets: "
            + (f"one of source.{', source.'.join(inside)}" if inside else "a model")
            + " (if it ends in a classifier: keras.Model(part.inputs, "
            "part.layers[-2].output)), or a model built anew with the ticket's first "
            "paths."
        )
    tensor = end = _output(model, output)
    activation = None
    while True:
        layer, inputs = _made_by(tensor)
        core = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer
        if len(inputs) == 1 and _is_classifier(core, keras):
            features, last, layer = inputs[0], core.activation, core
            break
        if len(inputs) == 1 and _is_inner(layer, keras) and len(layer.outputs) == 1:
            inner = cut(layer, keras)
            features, last = inner.features(inputs[0]), inner.activation
            layer = inner.classifier
            break
        if len(inputs) != 1 or not _is_cut_too(layer, tensor, keras):
            raise ValueError(
                f"`source` {model.name!r} has no classifier that could be recognized: "
                f"its output comes from {layer.name!r} ({type(layer).__name__}) "
                f"instead of a Dense layer or a convolution. {_REMEDY}"
            )
        activation = activation or _activation(layer, keras)
        tensor = inputs[0]
    return Cut(
        features=keras.Model(_inputs(model), features, name=model.name),
        classifier=layer,
        activation=activation or last,
        output_rank=len(end.shape),
        output_dtype=getattr(end.dtype, "name", end.dtype),
    )


def _output(model: Any, name: str | None) -> Any:
    """Returns a model's output of a name, or its only one."""
    if name is None and len(model.outputs) == 1:
        return model.outputs[0]
    outputs = {_made_by(tensor)[0].name: tensor for tensor in model.outputs}
    if len(model.outputs) > 1 and isinstance(model.output, dict):
        outputs = model.output
    if name not in [*outputs]:
        raise ValueError(
            f"`source` {model.name!r} has the outputs {', '.join(outputs)}. Pass the "
            "one whose head is to be replaced, the only one that the student has, as "
            f"output={next(iter(outputs))!r}. Received: output={name!r}"
        )
    return outputs[name]


def clone(
    model: Any, keras: Any, input_shape: Any = None, memo: dict[int, Any] | None = None
) -> Any:
    """Returns a copy of a model with its own layers and weights.

    Args:
        model: A model; a subclassed one keeps its input shape.
        keras: The module that it belongs to.
        input_shape: A new input shape without the batch, or `None` to keep it.
        memo: The copies of what it has in common with other models, if any.

    Raises:
        ValueError: If a layer cannot be copied, or not take an input of that shape.
    """
    memo = {} if memo is None else memo

    def copied(layer: Any) -> Any:
        if not _is_inner(layer, keras):
            return copying.copied(layer, keras, memo, copied)
        if id(layer) not in memo:
            shape = None
            if input_shape is not None and len(layer.inputs) == 1:
                *sizes, channels = layer.inputs[0].shape[1:]
                shape = (*[None] * len(sizes), channels)
            memo[id(layer)] = clone(layer, keras, shape, memo)
        return memo[id(layer)]

    if not network.is_graph(model):
        return copied(model)
    if input_shape is not None and len(model.inputs) != 1:
        raise ValueError(
            f"`input_shape` is for networks with one input, but {model.name!r} has "
            f"{len(model.inputs)}. Pass `backbone=` instead."
        )
    if getattr(model, "compiled", False):  # Keras 3 would compile the copy too.
        outputs = model.outputs[0] if len(model.outputs) == 1 else model.output
        model = keras.Model(_inputs(model), outputs, name=model.name)
    if input_shape is None:
        return keras.models.clone_model(model, clone_function=copied)
    try:
        image = keras.Input(shape=input_shape, dtype=model.inputs[0].dtype)
        return keras.models.clone_model(
            model, input_tensors=image, clone_function=copied
        )
    except (ValueError, TypeError) as error:
        raise _does_not_fit(input_shape, error) from error


def attach(body: Any, head: list[Any], keras: Any, input_shape: Any) -> Any:
    """Returns one model of `body` with the layers of `head` on its output.

    A subclassed `body` becomes one layer of the new model.
    """
    name = body.name
    if network.is_graph(body):
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


def _is_inner(layer: Any, keras: Any) -> bool:
    """Returns whether a layer is itself a graph of layers."""
    return isinstance(layer, keras.Model) and network.is_graph(layer)


def _does_not_fit(input_shape: Any, error: Exception) -> ValueError:
    return ValueError(f"`input_shape` {input_shape} does not fit the network: {error}")


def _inputs(model: Any) -> Any:
    """Returns the symbolic inputs of a graph, in the structure that it takes."""
    return model.inputs[0] if len(model.inputs) == 1 else model.input


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
    kinds = ("Dense", *(f"Conv{n}D{kind}" for n in "123" for kind in ("", "Transpose")))
    return isinstance(layer, tuple(getattr(keras.layers, kind) for kind in kinds))


def _is_cut_too(layer: Any, output: Any, keras: Any) -> bool:
    """Returns whether a layer behind the classifier is cut off with it."""
    if getattr(layer, "axis", -1) not in (-1, len(output.shape) - 1):
        return False  # A softmax over time steps, say.
    if not isinstance(layer, keras.layers.Layer) or "OpLambda" in type(layer).__name__:
        return _activation(layer, keras) is not None
    ours = type(layer).__module__.split(".")[0] == keras.__name__
    return ours and not isinstance(layer, keras.layers.Lambda) and not layer.weights


def _activation(layer: Any, keras: Any) -> Any:
    # An operation of `keras.ops`, or tf_keras' layer for one: `tf.nn.softmax_1`.
    names = type(layer).__name__, layer.name.split(".")[-1].rstrip("_0123456789")
    for name in ("softmax", "sigmoid"):
        if name in (names[0].lower(), names[1]):
            return getattr(keras.activations, name)
    return getattr(layer, "activation", None)
