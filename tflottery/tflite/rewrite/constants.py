"""Constants: what never changes is folded: float16 weights and constant channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflottery.tflite.file import encoding
from tflottery.tflite.file.graph import FLOAT32, UINT8, Graph, schema
from tflottery.tflite.rewrite.quantized import per_channel
from tflottery.tflite.rewrite.sparsify import weights

READERS = frozenset({"CONV_2D", "FULLY_CONNECTED"})
POOLS = frozenset({"MAX_POOL_2D", "AVERAGE_POOL_2D"})
BINARY = frozenset({"ADD", "MUL"})


def densify(graph: Graph) -> int:
    """Makes every sparse constant dense, in place.

    Returns:
        The number of constants that were sparse.

    Raises:
        ValueError: If one is sparse in blocks, of another type, or damaged.
    """
    kept, count = [], 0
    for op in graph.operators:
        held = encoding.read(graph, op.inputs[0]) if op.inputs else None
        if graph.name(op) == "DENSIFY" and held is not None:
            graph.set_const(op.outputs[0], encoding.decode(held))
            count += 1
        elif (folded := _unflipped(graph, op)) is not None:
            graph.set_const(op.outputs[0], folded)
        else:
            kept.append(op)
    graph.subgraph.operators = kept
    for op in graph.operators:
        if graph.name(op) != "FULLY_CONNECTED" or graph.version(op) != 8:
            continue
        held = encoding.read(graph, op.inputs[1])
        if held is not None:  # for the sparse kernel
            graph.set_const(op.inputs[1], encoding.decode(held))
            graph.tensors[op.inputs[1]].sparsity = None
            op.opcodeIndex = graph.opcode("FULLY_CONNECTED")
            count += 1
    return count


def _unflipped(graph: Graph, op: Any) -> np.ndarray | None:
    """Returns what BITCAST or BITWISE_XOR makes of uint8 constants, else None."""
    kind = graph.name(op)
    if kind not in ("BITCAST", "BITWISE_XOR"):
        return None
    if graph.tensors[op.outputs[0]].type != UINT8:
        return None
    held = [graph.const(tensor) for tensor in op.inputs]
    if any(array is None or array.itemsize != 1 for array in held):
        return None
    bits = [array.view(np.uint8) for array in held if array is not None]
    return bits[0] if kind == "BITCAST" else np.bitwise_xor(*bits)


def unfold(graph: Graph) -> int:
    """Replaces, in place, constants behind DEQUANTIZE by the float32 values it gives.

    Those are float16 ones, and ones that QUANTIZE rounds, as fake quantization does.
    Only what operators read directly can be stored sparse.

    Returns:
        The number of constants that were unfolded.
    """
    makers, readers = graph.producers(), graph.consumers()
    gone, count = set(), 0
    for op in graph.operators:
        if graph.name(op) != "DEQUANTIZE" or op.outputs[0] in graph.outputs:
            continue
        constant = graph.const(op.inputs[0])
        maker = makers.get(op.inputs[0])
        if constant is not None and constant.dtype == np.float16:
            graph.set_const(op.outputs[0], constant.astype(np.float32))
        elif maker is not None and graph.name(maker) == "QUANTIZE":
            constant = graph.const(maker.inputs[0])
            if constant is None or constant.dtype != np.float32:
                continue
            graph.set_const(op.outputs[0], _rounded(graph, constant, op.inputs[0]))
            if len(readers[op.inputs[0]]) == 1:
                gone.add(id(maker))
        else:
            continue
        gone.add(id(op))
        count += 1
    graph.subgraph.operators = [op for op in graph.operators if id(op) not in gone]
    return count


def _rounded(graph: Graph, array: np.ndarray, tensor: int) -> np.ndarray:
    """Returns an array as it is after it was quantized like a tensor."""
    held, limits = graph.tensors[tensor].quantization, np.iinfo(graph.dtype(tensor))
    axis = held.quantizedDimension if len(held.scale) > 1 else 0
    scale, zeros = (
        per_channel(a, axis, array.ndim) for a in (held.scale, held.zeroPoint)
    )
    steps = np.clip(np.rint(array / scale) + zeros, limits.min, limits.max) - zeros
    return (steps * scale).astype(np.float32)


def flattens(graph: Graph, op: Any) -> bool:
    """Returns whether a RESHAPE turns each sample into one row."""
    before, after = graph.shape(op.inputs[0]), graph.shape(op.outputs[0])
    return len(before) >= 2 and after == (before[0], int(np.prod(before[1:])))


def keeps_channels(graph: Graph, op: Any) -> bool:
    """Returns whether a MEAN leaves the last dimension as it is."""
    axes, rank = graph.const(op.inputs[1]), len(graph.shape(op.inputs[0]))
    return axes is not None and rank - 1 not in (axes.reshape(-1) % rank).tolist()


def fold_constants(graph: Graph) -> int:
    """Moves what constant channels add to the next bias, in place; returns how many."""
    known: dict[int, np.ndarray] = {}  # tensor -> value per channel, NaN if it varies
    free = weights(graph)
    folded = 0
    for op in graph.operators:
        if not op.inputs or not op.outputs:
            continue
        if graph.tensors[op.outputs[0]].type != FLOAT32:
            continue
        if graph.name(op) in READERS and len(free.get(op.inputs[1], ())) == 1:
            if op.inputs[0] in known:
                folded += _fold(graph, op, known[op.inputs[0]])
            value = _incoming(graph, op)
        else:
            value = _pass_on(graph, op, known)
        if value is not None and not np.isnan(value).all():
            value = _activate(value, op)
            if value is not None:
                known[op.outputs[0]] = value.astype(np.float32)
    return folded


def _weight(graph: Graph, op: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the float32 weight and the bias; None if they are not constant."""
    array = graph.const(op.inputs[1])
    if array is None or array.dtype != np.float32:
        return None
    tensor = op.inputs[2] if len(op.inputs) > 2 else -1
    none = np.zeros(array.shape[0], np.float32)
    bias = none if tensor < 0 else graph.const(tensor)
    return None if bias is None else (array, bias)


