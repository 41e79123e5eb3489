"""Fitting: whether examples fit a model, told in one line before a search starts."""

from typing import Any

import numpy as np

from tflottery.engines import data as data_lib


def check_examples(name: str, data: Any, model: Any) -> None:
    """Checks that a dataset's examples have the shape and type that a model takes.

    Models of several inputs, or of inputs that cannot be told, are left to Keras.

    Args:
        name: the argument's name, for the error.
        data: what `data.check` has let pass.
        model: a built model.

    Raises:
        ValueError: where the examples are not batched, or of another shape or type.
    """
    x, _ = data_lib.first_batch(data, name)
    wanted, shape = _taken(model), getattr(x, "shape", None)
    if wanted is None or shape is None:
        return
    shape = tuple(shape)
    if np.asarray(x[:1]).dtype.kind in "USO" and _takes_numbers(model):
        raise ValueError(
            f"`{name}` has examples of type {np.asarray(x[:1]).dtype}, but `model` "
            f"{model.name!r} takes numbers. Convert them first."
        )
    if _fits(shape, wanted) and not _fits(shape[1:], wanted):
        raise ValueError(
            f"`{name}` is not batched: it yields single examples of shape {shape}. "
            "Call `.batch(batch_size)` on it."
        )
    if not _fits(shape[1:], wanted):
        raise ValueError(
            f"`{name}` has examples of shape {shape[1:]}, but `model` {model.name!r} "
            f"takes {wanted}. Reshape the examples, or give the model another input."
        )


def _taken(model: Any) -> tuple | None:
    """Returns the shape of one example of a model's only input, if it is known."""
    try:
        shape = model.input_shape
    except (AttributeError, RuntimeError, ValueError):
        return None
    if not isinstance(shape, tuple) or not shape:
        return None
    if any(isinstance(size, tuple | list) for size in shape):
        return None
    return tuple(shape)[1:]


def _takes_numbers(model: Any) -> bool:
    try:
        return "string" not in str(model.inputs[0].dtype)
    except (AttributeError, TypeError, IndexError):
        return False


def _fits(shape: tuple, wanted: tuple) -> bool:
    # Keras adds a last axis of 1, or takes it away.
    shapes = [shape, (*shape, 1), *([shape[:-1]] if shape[-1:] == (1,) else [])]
    return any(
        len(s) == len(wanted)
        and all(w is None or n == w for n, w in zip(s, wanted, strict=True))
        for s in shapes
    )
