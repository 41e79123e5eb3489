"""Sparsify: every weight of a dense graph stored in its cheapest form.

A sparse weight becomes `constant -> DENSIFY [-> DEQUANTIZE] -> the old tensor`, which
every runtime unpacks once, when the file is loaded (XNNPACK) or at the first call.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any, Literal

import numpy as np

from tflottery.tflite import encoding as encodings
from tflottery.tflite.encoding import Encoding
from tflottery.tflite.flatbuffer import Graph, inputs, schema
from tflottery.tflite.parameters import parameters

Storage = Literal["keep", "float16", "int8"]

# Operator -> the output-channel dimension of its weight, which is its input 1.
WEIGHTED = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
}

# Bytes that one more operator with its tensor costs in the file, as seen in files.
_OVERHEAD = 112
# One scale for all channels is taken while it loses no more than this share of a
# channel's norm, in the root mean square over channels; scales of their own lose 0.007.
_SHARED_SCALE_ERROR = 0.015
_FLOATS = (0, 1)  # TensorType FLOAT32, FLOAT16
_INT8 = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """How one weight lies in the file.

    Attributes:
      name: The weight's name in the dense file.
      shape: Its shape there.
      nonzeros: How many of its values are not zero, as stored.
      dtype: What each value is stored as.
      form: "dense"; "sparse", unpacked when loaded; or "kernel", run sparse.
      order: The walking order of its dimensions, if sparse.
      levels: How many dimensions are compressed.
      bytes: Values, segments, indices and scales.
    """

    name: str
    shape: tuple[int, ...]
    nonzeros: int
    dtype: str
    form: str
    order: tuple[int, ...]
    levels: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Quantized:
    """Values as int8, and the scale of each channel, or one for all."""

    values: np.ndarray
    scale: np.ndarray
    axis: int

    @property
    def nbytes(self) -> int:
        return 12 * self.scale.size  # float32 scale, int64 zero point


def weights(graph: Graph) -> dict[int, list[tuple[Any, int]]]:
    """Returns the dense constants that only weighted operators read, and the readers.

    These are what may be stored in another form.
    """
    users: dict[int, int] = {}
    for tensor in graph.tensors:
        users[tensor.buffer] = users.get(tensor.buffer, 0) + 1
    result = {}
    for tensor, readers in graph.consumers().items():
        if tensor < 0 or graph.const(tensor) is None:
            continue
        alone = users[graph.tensors[tensor].buffer] == 1
        # A dynamic-range weight, int8 under float32 values, cannot be unpacked: XNNPACK
        # reads it before it is there.
        alone &= all(
            graph.tensors[
                inputs(op)[p - 1 + (graph.name(op) == "TRANSPOSE_CONV") * 2]
            ].type
            == graph.tensors[tensor].type
            for op, p in readers
            if p == 1 and graph.name(op) in WEIGHTED
        )
        plain = all(p == 1 and graph.name(op) in WEIGHTED for op, p in readers)
        axes = {WEIGHTED.get(graph.name(op)) for op, _ in readers}
        if alone and plain and len(axes) == 1 and tensor not in graph.outputs:
            result[tensor] = readers
    return result


def quantize(array: np.ndarray, axis: int) -> Quantized:
    """Returns `array` as int8, symmetric, per channel or, where near as good, shared.

    Channels whose weights are all zero get scale 1.

    Args:
      array: float32 weights.
      axis: The dimension of the output channels.
    """
    others = tuple(d for d in range(array.ndim) if d != axis)
    top = np.abs(array).max(axis=others, initial=0.0).astype(np.float64)
    channels = np.where(top > 0, top / 127, 1.0).astype(np.float32)
    shared = np.array([top.max() / 127 or 1.0], np.float32)
    rounded = _round(array, shared, axis)
    error = rounded.astype(np.float64) * shared - array
    norms = [
        np.sqrt((part.astype(np.float64) ** 2).sum(axis=others))
        for part in (error, array)
    ]
    share = np.divide(norms[0], norms[1], out=np.zeros_like(top), where=top > 0)
    if float(np.sqrt(np.mean(share**2))) <= _SHARED_SCALE_ERROR:
        return Quantized(rounded, shared, 0)
    return Quantized(_round(array, channels, axis), channels, axis)


def _round(array: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    shape = [1] * array.ndim
    shape[axis] = scale.size
    scaled = array / scale.reshape(shape if scale.size > 1 else [1] * array.ndim)
    return np.clip(np.rint(scaled), -127, 127).astype(np.int8)


def sparsify(
    graph: Graph,
    storage: Storage = "keep",
    *,
    dense: Collection[int] = (),
    kernel: Collection[int] = (),
) -> tuple[Stored, ...]:
    """Stores every weight of `graph` in its cheapest form, in place.

    Args:
      graph: A dense graph.
      storage: What float32 values are stored as. "keep" is exact. Other types, such
        as the int8 of a quantized model, always stay as they are.
      dense: Weights that must not be stored sparse.
      kernel: Weights of FULLY_CONNECTED operators that the runtime's own sparse
        kernel shall run, without unpacking: faster only where very few are nonzero.

    Returns:
      How each weight was stored, in the graph's order.
    """
    before: dict[int, list[Any]] = {}  # id(operator) -> what to put in front of it
    stored = []
    found = list(weights(graph).items())
    for tensor, readers in found:
        added, record = _store(
            graph, tensor, readers, storage, tensor not in dense, tensor in kernel
        )
        first = next(op for op in graph.operators if tensor in inputs(op))
        before.setdefault(id(first), []).extend(added)
        stored.append(record)
    if storage == "float16":
        # XNNPACK reads a float32 bias beside a float16 weight as if it were float16.
        for op in {id(op): op for _, readers in found for op, _ in readers}.values():
            before.setdefault(id(op), []).extend(_half_bias(graph, op))
    graph.subgraph.operators = [
        new for op in graph.operators for new in [*before.get(id(op), []), op]
    ]
    return tuple(stored)


def _store(
    graph: Graph,
    tensor: int,
    readers: list[tuple[Any, int]],
    storage: Storage,
    may_be_sparse: bool,
    kernel: bool,
) -> tuple[list[Any], Stored]:
    """Stores one weight; returns the operators that restore it, and the record."""
    array = graph.const(tensor)
    assert array is not None
    entry = graph.tensors[tensor]
    record = {"name": (entry.name or b"").decode(), "shape": graph.shape(tensor)}
    is_float = entry.type == 0
    if kernel and may_be_sparse and is_float:
        coded = encodings.encode(array, range(array.ndim))
        entry.buffer = graph.add_buffer(coded.values)
        entry.sparsity = parameters(coded)
        for op, _ in readers:
            op.opcodeIndex = graph.opcode("FULLY_CONNECTED", version=8)
        return [], _record(record, coded.values, coded, "kernel", coded.nbytes)
    values, extra, steps, scale = array, 0, 0, None
    if is_float and storage == "float16":
        values, steps = _to_half(array), 1
    elif is_float and storage == "int8":
        scale = quantize(array, WEIGHTED[graph.name(readers[0][0])])
        if scale.values.nbytes + scale.nbytes + _OVERHEAD < array.nbytes:
            values, extra, steps = scale.values, scale.nbytes, 1
        else:
            scale = None
    coded = encodings.cheapest(values)
    sparse = may_be_sparse and (
        coded.nbytes + (steps + 1) * _OVERHEAD < values.nbytes + steps * _OVERHEAD
    )
    if not sparse and not steps:
        return [], _record(record, values, None, "dense", values.nbytes)
    code = entry.type if not steps else _INT8 if scale is not None else 1
    held = graph.add_tensor(array.shape, type_=code)
    operators = []
    if sparse:
        graph.tensors[held].buffer = graph.add_buffer(coded.values)
        graph.tensors[held].sparsity = parameters(coded)
        unpacked = graph.add_tensor(array.shape, type_=code) if steps else tensor
        operators.append(graph.op("DENSIFY", [held], [unpacked]))
        held = unpacked
    else:
        graph.tensors[held].buffer = graph.add_buffer(values)
    if steps:
        per_channel = scale is not None and scale.scale.size > 1
        version = 5 if per_channel else 2 if scale is not None else 3
        graph.tensors[held].quantization = _quantization(scale)
        operators.append(graph.op("DEQUANTIZE", [held], [tensor], version=version))
    entry.buffer = 0
    size = (coded.nbytes if sparse else values.nbytes) + extra
    form = "sparse" if sparse else "dense"
    return operators, _record(record, values, coded if sparse else None, form, size)


def _record(
    record: dict[str, Any],
    values: np.ndarray,
    coded: Encoding | None,
    form: str,
    size: int,
) -> Stored:
    return Stored(
        **record,
        nonzeros=int(np.count_nonzero(values)),
        dtype=values.dtype.name,
        form=form,
        order=coded.order if coded else (),
        levels=coded.levels if coded else 0,
        bytes=size,
    )


def _to_half(array: np.ndarray) -> np.ndarray:
    top = float(np.abs(array).max(initial=0.0))
    if top > float(np.finfo(np.float16).max):
        raise ValueError(
            f"A weight of {top:.4g} does not fit in float16 (at most 65504). "
            'Export with quantize="weights" or without `target="float16"`.'
        )
    return array.astype(np.float16)


def _half_bias(graph: Graph, op: Any) -> list[Any]:
    """Gives the operator a float16 bias of its own; returns what restores it."""
    position = 3 if graph.name(op) == "TRANSPOSE_CONV" else 2
    if len(inputs(op)) <= position:
        return []
    bias = graph.const(inputs(op)[position]) if inputs(op)[position] >= 0 else None
    if bias is None or bias.dtype != np.float32:
        return []
    restored = graph.add_tensor(bias.shape)
    op.inputs = np.array(inputs(op), np.int32)
    op.inputs[position] = restored
    held = graph.add_const(_to_half(bias))
    return [graph.op("DEQUANTIZE", [held], [restored], version=3)]


def _quantization(quantized: Quantized | None) -> Any:
    if quantized is None:
        return None
    result = schema().QuantizationParametersT()
    result.scale = quantized.scale
    result.zeroPoint = np.zeros(quantized.scale.size, np.int64)
    result.quantizedDimension = quantized.axis
    return result


def entropy_bound(graph: Graph, value_bytes: int) -> int:
    """Returns the bytes that an ideal sparse file of a dense graph would need.

    Nonzeros at `value_bytes` each, their places at the entropy of their density, and
    every other constant whole. Structure, scales and alignment are not counted.

    Args:
      graph: A dense float32 graph.
      value_bytes: 4 for float32, 2 for float16, 1 for int8.
    """
    kernels = weights(graph)
    total = 0.0
    seen = {graph.tensors[t].buffer for t in kernels}
    for tensor in kernels:
        array = graph.const(tensor)
        assert array is not None
        count = int(np.count_nonzero(array))
        places = encodings.entropy_bits(count, array.size) / 8
        total += min(count * value_bytes + places, array.size * value_bytes)
    for index, entry in enumerate(graph.tensors):
        if entry.buffer not in seen:
            seen.add(entry.buffer)
            total += len(graph.raw(index))
    return math.ceil(total)
