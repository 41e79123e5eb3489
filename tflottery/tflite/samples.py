"""Samples: what a model is fed to compare it, or to calibrate it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_DRAWN_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Spec:
    """One input of a model: its shape with the batch, its type and its name."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    name: str


def as_samples(samples: Any, specs: Sequence[Spec]) -> list[np.ndarray]:
    """Returns one array per input, each of the input's own type.

    Raises:
      ValueError: If they do not fit the inputs.
    """
    if isinstance(samples, dict):
        samples = list(samples.values())
    arrays = [samples] if len(specs) == 1 and not _is_list(samples) else list(samples)
    arrays = [np.asarray(array) for array in arrays]
    if len(arrays) != len(specs):
        raise ValueError(
            f"`samples` must hold one array for each of the {len(specs)} inputs. "
            f"Received: {len(arrays)} arrays"
        )
    for array, spec in zip(arrays, specs, strict=True):
        if array.shape[1:] != spec.shape[1:] or not len(array):
            raise ValueError(
                f"`samples` of input {spec.name!r} must have shape "
                f"(samples, {', '.join(map(str, spec.shape[1:]))}). "
                f"Received: an array of shape {array.shape}"
            )
    return [a.astype(s.dtype) for a, s in zip(arrays, specs, strict=True)]


def draw(specs: Sequence[Spec]) -> list[np.ndarray]:
    """Returns drawn inputs: normal where real, from {0, 1} where whole."""
    generator = np.random.default_rng(0)
    result = []
    for spec in specs:
        shape = (_DRAWN_SAMPLES, *spec.shape[1:])
        if spec.dtype.kind == "f":
            result.append(generator.normal(size=shape).astype(spec.dtype))
        else:
            result.append(generator.integers(0, 2, shape).astype(spec.dtype))
    return result


def take(data: Any, inputs: int, most: int) -> list[np.ndarray]:
    """Returns up to `most` samples of `data`, one array per input.

    Args:
      data: An array `[samples, ...]`, a list of one array per input, or an iterable
        or a function returning one, of batches: `x`, `(x, labels)` or lists of inputs.
      inputs: How many inputs the model has.
      most: How many samples to take at most.

    Raises:
      ValueError: If there are none.
    """
    if isinstance(data, np.ndarray):
        return [data[:most]]
    if _is_list(data) and len(data) == inputs and hasattr(data[0], "shape"):
        return [np.asarray(array)[:most] for array in data]
    batches = data() if isinstance(data, Callable) else data
    parts: list[list[np.ndarray]] = []
    count = 0
    for batch in batches:
        arrays = _inputs_of(batch, inputs)
        parts.append(arrays)
        count += len(arrays[0])
        if count >= most:
            break
    if not parts:
        raise ValueError("`representative_data` holds no samples.")
    return [np.concatenate(column)[:most] for column in zip(*parts, strict=True)]


def _inputs_of(batch: Any, inputs: int) -> list[np.ndarray]:
    """Returns the inputs of a batch, its labels left away."""
    if isinstance(batch, tuple | list) and (inputs == 1 or _is_list(batch[0])):
        batch = batch[0]
    if isinstance(batch, dict):
        batch = list(batch.values())
    columns = list(batch) if _is_list(batch) else [batch]
    return [np.asarray(column) for column in columns[:inputs]]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
