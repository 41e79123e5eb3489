"""Inputs: what a model is fed to compare its file with it, or to calibrate it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tflottery.core import checks
from tflottery.tflite.file.graph import Graph

_DRAWN_SAMPLES = 8
_DRAWN_SIZE = 64  # of open dimensions


@dataclasses.dataclass(frozen=True)
class Spec:
    """One input of a model: its shape with the batch, its type and its name.

    An open size, which a runtime can change, is None.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    name: str

    def fits(self, shape: Sequence[int | None]) -> bool:
        """Returns whether `shape`, without a batch, is one that the input takes."""
        own = self.shape[1:]
        return len(shape) == len(own) and all(
            size in (None, given) for size, given in zip(own, shape, strict=True)
        )


def specs_of(graph: Graph) -> list[Spec]:
    """Returns the inputs of a file, named as in its signature if it has one."""
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
        result.append(Spec(graph.input_shape(tensor) or (1,), np.dtype(dtype), name))
    return result


def plain_name(name: str) -> str:
    """Returns the name of an input with letters, digits and underscores only.

    >>> plain_name("2-d image")
    'input_2_d_image'
    """
    plain = "input_" + name if not name[:1].isalpha() else name
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in plain)


def by_name(values: Mapping[str, Any], specs: Sequence[Spec]) -> list[Any]:
    """Returns the values of a dict from input names in the order of the inputs.

    Raises:
        ValueError: If the keys are not the names of the inputs.
    """
    named = {plain_name(str(key)): value for key, value in values.items()}
    wanted = [plain_name(spec.name) for spec in specs]
    if set(named) != set(wanted) or len(named) != len(values):
        raise ValueError(
            f"The inputs are named {[spec.name for spec in specs]}. "
            f"Received: a dict of {list(values)}"
        )
    return [named[name] for name in wanted]


def fixed(specs: Sequence[Spec], input_shape: Any) -> list[Spec]:
    """Returns the inputs with the sizes that `input_shape` fixes.

    Args:
        specs: Inputs of the model, some sizes of which may be open.
        input_shape: Shape of a sample, or a list or a dict of one per input; None
            leaves open what is open.

    Raises:
        ValueError: If a shape does not fit its input.
    """
    if input_shape is None:
        return list(specs)
    shapes = [input_shape]
    if isinstance(input_shape, Mapping):
        shapes = by_name(input_shape, specs)
    elif _is_list(input_shape) and any(map(_is_list, input_shape)):
        shapes = list(input_shape)
    for spec, shape in itertools.zip_longest(specs, shapes):
        whole = _is_list(shape) and all(map(checks.is_whole, shape))
        if spec is None or not whole or 0 in shape or not spec.fits(shape):
            wanted = " and ".join(f"{s.shape[1:]} of {s.name!r}" for s in specs)
            raise ValueError(
                "`input_shape` must hold the sizes of a sample, without the batch: "
                f"{wanted}, with a number for None. Received: "
                f"input_shape={input_shape!r}"
            )
    return [
        dataclasses.replace(spec, shape=(spec.shape[0], *shape))
        for spec, shape in zip(specs, shapes, strict=True)
    ]


def as_samples(samples: Any, specs: Sequence[Spec]) -> list[np.ndarray]:
    """Returns one array per input, cast to the type of the input.

    Args:
        samples: An array `[samples, ...]`, or a list or a dict of one per input; drawn
            from a normal distribution if None, integers from {0, 1}.
        specs: Inputs of the model.

    Raises:
        ValueError: If `samples` do not fit the inputs.
    """
    if samples is None:
        return _draw(specs)
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
        if not spec.fits(array.shape[1:]) or not len(array):
            raise ValueError(
                f"`samples` of input {spec.name!r} must have shape "
                f"(samples, {', '.join(map(str, spec.shape[1:]))}). "
                f"Received: an array of shape {array.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"`samples` of input {spec.name!r} must be finite numbers. "
                "Received: NaN or infinity"
            )
    return [a.astype(s.dtype) for a, s in zip(arrays, specs, strict=True)]


def _draw(specs: Sequence[Spec]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    result = []
    for spec in specs:
        shape = (_DRAWN_SAMPLES, *(size or _DRAWN_SIZE for size in spec.shape[1:]))
        if spec.dtype.kind == "f":
            result.append(generator.normal(size=shape).astype(spec.dtype))
        else:
            result.append(generator.integers(0, 2, shape).astype(spec.dtype))
    return result


def take(data: Any, specs: Sequence[Spec], most: int) -> list[np.ndarray]:
    """Returns up to `most` samples of `data`, one array per input.

    Args:
        data: An array `[samples, ...]`, a list or a dict of one such array per input,
            an iterable of batches, or a function that returns one. A batch is `x` or
            `(x, labels)`, where `x` may be a list or a dict of inputs.
        specs: Inputs of the model.
        most: Number of samples to take at most.

    Raises:
        TypeError: If `data` is neither an array nor an iterable of batches.
        ValueError: If `data` holds no samples, or they do not fit the inputs.
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
    """Checks that an array can tell the range of an input, with at least one batch."""
    real = array.dtype.kind in "biufV"  # NumPy takes bfloat16 to be of kind V, void
    finite = not real or np.isfinite(array).all()
    fits = spec.fits(array.shape[1:]) and len(array) >= (spec.shape[0] or 1)
    if not (fits and real and finite):
        what = "" if finite else ", NaN or infinity in it"
        raise ValueError(
            f"`representative_data` of input {spec.name!r} must hold {spec.shape[0]} "
            f"or more samples of shape {spec.shape[1:]}, all finite numbers. "
            f"Received: {array.dtype} of shape {array.shape}{what}"
        )


def _columns(data: Any, specs: Sequence[Spec], most: int) -> list[np.ndarray]:
    if hasattr(data, "shape") and hasattr(data, "dtype"):  # an array of any library
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
    """Checks that arrays hold samples, and are not samples themselves."""
    for array, spec in zip(arrays, specs, strict=False):  # `take` checks how many
        if spec.fits(array.shape):
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
    """Returns the inputs of a batch, without its labels."""
    if _is_list(batch) and (
        len(specs) == 1 or isinstance(batch[0], list | tuple | Mapping)
    ):
        batch = batch[0]
    if isinstance(batch, Mapping):
        batch = by_name(batch, specs)
    columns = list(batch) if _is_list(batch) else [batch]
    return [np.asarray(column) for column in columns[: len(specs)]]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
