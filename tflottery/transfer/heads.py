"""Heads: the layers that a student has of its own, dense and fresh.

Serves Keras 3 and tf_keras alike; `keras` is always the module a model belongs to.
"""

import zlib
from collections.abc import Sequence
from typing import Any

from tflottery.transfer import graph


def classifier_like(found: graph.Cut, keras: Any, num_classes: int) -> Any:
    """Returns a Dense layer in the place of the old classifier."""
    old, activation = found.classifier, found.activation
    old_units = getattr(old, "units", None) or old.filters
    name = getattr(activation, "__name__", None)
    if name == "sigmoid" and old_units == 1:
        activation = keras.activations.softmax
    dtype = getattr(old, "dtype_policy", None) or old.dtype
    if found.output_dtype != old.compute_dtype:
        # With mixed precision the output is often an activation in float32.
        dtype = found.output_dtype
    return keras.layers.Dense(
        num_classes,
        activation=activation,
        use_bias=old.use_bias,
        dtype=dtype,
        name=old.name,
    )


def checked(head: Any, keras: Any) -> list[Any]:
    """Returns the layers of `head`, which is one or a list of them.

    Raises:
        ValueError: where one is not a layer of `keras`, or not a new one.
    """
    layers = list(head) if isinstance(head, list | tuple) else [head]
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                f"`head` must be a layer of {keras.__name__} or a list of them, as the "
                f"source is. Received: {layer!r} of type {type(layer).__name__}"
            )
        if layer.built and layer.weights:
            raise ValueError(
                f"`head` must be new, but its layer {layer.name!r} has weights "
                "already. Make a new layer for each student."
            )
    if not layers:
        raise ValueError("`head` must have at least one layer. Received: head=[]")
    return layers


def check_names(layers: Sequence[Any], body: Any) -> None:
    """Checks that no layer of the head has the name of one of the backbone's."""
    taken = graph.layers_of(body) if graph.is_graph(body) else {body.name}
    for layer in layers:
        if layer.name in taken:
            raise ValueError(
                f"`head` has a layer named {layer.name!r}, as the backbone has. Give "
                "it another name."
            )


def seeded(layer: Any, seed: int | None, index: int) -> Any:
    """Returns the layer, or one like it with a seed for each draw that has none."""
    if seed is None:
        return layer
    config = layer.get_config()
    with_seeds = _with_seeds(config, f"{seed}/{index}")
    return layer if with_seeds == config else type(layer).from_config(with_seeds)


def _with_seeds(config: Any, key: str) -> Any:
    if isinstance(config, dict):
        return {
            name: zlib.crc32(key.encode()) & 0x7FFFFFFF
            if name == "seed" and value is None
            else _with_seeds(value, f"{key}/{name}")
            for name, value in config.items()
        }
    if isinstance(config, list):
        return [_with_seeds(value, f"{key}/{i}") for i, value in enumerate(config)]
    return config