def _incoming(graph: Graph, op: Any) -> np.ndarray | None:
    """Returns the bias of each unit whose weights are all zero, NaN for the others."""
    found = _weight(graph, op)
    if found is None:
        return None
    array, bias = found
    return np.where(~array.any(axis=tuple(range(1, array.ndim))), bias, np.nan)


def _fold(graph: Graph, op: Any, value: np.ndarray) -> int:
    found = _weight(graph, op)
    if found is None or found[0].shape[-1] != value.size:
        return 0
    array, bias = found
    padded = graph.name(op) == "CONV_2D" and (
        op.builtinOptions.padding == schema().Padding.SAME
        and array.shape[1:3] != (1, 1)
    )
    # Padding is 0 where the constant is not, so with padding only 0 can be folded.
    fits = value == 0 if padded else np.isfinite(value)
    used = array.any(axis=tuple(range(array.ndim - 1)))
    columns = np.flatnonzero(fits & used)
    if not columns.size:
        return 0
    each = array[..., columns].astype(np.float64) * value[columns]
    new = bias + each.reshape(array.shape[0], -1).sum(axis=1)
    emptied = array.copy()
    emptied[..., columns] = 0
    name = graph.tensors[op.inputs[1]].name
    tensors = [graph.add_const(emptied), graph.add_const(new.astype(np.float32))]
    graph.tensors[tensors[0]].name = name
    op.inputs = [op.inputs[0], *tensors]
    return len(columns)


def _pass_on(graph: Graph, op: Any, known: dict[int, np.ndarray]) -> np.ndarray | None:
    """Returns the constants after an operator that treats each channel alone."""
    name = graph.name(op)
    channels = graph.shape(op.outputs[0])[-1:]
    if name in BINARY and len(op.inputs) == 2:
        a, b = (_side(graph, tensor, known) for tensor in op.inputs)
        if a is None or b is None or channels != (max(a.size, b.size),):
            return None
        return a + b if name == "ADD" else a * b
    value = known.get(op.inputs[0])
    if value is None:
        return None
    if name in ("RELU", "RELU6"):
        return np.clip(value, 0, 6 if name == "RELU6" else None)
    if name in POOLS or (name == "MEAN" and keeps_channels(graph, op)):
        return value
    if name == "PAD" and channels == (value.size,):
        return np.where(value == 0, value, np.nan)
    if name == "RESHAPE" and flattens(graph, op):
        return np.tile(value, channels[0] // value.size)
    return None


def _side(graph: Graph, tensor: int, known: dict[int, np.ndarray]) -> np.ndarray | None:
    array = graph.const(tensor)
    if array is None:
        return known.get(tensor)
    vector = array.ndim == 0 or array.size in (1, array.shape[-1])
    return array.reshape(-1) if vector else None


def _activate(value: np.ndarray, op: Any) -> np.ndarray | None:
    """Applies the fused activation of `op`; None if it is not a known one."""
    kinds = schema().ActivationFunctionType
    limits = {
        kinds.NONE: (-np.inf, np.inf),
        kinds.RELU: (0, np.inf),
        kinds.RELU6: (0, 6),
        kinds.RELU_N1_TO_1: (-1, 1),
    }
    code = getattr(op.builtinOptions, "fusedActivationFunction", kinds.NONE)
    return np.clip(value, *limits[code]) if code in limits else None
