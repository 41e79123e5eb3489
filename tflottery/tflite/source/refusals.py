"""Refusals: models that no file can stand for, and what to export instead."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from tflottery.engines import network
from tflottery.tflite.source.generations import all_layers, generation

# How the stream of a stateful model is made, whose layers follow one another.
_STREAM = """
x = given = keras.Input(batch_shape=model.inputs[0].shape)
states, new = [], {{}}
for layer in model.layers:
    if layer.name in {names}:
        config = {{**layer.get_config(), "stateful": False, "return_state": True}}
        step = type(layer).from_config(config)
        for i, state in enumerate(layer.states):
            name = f"{{layer.name}}_{{i}}"
            states.append(keras.Input(batch_shape=state.shape, name=name))
        count = len(layer.states)
        x, *after = step(x, initial_state=states[-count:])
        step.set_weights(layer.get_weights())
        new.update({{f"{{layer.name}}_{{i}}": after[i] for i in range(count)}})
    elif not isinstance(layer, keras.layers.InputLayer):
        x = layer(x)
stream = keras.Model([given, *states], {{"output": x, **new}})
"""


_READ_TEXT = ("StringLookup", "TextVectorization", "Hashing", "HashedCrossing")


def check(model: Any) -> None:
    """Checks that a model can be exported, as far as its layers tell.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is wrapped for pruning, has no `call`, or a layer of it is
            stateful or quantized by Keras.
    """
    generation(model)  # raises TypeError if it is not a model
    keras = network.keras_of(model)
    layers = all_layers(model)
    if any(type(layer).__name__ == "PruneLowMagnitude" for layer in layers):
        raise ValueError(
            "`model` is still wrapped for pruning. Give "
            "tfmot.sparsity.keras.strip_pruning(model)."
        )
    if not network.can_be_called(model, keras):
        parts = [
            f"model.{name}"
            for name, part in vars(model).items()
            if isinstance(part, keras.layers.Layer)
            and not isinstance(part, keras.metrics.Metric)
            and (not part.built or part.weights)
        ]
        raise ValueError(
            f"`model` {model.name!r} has no `call`, so it does not say what a file "
            f"should compute. Export a part of it: {', '.join(parts) or 'a layer'}."
        )
    if stateful := [
        layer.name
        for layer in layers
        if getattr(layer, "stateful", False)
        and (hasattr(layer, "reset_state") or hasattr(layer, "reset_states"))
        and layer is not model
    ]:
        raise ValueError(
            f"From call to call the state is kept of {named(stateful)}, which a file "
            "cannot do. Make the state an input and an output, to hand on from call "
            f"to call, and export `stream`:\n{_STREAM.format(names=stateful)}"
        )
    modes = {layer: getattr(layer, "quantization_mode", None) for layer in layers}
    if quantized := [
        layer.name for layer, mode in modes.items() if mode in ("int8", "float8")
    ]:
        raise ValueError(
            f"Keras has quantized {named(quantized)}, and TFLite has no operator for "
            "the products. Export the model as it was before `model.quantize`, with "
            'quantize="weights" or target="int8".'
        )


def check_answers(model: Any, outputs: Iterable[np.ndarray]) -> None:
    """Checks that a model's outputs are finite numbers, which a file can be held to.

    Raises:
        ValueError: If they are not.
    """
    for output in outputs:
        if output.dtype.kind not in "biufcV":  # NumPy takes bfloat16 to be of kind V
            ends = [t._keras_history[0].name for t in getattr(model, "outputs", [])]
            raise ValueError(
                "`model` returns text, which cannot be compared with a file's. Export "
                f"the model before that: its outputs come from {named(ends)}."
            )
        if not np.isfinite(output).all():
            raise ValueError(
                "`model` returns NaN or infinity on the samples, so its file cannot be "
                "verified. Check that its weights are finite, and give `samples` in "
                "the range that it was trained on."
            )


def text_input(model: Any, tensor: Any, name: str) -> ValueError:
    """Returns the error for an input that takes text, of a functional model or None."""
    readers = [
        layer.name for layer in all_layers(model) if type(layer).__name__ in _READ_TEXT
    ]
    if tensor is not None:
        readers = [
            layer.name
            for layer in model.layers
            if type(layer).__name__ != "InputLayer"
            for node in layer._inbound_nodes
            for read in getattr(node, "keras_inputs", None) or node.input_tensors
            if read is tensor
        ]
    return ValueError(
        f"Input {name!r} is text, for which TFLite has no operators. {_cut(readers)}"
    )


def missing(
    model: Any, operators: Collection[str], layers: Iterable[str], said: str
) -> ValueError:
    """Returns the error for a model that the converter rejects, saying `said`.

    TFLite lacks the operators, which the layers need.
    """
    if not operators:
        reason = re.search(r"error: (.*)", said)
        said = " ".join((reason[1] if reason else said).split())[:300]
        return ValueError(f"The converter rejects the model: {said}")
    return ValueError(
        f"TFLite has no operator for {', '.join(sorted(operators))}. "
        + _cut(name for name in layers if name != model.name)
    )


def _cut(layers: Iterable[str]) -> str:
    """Returns where to cut a model that computes what TFLite cannot."""
    names = list(layers)
    if not names:
        return "Build the model without it, or export the part before or behind it."
    return (
        f"That is for {named(names)}: export the model behind it, which is "
        "keras.Model(layer.output, model.output) with the model's other inputs beside, "
        "and run the layer before the file; or export the model before it."
    )


def layers_with(model: Any, graph: Any, pattern: str) -> list[str]:
    """Returns the layers whose operators match, by the scopes in a traced graph.

    The pattern is a regular expression of whole operator types.
    """
    traced = graph.as_graph_def()
    inner = (node for f in traced.library.function for node in f.node_def)
    names = {layer.name for layer in all_layers(model)}
    found = []
    for node in [*traced.node, *inner]:
        if re.fullmatch(pattern, node.op):
            for scope in reversed(node.name.split("/")[:-1]):
                # Keras 3 adds a number to the name of the layer, tf_keras may not.
                plain = re.sub(r"_\d+$", "", scope)
                both = [plain, scope]
                if generation(model) == "tf_keras":
                    both.reverse()
                if known := [name for name in both if name in names]:
                    found.append(known[0])
                    break
            else:
                found.append(model.name)
    return list(dict.fromkeys(found))


def named(names: Iterable[str]) -> str:
    """Returns "layer 'a'" or "layers 'a', 'b'", each name once."""
    unique = list(dict.fromkeys(names))
    plural = "s" if len(unique) > 1 else ""
    return f"layer{plural} {', '.join(map(repr, unique))}"
