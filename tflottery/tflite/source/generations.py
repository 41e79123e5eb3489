"""Generations: what the export asks of a Keras 3 or a tf_keras model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from tflottery.engines import network


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


def caller(model: Any, inputs: int) -> Callable[[Sequence[Any]], list[Any]]:
    """Returns a function from flat inputs to flat outputs, in inference mode."""
    if generation(model) == "keras":
        import keras

        flatten, pack = keras.tree.flatten, keras.tree.pack_sequence_as
    else:
        import tensorflow as tf

        flatten, pack = tf.nest.flatten, tf.nest.pack_sequence_as
    built_with = structure(model)

    def call(flat: Sequence[Any]) -> list[Any]:
        given = list(flat) if inputs > 1 else flat[0]
        if isinstance(built_with, dict):
            given = pack(built_with, list(flat))
        return flatten(model(given, training=False))

    return call
