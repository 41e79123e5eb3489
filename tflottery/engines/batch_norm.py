"""Batch normalization: its moving statistics, estimated anew after weights changed."""

import contextlib
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tflottery.engines import network


def layers_in(model: Any) -> list[Any]:
    """Returns the BatchNormalization layers that are built and trainable."""
    keras = network.keras_of(model).__name__
    return [
        layer
        for layer in network.all_layers(model)
        if layer.built
        and layer.trainable
        and any(
            base.__name__.startswith("BatchNormalization")
            and base.__module__.split(".")[0] == keras
            for base in type(layer).__mro__
        )
    ]


def estimate(model: Any, layers: Sequence[Any], batches: Iterable[Any]) -> None:
    """Sets the moving statistics to the mean and variance over all `batches`.

    Each batch passes through the model as in inference, except that these layers
    normalize it by its own statistics. So nothing else is drawn or updated.

    Args:
        model: A built model.
        layers: Those of `layers_in(model)` to estimate.
        batches: Inputs of `model`.
    """
    found = {id(layer): [] for layer in layers}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_eager(model))
        for layer in layers:
            stack.enter_context(_watched(layer, found[id(layer)]))
        for x in batches:
            model(x, training=False)
    for layer in layers:
        if not (of_batches := found[id(layer)]):
            continue  # Inference does not use it.
        counts, means, variances = map(np.array, zip(*of_batches, strict=True))
        mean = np.average(means, axis=0, weights=counts)
        variance = np.average(variances + (means - mean) ** 2, axis=0, weights=counts)
        for variable, value in (
            (layer.moving_mean, mean),
            (layer.moving_variance, variance),
        ):
            variable.assign(value.astype(network.value_of(variable).dtype))


@contextlib.contextmanager
def _watched(layer: Any, found: list[Any]) -> Iterator[None]:
    """Adds the size, mean and variance of each batch that `layer` gets to `found`."""
    call, momentum = layer.call, layer.momentum
    given = vars(layer).get("call")
    names = list(inspect.signature(call).parameters)

    def in_training(inputs: Any, *args: Any, **kwargs: Any):
        kwargs = dict(zip(names[1:], args, strict=False)) | kwargs
        outputs = call(inputs, **kwargs | {"training": True})
        statistics = (layer.moving_mean, layer.moving_variance)
        values = (network.value_of(v).astype("float64") for v in statistics)
        found.append((math.prod(inputs.shape), *values))
        return outputs

    # Not through Keras' own __setattr__, which would track it.
    vars(layer)["call"], layer.momentum = in_training, 0.0
    try:
        yield
    finally:
        vars(layer).pop("call")
        if given is not None:
            vars(layer)["call"] = given
        layer.momentum = momentum


@contextlib.contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Runs also eagerly what the model's author made a `tf.function`."""
    if not network.on_tensorflow(network.keras_of(model)):
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
