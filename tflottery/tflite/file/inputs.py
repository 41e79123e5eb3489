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
_REPRESENTATIVE = "`representative_data`"


@dataclasses.dataclass(frozen=True)
class Spec:
    """One input of a model: its shape with the batch, its type and its name.

    An open size, which a runtime can change, is None.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    name: str
    limits: tuple[float, float] | None = None  # of the values that were calibrated
    key: str | None = None  # in the dict that a model without named inputs takes

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
        quantization = graph.quantization(tensor)
        dtype, limits = graph.dtype(tensor), None
        if quantization is not None:
            ends = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], float)
            low, high = (ends - quantization.zeroPoint) * quantization.scale
            dtype, limits = np.dtype(np.float32), (low, high)
        name = (names[tensor] or b"input").decode(errors="replace")
        shape = graph.input_shape(tensor) or (1,)
        result.append(Spec(shape, dtype, name, limits))
    return result


def plain_name(name: str) -> str:
    """Returns the name of an input with letters, digits and underscores only.

    >>> plain_name("2-d image")
    'input_2_d_image'
    """
    plain = "input_" + name if not name[:1].isalpha() else name
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in plain)


def by_name(values: Mapping[str, Any], specs: Sequence[Spec], what: str) -> list[Any]:
    """Returns the values of a dict from input names in the order of the inputs.

    For errors, `what` is what they are.
    """
    named = {plain_name(str(key)): value for key, value in values.items()}
    wanted = [plain_name(spec.name) for spec in specs]
    if set(named) != set(wanted) or len(named) != len(values):
        raise ValueError(
            f"{what} must be a dict of the inputs {[spec.name for spec in specs]}. "
            f"Received: a dict of {list(values)}"
        )
    return [named[name] for name in wanted]


def fixed(specs: Sequence[Spec], input_shape: Any) -> list[Spec]:
    """Returns the inputs with the sizes that `input_shape` fixes.

    That is the shape of a sample, or a list or a dict of one per input; None leaves
    open what is open.
    """
    if input_shape is None:
        return list(specs)
    shapes = [input_shape]
    if isinstance(input_shape, Mapping):
        shapes = by_name(input_shape, specs, "`input_shape`")
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


def as_arrays(
    values: Any, specs: Sequence[Spec], what: str, least: int = 1
) -> list[np.ndarray]:
    """Returns one array per input, of samples that fit it.

    Args:
        values: An array `[samples, ...]`, or a list or a dict of one per input.
        specs: Inputs of the model.
        what: What they are, for errors.
        least: Number of samples that there must be.

    Raises:
        ValueError: If `values` do not fit the inputs, or are not all finite numbers.
    """
    if isinstance(values, Mapping):
        values = by_name(values, specs, what)
    arrays = [np.asarray(array) for array in (values if _is_list(values) else [values])]
    if len(arrays) != len(specs):
        raise ValueError(
            f"{what} must hold one array for each of the {len(specs)} inputs. "
            f"Received: {len(arrays)} arrays"
        )
    for array, spec in zip(arrays, specs, strict=True):
        real = array.dtype.kind in "biufcV"  # NumPy takes bfloat16 to be of kind V
        finite = not real or np.isfinite(array).all()
        fits = array.ndim and spec.fits(array.shape[1:]) and len(array) >= least
        if not (fits and real and finite):
            shape = ", ".join(map(str, spec.shape[1:]))
            raise ValueError(
                f"{what} of input {spec.name!r} must hold {least} or more samples of "
                f"shape ({shape}), all finite numbers. Received: {array.dtype} of "
                f"shape {array.shape}{'' if finite else ', NaN or infinity in it'}"
            )
    if len(counts := {len(array) for array in arrays}) > 1:
        raise ValueError(
            f"{what} must hold as many samples of each input. Received: "
            f"{', '.join(map(str, sorted(counts)))} samples"
        )
    return arrays


def as_samples(samples: Any, specs: Sequence[Spec]) -> list[np.ndarray]:
    """Returns `as_arrays` in the types of the inputs; drawn at random if None."""
    if samples is None:
        return _draw(specs)
    arrays = as_arrays(samples, specs, "`samples`")
    return [a.astype(s.dtype) for a, s in zip(arrays, specs, strict=True)]


def _draw(specs: Sequence[Spec]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    result = []
    for spec in specs:
        shape = (_DRAWN_SAMPLES, *(size or _DRAWN_SIZE for size in spec.shape[1:]))
        if spec.limits is not None:
            drawn = generator.uniform(*spec.limits, shape)
        elif spec.dtype.kind == "f":
            drawn = generator.normal(size=shape)
        else:
            drawn = generator.integers(0, 2, shape)
        result.append(drawn.astype(spec.dtype))
    return result


def take(data: Any, specs: Sequence[Spec], most: int) -> list[np.ndarray]:
    """Returns up to `most` samples of `data`, one array per input.

    Args:
        data: An array `[samples, ...]`, a list or a dict of one such array per input,
            an iterable of batches, or a function that returns one. A batch is `x` or
            `(x, labels)`, where `x` may be a list or a dict of inputs.
        specs: Inputs of the model.
        most: Number of samples to take at most.

    """
    if isinstance(data, str | bytes) or not (
        callable(data) or hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    ):
        raise TypeError(
            "`representative_data` must be an array, or an iterable of batches. "
            f"Received: {data!r} of type {type(data).__name__}"
        )
    columns = _columns(data, specs, most)
    return as_arrays(columns, specs, _REPRESENTATIVE, specs[0].shape[0] or 1)


def _columns(data: Any, specs: Sequence[Spec], most: int) -> list[np.ndarray]:
    arrays = []
    if hasattr(data, "shape") and hasattr(data, "dtype"):  # an array of any library
        arrays = [data]
    if isinstance(data, Mapping):
        data = by_name(data, specs, _REPRESENTATIVE)
    if _is_list(data) and len(data) == len(specs) and hasattr(data[0], "shape"):
        arrays = data
    if arrays:
        _check_batched(arrays, specs, data)
        return [np.asarray(array[:most]) for array in arrays]
    batches = data() if isinstance(data, Callable) else data
    parts: list[list[np.ndarray]] = []
    for batch in batches:
        parts.append(_inputs_of(batch, specs))
        _check_batched(parts[-1], specs, batch)
        as_arrays(parts[-1], specs, f"A batch of {_REPRESENTATIVE}")
        specs = [  # of one size in all batches, to be put together
            dataclasses.replace(spec, shape=(spec.shape[0], *array.shape[1:]))
            for spec, array in zip(specs, parts[-1], strict=True)
        ]
        if sum(len(arrays[0]) for arrays in parts) >= most:
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
        batch = by_name(batch, specs, f"A batch of {_REPRESENTATIVE}")
    columns = list(batch) if _is_list(batch) else [batch]
    return [np.asarray(column) for column in columns[: len(specs)]]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
