"""Constants: units that nothing reaches, folded into the biases of their readers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph, inputs, outputs, schema
from tflottery.tflite.rewrite.sparsify import weights

READERS = frozenset({"CONV_2D", "FULLY_CONNECTED"})
POOLS = frozenset({"MAX_POOL_2D", "AVERAGE_POOL_2D"})
BINARY = frozenset({"ADD", "MUL"})


def flattens(graph: Graph, op: Any) -> bool:
    """Whether a RESHAPE keeps the batch and makes the rest one row."""
    before, after = graph.shape(inputs(op)[0]), graph.shape(outputs(op)[0])
    return len(before) >= 2 and after == (before[0], int(np.prod(before[1:])))


def keeps_channels(graph: Graph, op: Any) -> bool:
    """Whether a MEAN is over other dimensions than the last."""
    axes, rank = graph.const(inputs(op)[1]), len(graph.shape(inputs(op)[0]))
    return axes is not None and rank - 1 not in (axes.reshape(-1) % rank).tolist()


def fold_constants(graph: Graph) -> int:
    """Moves what constant channels contribute into the next bias; returns how many."""
    known: dict[int, np.ndarray] = {}  # tensor -> value per channel, NaN if it varies
    free = weights(graph)
    folded = 0
    for op in graph.operators:
        name, read = graph.name(op), inputs(op)
        if not read or not outputs(op) or graph.tensors[outputs(op)[0]].type != 0:
            continue
        if name in READERS and read[1] in free and len(free[read[1]]) == 1:
            if read[0] in known:
                folded += _fold(graph, op, known[read[0]])
            value = _incoming(graph, op)
        else:
            value = _pass_on(graph, op, known)
        if value is not None and not np.isnan(value).all():
            value = _activate(value, _fused(op))
            if value is not None:
                known[outputs(op)[0]] = value.astype(np.float32)
    return folded


def _bias(graph: Graph, op: Any, size: int) -> np.ndarray | None:
    """Returns the operator's bias, zeros if it has none; None if it is no constant."""
    tensor = inputs(op)[2] if len(inputs(op)) > 2 else -1
    return np.zeros(size, np.float32) if tensor < 0 else graph.const(tensor)


def _incoming(graph: Graph, op: Any) -> np.ndarray | None:
    """Returns the bias where all of a unit's weights are zero, NaN elsewhere."""
    array = graph.const(inputs(op)[1])
    if array is None or array.dtype != np.float32:
        return None
    dead = ~array.any(axis=tuple(range(1, array.ndim)))
    bias = _bias(graph, op, array.shape[0])
    return None if bias is None else np.where(dead, bias, np.nan)


def _fold(graph: Graph, op: Any, value: np.ndarray) -> int:
    array = graph.const(inputs(op)[1])
    if array is None or array.dtype != np.float32 or array.shape[-1] != value.size:
        return 0
    padded = graph.name(op) == "CONV_2D" and (
        op.builtinOptions.padding == schema().Padding.SAME
        and array.shape[1:3] != (1, 1)
    )
    # Padding shows zeros where the constant is not, so only a constant 0 passes it.
    fits = value == 0 if padded else np.isfinite(value)
    used = array.any(axis=tuple(range(array.ndim - 1)))
    columns = np.flatnonzero(fits & used)
    bias = _bias(graph, op, array.shape[0])
    if not columns.size or bias is None:
        return 0
    each = array[..., columns].astype(np.float64) * value[columns]
    new = bias + each.reshape(array.shape[0], -1).sum(axis=1)
    emptied = array.copy()
    emptied[..., columns] = 0
    name = graph.tensors[inputs(op)[1]].name
    tensors = [graph.add_const(emptied), graph.add_const(new.astype(np.float32))]
    graph.tensors[tensors[0]].name = name
    op.inputs = np.array([inputs(op)[0], *tensors], np.int32)
    return len(columns)


def _pass_on(graph: Graph, op: Any, known: dict[int, np.ndarray]) -> np.ndarray | None:
    """Returns the constants after an operator that works channel by channel."""
    name, read = graph.name(op), inputs(op)
    value = known.get(read[0])
    if name in BINARY and len(read) == 2:
        sides = [_side(graph, tensor, known) for tensor in read]
        if sides[0] is None or sides[1] is None:
            return None
        if graph.shape(outputs(op)[0])[-1] != max(sides[0].size, sides[1].size):
            return None
        return sides[0] + sides[1] if name == "ADD" else sides[0] * sides[1]
    if value is None:
        return None
    if name in ("RELU", "RELU6"):
        return np.clip(value, 0, 6 if name == "RELU6" else None)
    if name in POOLS or (name == "MEAN" and keeps_channels(graph, op)):
        return value
    if name == "PAD":
        zero_pads = graph.shape(outputs(op)[0])[-1] == value.size
        return np.where(value == 0, value, np.nan) if zero_pads else None
    if name == "RESHAPE" and flattens(graph, op):
        return np.tile(value, graph.shape(outputs(op)[0])[-1] // value.size)
    return None


def _side(graph: Graph, tensor: int, known: dict[int, np.ndarray]) -> np.ndarray | None:
    array = graph.const(tensor) if tensor >= 0 else None
    if array is None:
        return known.get(tensor)
    vector = array.ndim == 0 or array.size in (1, array.shape[-1])
    return array.reshape(-1) if vector else None


def _fused(op: Any) -> int:
    return int(getattr(op.builtinOptions, "fusedActivationFunction", 0) or 0)


def _activate(value: np.ndarray, code: int) -> np.ndarray | None:
    """Applies a fused activation; None for one that is not known here."""
    kinds = schema().ActivationFunctionType
    limits = {
        kinds.NONE: (None, None),
        kinds.RELU: (0, None),
        kinds.RELU6: (0, 6),
        kinds.RELU_N1_TO_1: (-1, 1),
    }
    if code not in limits:
        return None
    low, high = limits[code]
    return value if low is None and high is None else np.clip(value, low, high)
