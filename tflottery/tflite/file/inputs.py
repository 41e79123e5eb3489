"""Samples: what a model is fed to compare it, or to calibrate it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph

_DRAWN_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Spec:
    """One input of a model: its shape with the batch, its type and its name."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    name: str


def specs_of(graph: Graph) -> list[Spec]:
    """Returns the inputs of a file, by the names of its signature if it has one."""
    names = {tensor: graph.tensors[tensor].name for tensor in graph.inputs}
    for signature in graph.model.signatureDefs or []:
        if signature.subgraphIndex == 0:
            names |= {int(e.tensorIndex): e.name for e in signature.inputs or []}
    result = []
    for tensor in graph.inputs:
        quantization = graph.tensors[tensor].quantization
        quantized = quantization is not None and quantization.scale is not None
        dtype = np.float32 if quantized else graph.dtype(tensor)
        name = (names[tensor] or b"input").decode(errors="replace")
        result.append(Spec(graph.shape(tensor) or (1,), np.dtype(dtype), name))
    return result


def plain_name(name: str) -> str:
    """Returns an input's name as a file has it: letters, digits and underscores.

    >>> plain_name("2-d image")
    'input_2_d_image'
    """
    plain = "input_" + name if not name[:1].isalpha() else name
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in plain)


def by_name(values: Mapping[str, Any], specs: Sequence[Spec]) -> list[Any]:
    """Returns the values of a dict in the order of the inputs that its keys name.

    Raises:
      ValueError: If a key is missing or is no input's name.
    """
    named = {plain_name(str(key)): value for key, value in values.items()}
    wanted = [plain_name(spec.name) for spec in specs]
    if set(named) != set(wanted) or len(named) != len(values):
        raise ValueError(
            f"The inputs are named {[spec.name for spec in specs]}. "
            f"Received: a dict of {list(values)}"
        )
    return [named[name] for name in wanted]


def as_samples(samples: Any, specs: Sequence[Spec]) -> list[np.ndarray]:
    """Returns one array per input, each of the input's own type.

    Raises:
      ValueError: If they do not fit the inputs.
    """
    if isinstance(samples, Mapping):
        samples = by_name(samples, specs)
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
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"`samples` of input {spec.name!r} must be finite numbers. Received: "
                "NaN or infinity among them"
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


def take(data: Any, specs: Sequence[Spec], most: int) -> list[np.ndarray]:
    """Returns up to `most` samples of `data`, one array per input.

    Args:
      data: An array `[samples, ...]`, a list or a dict of one array per input, or an
        iterable or a function returning one, of batches: `x`, `(x, labels)`, lists or
        dicts of inputs.
      specs: The inputs of the model.
      most: How many samples to take at most.

    Raises:
      TypeError: If it is no such data.
      ValueError: If there are none, or they do not fit the inputs.
    """
    if isinstance(data, str | bytes) or not (
        callable(data) or hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    ):
        raise TypeError(
            "`representative_data` must be an array, or an iterable of batches. "
            f"Received: {data!r} of type {type(data).__name__}"
        )
    columns = _columns(data, specs, most)
    if len(columns) != len(specs):
        raise ValueError(
            f"`representative_data` must hold one array for each of the {len(specs)} "
            f"inputs. Received: {len(columns)} arrays"
        )
    for array, spec in zip(columns, specs, strict=True):
        _check_calibrates(array, spec)
    return columns


def _check_calibrates(array: np.ndarray, spec: Spec) -> None:
    """Checks that a batch or more of the array can tell the range of an input."""
    real = array.dtype.kind in "biufV"  # To NumPy bfloat16 is of the kind of void.
    if (
        array.shape[1:] != spec.shape[1:]
        or len(array) < spec.shape[0]
        or not real
        or not np.isfinite(array).all()
    ):
        what = "" if not real or np.isfinite(array).all() else ", NaN or infinity in it"
        raise ValueError(
            f"`representative_data` of input {spec.name!r} must hold {spec.shape[0]} "
            f"or more samples of shape {spec.shape[1:]}, all finite numbers. "
            f"Received: {array.dtype} of shape {array.shape}{what}"
        )


def _columns(data: Any, specs: Sequence[Spec], most: int) -> list[np.ndarray]:
    if hasattr(data, "shape") and hasattr(data, "dtype"):  # of any library
        _check_batched([data], specs, data)
        return [np.asarray(data[:most])]
    if isinstance(data, Mapping):
        data = by_name(data, specs)
    if _is_list(data) and len(data) == len(specs) and hasattr(data[0], "shape"):
        arrays = [np.asarray(array) for array in data]
        _check_batched(arrays, specs, data)
        return [array[:most] for array in arrays]
    batches = data() if isinstance(data, Callable) else data
    parts: list[list[np.ndarray]] = []
    count = 0
    for batch in batches:
        arrays = _inputs_of(batch, specs)
        _check_batched(arrays, specs, batch)
        parts.append(arrays)
        count += len(arrays[0])
        if count >= most:
            break
    if not parts:
        raise ValueError("`representative_data` holds no samples.")
    return [np.concatenate(column)[:most] for column in zip(*parts, strict=True)]


def _check_batched(arrays: Sequence[Any], specs: Sequence[Spec], batch: Any) -> None:
    """Checks that the arrays of a batch hold samples, and are not samples themselves.

    They may be too many or too few.
    """
    for array, spec in zip(arrays, specs, strict=False):
        if tuple(array.shape) == spec.shape[1:]:
            raise ValueError(
                f"`representative_data` of input {spec.name!r} looks like single "
                "samples: it must be an array (samples, ...), or an iterable of such "
                "batches. Batch a dataset with `ds.batch(32)`, and give `x[None]` for "
                f"a sample x. Received: an array of shape {tuple(array.shape)}"
            )
        if not len(array.shape):
            raise ValueError(
                "`representative_data` must be an array, or an iterable of batches of "
                f"arrays. Received as a batch: {batch!r}"
            )


def _inputs_of(batch: Any, specs: Sequence[Spec]) -> list[np.ndarray]:
    """Returns the inputs of a batch, its labels left away."""
    if isinstance(batch, tuple | list) and (
        len(specs) == 1 or isinstance(batch[0], list | tuple | Mapping)
    ):
        batch = batch[0]
    if isinstance(batch, Mapping):
        batch = by_name(batch, specs)
    columns = list(batch) if _is_list(batch) else [batch]
    return [np.asarray(column) for column in columns[: len(specs)]]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
