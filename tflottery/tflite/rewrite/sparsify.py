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

from tflottery.tflite.file import encoding as encodings
from tflottery.tflite.file.encoding import Encoding
from tflottery.tflite.file.graph import Graph, inputs
from tflottery.tflite.file.parameters import parameters
from tflottery.tflite.rewrite.quantized import Quantized, quantize

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
    for tensor, readers in weights(graph).items():
        added, record = _store(
            graph,
            tensor,
            readers,
            storage,
            tensor not in dense and not _must_be_dense(graph, tensor, readers),
            tensor in kernel,
        )
        first = next(op for op in graph.operators if tensor in inputs(op))
        before.setdefault(id(first), []).extend(added)
        stored.append(record)
        if record.dtype == "float16":
            # XNNPACK reads a float32 bias beside a float16 weight as a float16 one.
            for op, _ in readers:
                before.setdefault(id(op), []).extend(_half_bias(graph, op))
    graph.subgraph.operators = [
        new for op in graph.operators for new in [*before.get(id(op), []), op]
    ]
    return tuple(stored)


def _must_be_dense(graph: Graph, tensor: int, readers: list[tuple[Any, int]]) -> bool:
    """Whether LiteRT refuses the weight if it is sparse: int8 in FULLY_CONNECTED."""
    return graph.tensors[tensor].type == _INT8 and any(
        graph.name(op) == "FULLY_CONNECTED" for op, _ in readers
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Form:
    """One way to store a weight.

    Attributes:
      values: All of its values.
      coded: Those that are stored, if sparse.
      type: Their TensorType.
      scale: Their scales, if they are int8 for float32.
      narrow: Whether they stand for float32, and need a DEQUANTIZE.
      extra: Bytes of what else the form brings.
    """

    values: np.ndarray
    coded: Encoding | None = None
    type: int
    scale: Quantized | None = None
    narrow: bool = False
    extra: int = 0

    @property
    def nbytes(self) -> int:
        held = self.values if self.coded is None else self.coded
        return held.nbytes + (0 if self.scale is None else self.scale.nbytes)

    @property
    def cost(self) -> int:
        """Returns the bytes in the file, with those of the operators that restore."""
        operators = self.narrow + (self.coded is not None)
        return self.nbytes + operators * _OVERHEAD + self.extra


def _cheapest(
    graph: Graph,
    tensor: int,
    readers: list[tuple[Any, int]],
    storage: Storage,
    may_be_sparse: bool,
) -> _Form:
    array = graph.const(tensor)
    assert array is not None
    code = graph.tensors[tensor].type
    forms = [_Form(values=array, type=code)]
    if code == 0 and storage == "float16":
        extra = sum(_half_bias_cost(graph, op) for op, _ in readers)
        forms.append(_Form(values=_to_half(array), type=1, narrow=True, extra=extra))
    elif code == 0 and storage == "int8":
        scale = quantize(array, WEIGHTED[graph.name(readers[0][0])])
        forms.append(_Form(values=scale.values, type=_INT8, scale=scale, narrow=True))
    if may_be_sparse:
        forms += [
            dataclasses.replace(form, coded=encodings.cheapest(form.values))
            for form in forms
        ]
    return min(forms, key=lambda form: form.cost)


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
    if kernel and may_be_sparse and entry.type == 0:
        coded = encodings.encode(array, range(array.ndim))
        entry.buffer = graph.add_buffer(coded.values)
        entry.sparsity = parameters(coded)
        for op, _ in readers:
            op.opcodeIndex = graph.opcode("FULLY_CONNECTED", version=8)
        return [], _record(record, coded.values, coded, "kernel", coded.nbytes)
    form = _cheapest(graph, tensor, readers, storage, may_be_sparse)
    coded, scale = form.coded, form.scale
    kind = "dense" if coded is None else "sparse"
    made = _record(record, form.values, coded, kind, form.nbytes)
    if coded is None and not form.narrow:
        return [], made
    held = graph.add_tensor(array.shape, type_=form.type)
    operators = []
    if coded is not None:
        graph.tensors[held].buffer = graph.add_buffer(coded.values)
        graph.tensors[held].sparsity = parameters(coded)
        unpacked = tensor
        if form.narrow:
            unpacked = graph.add_tensor(array.shape, type_=form.type)
        operators.append(graph.op("DENSIFY", [held], [unpacked]))
        held = unpacked
    else:
        graph.tensors[held].buffer = graph.add_buffer(form.values)
    if form.narrow:
        version = 3 if scale is None else 5 if scale.scale.size > 1 else 2
        if scale is not None:
            graph.tensors[held].quantization = scale.parameters()
        operators.append(graph.op("DEQUANTIZE", [held], [tensor], version=version))
    entry.buffer = 0
    return operators, made


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


def _float_bias(graph: Graph, op: Any) -> tuple[int, np.ndarray | None]:
    """Returns the position of the operator's bias, and it, if it is float32."""
    position = 3 if graph.name(op) == "TRANSPOSE_CONV" else 2
    if len(inputs(op)) <= position or inputs(op)[position] < 0:
        return position, None
    bias = graph.const(inputs(op)[position])
    return position, bias if bias is not None and bias.dtype == np.float32 else None


def _half_bias_cost(graph: Graph, op: Any) -> int:
    _, bias = _float_bias(graph, op)
    return 0 if bias is None else _OVERHEAD - bias.nbytes // 2


def _half_bias(graph: Graph, op: Any) -> list[Any]:
    """Gives the operator a float16 bias of its own; returns what restores it."""
    position, bias = _float_bias(graph, op)
    if bias is None:
        return []
    restored = graph.add_tensor(bias.shape)
    op.inputs = np.array(inputs(op), np.int32)
    op.inputs[position] = restored
    held = graph.add_const(_to_half(bias))
    return [graph.op("DEQUANTIZE", [held], [restored], version=3)]


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
    for subgraph in graph.model.subgraphs:  # those of loops too
        for entry in subgraph.tensors:
            if entry.buffer not in seen:
                seen.add(entry.buffer)
                held = graph.model.buffers[entry.buffer].data
                total += 0 if held is None else len(held)
    return math.ceil(total)
