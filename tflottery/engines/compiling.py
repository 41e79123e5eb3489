"""Defaults: the training that a model gets where it brings none, and its head's fit.

Serves Keras 3 and tf_keras alike; `keras` is always the module a model belongs to.
"""

from typing import Any

import numpy as np

from tflottery.engines.data import first_batch


def check_labels(model: Any, data: Any, name: str = "ds") -> None:
    """Checks that class labels fit the model's output; `name` is the argument's.

    Raises:
        ValueError: naming the labels that are out of range or no whole numbers.
    """
    loss = model.loss
    loss_name = loss if isinstance(loss, str) else getattr(loss, "name", None)
    if loss_name != "sparse_categorical_crossentropy":
        return
    units = _output_units(model)
    _, y = first_batch(data, name)
    labels = np.asarray(y)
    if units is None or labels.size == 0:
        return
    if labels.dtype.kind not in "iub" and not np.all(labels == np.floor(labels)):
        raise ValueError(
            f"`{name}` has labels that are no whole numbers, as {labels.flat[0]}, "
            "but the loss sparse_categorical_crossentropy takes class numbers. Use "
            '"categorical_crossentropy" for probabilities, or a regression loss.'
        )
    low, high = labels.min(), labels.max()
    if low < 0 or high >= units:
        raise ValueError(
            f"`{name}` has labels from {low} to {high}, but the model's output has "
            f"{units} units, for labels from 0 to {units - 1}. Give the model a head "
            f"of {high + 1 if low >= 0 else units} units, or map the labels."
        )


def compile_default(model: Any, keras: Any, data: Any) -> str:
    """Compiles a model with Adam(1.2e-3) and the cross-entropy that fits.

    Returns:
        One line that says what it was compiled with.

    Raises:
        ValueError: where the loss cannot be told; it says what to compile.
    """
    _, y = first_batch(data)
    units = _output_units(model)
    activation = _output_activation(model, keras)
    loss = None
    if units is not None and activation is not None and not isinstance(y, dict):
        loss = _cross_entropy(keras, np.asarray(y), units, activation)
    if loss is None:
        raise ValueError(
            f"`model` {model.name!r} is not compiled, and which loss fits its output "
            f"(units: {units}, activation: {activation}) and its labels cannot be "
            "told. Compile it first, as `model.compile(optimizer, loss, "
            'metrics=["accuracy"])`.'
        )
    arguments = {} if _on_accelerator(keras) else {"jit_compile": False}
    if keras.__name__ == "keras" and keras.backend.backend() == "jax":
        arguments = {}  # JAX steps are compiled or very slow.
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


def _output_units(model: Any) -> int | None:
    try:
        shape = model.output_shape
    except (AttributeError, RuntimeError, ValueError):
        return None
    if isinstance(shape, (list, dict)) or not isinstance(shape, tuple) or not shape:
        return None
    return shape[-1] if isinstance(shape[-1], int) else None


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


def _on_accelerator(keras: Any) -> bool:
    if keras.__name__ == "keras" and keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
