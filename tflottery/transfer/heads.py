"""Heads: the student's own new, dense layers.

Works on Keras 3 and tf_keras; `keras` is always the module that a model belongs to.
"""

import zlib
from collections.abc import Sequence
from typing import Any

from tflottery.engines import network
from tflottery.transfer import graph


def made(num_classes: Any, body: Any, found: graph.Cut | None, keras: Any) -> list[Any]:
    """Returns a new classifier for `body`: like the old one, if that is known."""
    if found is None:
        units = keras.layers.Dense(num_classes, activation="softmax", name="head")
    else:
        units = _like(found, keras, num_classes)
    rank = len(body.outputs[0].shape) if network.is_graph(body) else 2
    if rank == 2 or (found is not None and found.output_rank != 2):
        return [units]
    pool = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")
    data_format = getattr(found and found.classifier, "data_format", None)
    return [pool(name="head_pool", data_format=data_format), units]


def _like(found: graph.Cut, keras: Any, num_classes: Any) -> Any:
    """Returns a Dense layer, or a convolution where the old classifier has places."""
    old, activation = found.classifier, found.activation
    config = old.get_config()
    if (
        config.get("units", config.get("filters")) == 1
        and getattr(activation, "__name__", None) == "sigmoid"
    ):
        activation = keras.activations.softmax
    dtype = getattr(old, "dtype_policy", None) or old.dtype
    if found.output_dtype != old.compute_dtype:
        # In mixed precision the output often comes from a float32 activation.
        dtype = found.output_dtype
    same = {"activation": activation, "use_bias": old.use_bias, "dtype": dtype}
    if isinstance(old, keras.layers.Dense) or found.output_rank == 2:
        return keras.layers.Dense(num_classes, name=old.name, **same)
    new = ("initializer", "regularizer", "constraint")  # Their seeds would repeat.
    config = {name: x for name, x in config.items() if not name.endswith(new)}
    return type(old)(**config | same | {"filters": num_classes})


def checked(head: Any, keras: Any) -> list[Any]:
    """Returns `head`, a layer or a list of layers, as a list.

    Raises:
        ValueError: If it is empty, or has something else than new layers of `keras`.
    """
    layers = list(head) if isinstance(head, list | tuple) else [head]
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                f"`head` must be a layer of {keras.__name__}, like the source, or a "
                f"list of them. Received: {layer!r} of type {type(layer).__name__}"
            )
        if layer.built and layer.weights:
            raise ValueError(
                f"`head` must be new, but its layer {layer.name!r} already has "
                "weights. Make a new layer for each student."
            )
    if not layers:
        raise ValueError("`head` must have at least one layer. Received: head=[]")
    return layers


def check_names(layers: Sequence[Any], body: Any) -> None:
    """Checks that the head and the backbone have no layer name in common."""
    taken = {body.name}
    if network.is_graph(body):
        taken = {layer.name for layer in network.children(body)}
    for layer in layers:
        if layer.name in taken:
            raise ValueError(
                f"`head` has a layer named {layer.name!r}, and so has the backbone. "
                "Give it another name."
            )


def seeded(layer: Any, seed: int | None, index: int) -> Any:
    """Returns the layer, or a copy in which each missing seed is filled in."""
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
