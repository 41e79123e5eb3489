"""Sparsify: every weight of a dense graph stored in its cheapest form.

A sparse weight becomes `constant -> DENSIFY [-> DEQUANTIZE] -> the old tensor`, which
every runtime unpacks once: XNNPACK when the file is loaded, others at the first call.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Collection
from typing import Any, Literal

import numpy as np

from tflottery.tflite.file import encoding as encodings
from tflottery.tflite.file import packing
from tflottery.tflite.file.encoding import Encoding
from tflottery.tflite.file.graph import FLOAT16, FLOAT32, INT8, UINT8, Graph
from tflottery.tflite.rewrite.quantized import Quantized, parameters, quantize

Storage = Literal["keep", "float16", "int8"]
_Readers = list[tuple[Any, int]]  # operators that read a tensor, and as which input

# Operator -> the output-channel dimension of its weight, which is its input 1.
WEIGHTED = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
}

_OVERHEAD = 112  # measured bytes of one more operator and its tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
    """How one weight is stored in the file.

    Attributes:
        name: Name of the weight in the dense file.
        shape: Its shape there.
        nonzeros: Number of stored values that are not zero.
        dtype: Type of the stored values.
        form: "dense"; "sparse", unpacked when loaded; or "kernel", computed sparse.
        bytes: Size of the values, segments, indices and scales.
    """

    name: str
    shape: tuple[int, ...]
    nonzeros: int
    dtype: str
    form: str
    bytes: int


def weights(graph: Graph) -> dict[int, _Readers]:
    """Returns the dense constants that only operators of `WEIGHTED` read, as weights.

    They may be stored in another form. With their readers.
    """
    users = collections.Counter(tensor.buffer for tensor in graph.tensors)
    result = {}
    for tensor, readers in graph.consumers().items():
        if tensor < 0 or graph.const(tensor) is None or tensor in graph.outputs:
            continue
        if users[graph.tensors[tensor].buffer] > 1:
            continue
        if any(p != 1 or graph.name(op) not in WEIGHTED for op, p in readers):
            continue
        # XNNPACK reads dynamic-range weights, int8 beside float32 values, before they
        # are unpacked.
        image = {"TRANSPOSE_CONV": 2}  # which input it is; 0 for the others
        images = [op.inputs[image.get(graph.name(op), 0)] for op, _ in readers]
        types = {graph.tensors[t].type for t in [tensor, *images]}
        axes = {WEIGHTED[graph.name(op)] for op, _ in readers}
        if len(types) == len(axes) == 1:
            result[tensor] = readers
    return result


def never_sparse(graph: Graph) -> list[str]:
    """Returns the operators with mostly zero weights that are never stored sparse."""
    return sorted(
        {
            graph.name(op)
            for op in graph.operators
            if graph.name(op) not in WEIGHTED
            for tensor in op.inputs
            if (array := graph.const(tensor)) is not None
            and array.ndim > 1
            and array.nbytes >= _OVERHEAD
            and 2 * np.count_nonzero(array) < array.size
        }
    )


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
        storage: What float32 values are stored as; "keep" is exact, and float16 where
            that holds all values of a layer. Other types, such as the int8 of a
            quantized model, stay as they are.
        dense: Weights that must not be stored sparse.
        kernel: Weights of FULLY_CONNECTED operators that the runtime's own sparse
            kernel is to compute without unpacking.

    Returns:
        How each weight is stored, in the order of the graph.
    """
    before: dict[int, list[Any]] = {}  # id(operator) -> what to insert before it
    stored = []
    for tensor, readers in weights(graph).items():
        # DENSIFY takes only these types; the bits of uint8 pass as int8. LiteRT refuses
        # a sparse int8 weight in FULLY_CONNECTED.
        type_, names = graph.tensors[tensor].type, {graph.name(op) for op, _ in readers}
        sparse = type_ in (FLOAT32, UINT8)
        sparse |= type_ == INT8 and "FULLY_CONNECTED" not in names
        sparse &= tensor not in dense
        if sparse and tensor in kernel and type_ == FLOAT32:
            stored.append(_store_for_kernel(graph, tensor, readers))
            continue
        form = _cheapest(graph, tensor, readers, storage, sparse)
        record = _record(graph, tensor, form)
        stored.append(record)
        before.setdefault(id(readers[0][0]), []).extend(_store(graph, tensor, form))
        if record.dtype == "float16":
            # XNNPACK takes a float32 bias beside a float16 weight for float16.
            for op, _ in readers:
                before.setdefault(id(op), []).extend(_half_bias(graph, op))
    graph.insert(before)
    return tuple(stored)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Form:
    """One way to store a weight."""

    values: np.ndarray
    coded: Encoding | None = None  # the values that are stored, if sparse
    type: int  # TensorType
    scale: Quantized | None = None  # of int8 values for float32
    narrow: bool = False  # whether they stand for float32 and need a DEQUANTIZE
    extra: int = 0  # bytes of whatever else changes in the file

    @property
    def nbytes(self) -> int:
        held = self.values if self.coded is None else self.coded
        return held.nbytes + (0 if self.scale is None else self.scale.nbytes)

    @property
    def cost(self) -> int:
        """Bytes in the file, including the operators that restore the weight."""
        operators = self.narrow + (self.coded is not None)
        operators += 2 * (self.coded is not None and self.type == UINT8)
        return self.nbytes + operators * _OVERHEAD + self.extra


