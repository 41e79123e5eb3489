"""Compiling: the optimizer and loss of a model that was not compiled.

Serves Keras 3 and tf_keras. `keras` is always the module that the model belongs to.
"""

from typing import Any

import numpy as np

from tflottery.engines.data import first_batch, output_units


def compile_default(model: Any, keras: Any, data: Any) -> str:
    """Compiles a model with Adam(1.2e-3) and the cross-entropy that fits it.

    Returns:
        One line for the user that names what was chosen.

    Raises:
        ValueError: If it is not clear which loss fits. It says what to compile.
    """
    y = first_batch(data)[1]
    units = output_units(model)
    activation = _output_activation(model, keras)
    loss = None
    if units is not None and activation is not None and not isinstance(y, dict):
        loss = _cross_entropy(keras, np.asarray(y), units, activation)
    if loss is None:
        raise ValueError(
            f"`model` {model.name!r} is not compiled, and it is not clear which loss "
            f"fits its output (units: {units}, activation: {activation}) and its "
            "labels. Compile it first, for example `model.compile(optimizer, loss, "
            'metrics=["accuracy"])`.'
        )
    arguments: dict[str, Any] = {}
    # XLA is slow on CPUs; JAX always compiles.
    if keras.__name__ == "tf_keras" or keras.backend.backend() != "jax":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            arguments["jit_compile"] = False
    model.compile(
        keras.optimizers.Adam(1.2e-3), loss, metrics=["accuracy"], **arguments
    )
    logits = ", from logits" if loss.get_config().get("from_logits") else ""
    return f"Not compiled: using Adam(1.2e-3) and {loss.name}{logits}, with accuracy."


def _cross_entropy(keras: Any, y: np.ndarray, units: int, activation: str) -> Any:
    logits = activation == "linear"
    whole = np.issubdtype(y.dtype, np.integer) or (
        y.dtype.kind == "f" and y.size and np.all(y == np.floor(y))
    )
    column = y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1)
    if units == 1:
        fits = whole and column and y.min() >= 0 and y.max() <= 1
        if fits and activation in ("linear", "sigmoid"):
            return keras.losses.BinaryCrossentropy(from_logits=logits)
    elif activation in ("linear", "softmax") and whole:
        if column and np.issubdtype(y.dtype, np.integer):
            return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
        if y.ndim == 2 and y.shape[1] == units and np.all(y.sum(1) == 1):
            return keras.losses.CategoricalCrossentropy(from_logits=logits)
    return None


def _output_activation(model: Any, keras: Any) -> str | None:
    """Returns the name of the activation that makes the model's output, if known."""
    try:
        history = model.outputs[0]._keras_history
        layer = getattr(history, "operation", None) or history.layer
    except (AttributeError, TypeError, IndexError):
        return None
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", None)
