"""Generations: what the export asks of a Keras 3 or a tf_keras model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tflottery.engines import network
from tflottery.tflite.file.inputs import Spec


def generation(model: Any) -> str:
    """Returns "keras" or "tf_keras", whichever made the model.

    Raises:
        TypeError: If neither did.
    """
    try:
        return network.keras_of(model).__name__
    except TypeError as error:
        raise TypeError(
            "`model` must be a Keras 3 or tf_keras model, or the path of a dense "
            f".tflite file. Received: {type(model).__name__}"
        ) from error


def all_layers(model: Any) -> list[Any]:
    """Returns the model and all layers inside it, pruning wrappers included."""
    return list(model._flatten_layers())


def structure(model: Any) -> Any:
    """Returns the inputs the model was built with: a tensor, a list or a dict."""
    name = "_inputs_struct" if generation(model) == "keras" else "_nested_inputs"
    return getattr(model, name, None)


def without_updates(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Returns a scope in which what a Keras 3 layer assigns to its weights is local.

    A traced model reads what it wrote, and freezing finds nothing that is written.
    """
    if generation(model) == "keras":
        import keras

        return keras.StatelessScope()
    return contextlib.nullcontext()


def caller(
    model: Any, specs: Sequence[Spec]
) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """Returns a function from flat inputs to named outputs, in inference mode."""
    if generation(model) == "keras":
        import keras

        pack = keras.tree.pack_sequence_as
    else:
        import tensorflow as tf

        pack = tf.nest.pack_sequence_as
    built_with = structure(model)

    def call(flat: Sequence[Any]) -> dict[str, Any]:
        given = list(flat) if len(specs) > 1 else flat[0]
        if specs[0].key is not None:
            given = {spec.key: x for spec, x in zip(specs, flat, strict=True)}
        elif isinstance(built_with, dict):
            given = pack(built_with, list(flat))
        return dict(_named(model(given, training=False)))

    return call


def _named(outputs: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the outputs with names: the keys of dicts, or their numbers.

    >>> dict(_named({"b": 1, "a": [2, 3]}))
    {'a_0': 2, 'a_1': 3, 'b': 1}
    """
    if isinstance(outputs, Mapping):
        for key in sorted(outputs, key=str):
            yield from _named(outputs[key], f"{name}_{key}" if name else str(key))
    elif isinstance(outputs, list | tuple):
        for index, output in enumerate(outputs):
            yield from _named(output, f"{name or 'output'}_{index}")
    else:
        yield name or "output_0", outputs