def _cheapest(
    graph: Graph, tensor: int, readers: _Readers, storage: Storage, sparse: bool
) -> _Form:
    array = _const(graph, tensor)
    code = graph.tensors[tensor].type
    forms = [_Form(values=from_zero(graph, tensor), type=code)]
    biases = [
        b for op, _ in readers for b in _float_bias(graph, op)[1:] if b is not None
    ]
    exact = sparse and storage == "keep" and all(map(_is_half, [array, *biases]))
    if code == FLOAT32 and (storage == "float16" or exact):
        half = _to_half(array)
        extra = sum(_OVERHEAD - bias.nbytes // 2 for bias in biases)
        forms.append(_Form(values=half, type=FLOAT16, narrow=True, extra=extra))
    elif code == FLOAT32 and storage == "int8":
        scale = quantize(array, WEIGHTED[graph.name(readers[0][0])])
        forms.append(_Form(values=scale.values, type=INT8, scale=scale, narrow=True))
    if sparse:
        forms += [
            dataclasses.replace(form, coded=encodings.cheapest(form.values))
            for form in forms
        ]
    return min(forms, key=lambda form: form.cost)


def _const(graph: Graph, tensor: int) -> np.ndarray:
    array = graph.const(tensor)
    assert array is not None
    return array


def _zero_point(graph: Graph, tensor: int) -> int:
    """Returns what stands for 0 in a uint8 tensor; 0 in others."""
    held = graph.quantization(tensor)
    if graph.tensors[tensor].type != UINT8 or held is None or held.zeroPoint is None:
        return 0
    return int(held.zeroPoint[0])


def from_zero(graph: Graph, tensor: int) -> np.ndarray:
    """Returns the values of a weight with 0 where it is 0.

    Those of uint8 are XORed with the zero point, and have their bits in int8.
    """
    array = _const(graph, tensor)
    if array.dtype != np.uint8:
        return array
    return (array ^ np.uint8(_zero_point(graph, tensor))).view(np.int8)


def _store_for_kernel(graph: Graph, tensor: int, readers: _Readers) -> Stored:
    array = _const(graph, tensor)
    coded = encodings.encode(array, range(array.ndim))
    form = _Form(values=array, coded=coded, type=FLOAT32)
    record = dataclasses.replace(_record(graph, tensor, form), form="kernel")
    graph.tensors[tensor].buffer = graph.add_buffer(coded.values)
    graph.tensors[tensor].sparsity = encodings.parameters(coded)
    for op, _ in readers:
        op.opcodeIndex = graph.opcode("FULLY_CONNECTED", version=8)
    return record


def _store(graph: Graph, tensor: int, form: _Form) -> list[Any]:
    """Stores a weight in that form; returns the operators that restore it."""
    coded, scale = form.coded, form.scale
    if coded is None and not form.narrow:
        return []
    shape, flipped = graph.shape(tensor), form.type == UINT8
    type_ = INT8 if flipped else form.type
    held = graph.add_tensor(shape, type_=type_)
    graph.tensors[held].buffer = graph.add_buffer((coded or form).values)
    operators = []
    if coded is not None:
        graph.tensors[held].sparsity = encodings.parameters(coded)
        last = not form.narrow and not flipped
        unpacked = tensor if last else graph.add_tensor(shape, type_=type_)
        operators.append(graph.op("DENSIFY", [held], [unpacked]))
        held = unpacked
    if flipped:
        bits = graph.add_tensor(shape, type_=UINT8)
        zero = graph.add_const(np.array([_zero_point(graph, tensor)], np.uint8))
        operators.append(graph.op("BITCAST", [held], [bits]))
        operators.append(graph.op("BITWISE_XOR", [bits, zero], [tensor]))
    if form.narrow:
        version = 3 if scale is None else 5 if scale.scale.size > 1 else 2
        if scale is not None:
            graph.tensors[held].quantization = parameters(scale.scale, scale.axis)
        operators.append(graph.op("DEQUANTIZE", [held], [tensor], version=version))
    graph.tensors[tensor].buffer = 0
    return operators


def _record(graph: Graph, tensor: int, form: _Form) -> Stored:
    return Stored(
        name=(graph.tensors[tensor].name or b"").decode(),
        shape=graph.shape(tensor),
        nonzeros=int(np.count_nonzero(form.values)),
        dtype="uint8" if form.type == UINT8 else form.values.dtype.name,
        form="dense" if form.coded is None else "sparse",
        bytes=form.nbytes,
    )


def _to_half(array: np.ndarray) -> np.ndarray:
    top = float(np.abs(array).max(initial=0.0))
    if top > float(np.finfo(np.float16).max):
        raise ValueError(
            f"A weight of {top:.4g} does not fit in float16 (at most 65504). "
            'Export with quantize="weights" or without `target="float16"`.'
        )
    return array.astype(np.float16)


def _is_half(array: np.ndarray) -> bool:
    """Returns whether float16 holds every value exactly."""
    with np.errstate(over="ignore"):
        return bool((array.astype(np.float16) == array).all())


def _float_bias(graph: Graph, op: Any) -> tuple[int, np.ndarray | None]:
    """Returns the position of the operator's bias, and the bias if it is float32."""
    position = 3 if graph.name(op) == "TRANSPOSE_CONV" else 2
    bias = graph.const(op.inputs[position]) if len(op.inputs) > position else None
    return position, bias if bias is not None and bias.dtype == np.float32 else None


def _half_bias(graph: Graph, op: Any) -> list[Any]:
    """Gives the operator a float16 bias; returns the operators that restore it."""
    position, bias = _float_bias(graph, op)
    if bias is None:
        return []
    op.inputs[position] = restored = graph.add_tensor(bias.shape)
    held = graph.add_const(_to_half(bias))
    return [graph.op("DEQUANTIZE", [held], [restored], version=3)]


def entropy_bound(graph: Graph, value_bytes: int) -> int:
    """Returns the bytes that an ideal sparse file of a dense graph would need.

    That is the nonzero values of `value_bytes` each, or fewer where the values take
    fewer, their places at the entropy of the density, and every other constant whole;
    without structure, scales and alignment.
    """
    kernels = weights(graph)
    total = 0.0
    for tensor in kernels:
        array = from_zero(graph, tensor)
        count = int(np.count_nonzero(array))
        places = encodings.entropy_bits(count, array.size) / 8
        exact = array.dtype == np.float32 and _is_half(array)
        width = min(value_bytes, array.itemsize, 2 if exact else value_bytes)
        total += min(count * width + places, array.size * width)
    every = {t.buffer for subgraph in graph.model.subgraphs for t in subgraph.tensors}
    for buffer in every - {graph.tensors[t].buffer for t in kernels}:
        total += len(packing.raw(graph.model.buffers[buffer].data))
    return math.ceil(total)
