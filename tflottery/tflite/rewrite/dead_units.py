"""Dead units: units that change nothing are removed from a dense graph, exactly.

A unit whose outgoing weights are all pruned is never read. A unit whose incoming
weights are all pruned is a constant, and moves to the bias of its reader.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite.constants import (
    BINARY,
    POOLS,
    READERS,
    flattens,
    fold_constants,
    keeps_channels,
)
from tflottery.tflite.rewrite.sparsify import from_zero, weights

# Operators that compute each value by itself.
_UNARY = frozenset(
    ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "HARD_SWISH", "ELU")
)
_ROUNDS = 20  # a chain of dead units takes several


def remove_dead_units(graph: Graph) -> int:
    """Removes every unit that changes nothing, in place, but keeps one per layer.

    A graph of open sizes is left as it is.

    Returns:
        The number of units removed; channels that are added together count as one.
    """
    removed = 0
    for _ in range(0 if graph.is_open else _ROUNDS):
        folded = fold_constants(graph)
        now = sum(_remove(graph, group) for group in _groups(graph))
        removed += now
        if not now and not folded:
            break
    return removed


class _Group:
    """Tensors with the same channels: operators between them keep channels apart."""

    def __init__(self, tensor: int, channels: int) -> None:
        # Per tensor, the places of a channel: several once it is flattened, where place
        # i is channel i modulo `channels`.
        self.tensors = {tensor: 1}
        self.channels = channels
        self.writers: list[Any] = []  # their output channels are the group's
        self.readers: list[Any] = []  # their input channels are
        self.inner: list[Any] = []  # both are
        self.pinned = False  # whether the channels must all stay


def _groups(graph: Graph) -> list[_Group]:
    """Returns the groups of channels that may be removed."""
    of: dict[int, _Group] = {}
    alone = {tensor for tensor, readers in weights(graph).items() if len(readers) == 1}

    def group(tensor: int) -> _Group:
        if tensor not in of:
            shape = graph.shape(tensor)
            of[tensor] = _Group(tensor, shape[-1] if shape else 0)
        return of[tensor]

    def merge(a: int, b: int, repeat: int = 1) -> None:
        first, second = group(a), group(b)
        if first is second:
            return
        # A tensor that is flattened twice, or added to a flattened one, must stay.
        fits = first.channels * repeat == second.channels
        first.pinned |= (
            second.pinned or not fits or (repeat > 1 and len(second.tensors) > 1)
        )
        for tensor, times in second.tensors.items():
            first.tensors[tensor] = times * first.tensors[a] * repeat
            of[tensor] = first
        first.writers += second.writers
        first.readers += second.readers
        first.inner += second.inner

    for tensor in [*graph.inputs, *graph.outputs]:
        group(tensor).pinned = True
    for op in graph.operators:
        name, read = graph.name(op), op.inputs
        moving = [t for t in read if t >= 0 and not graph.is_const(t)]
        if name in READERS and read[1] in alone:
            source, target = group(read[0]), group(op.outputs[0])
            # Each output of a grouped convolution reads only some of the channels, so
            # both sides stay.
            if (
                graph.shape(read[0])[-1:] != graph.shape(read[1])[-1:]
                or graph.shape(op.outputs[0])[-1:] != graph.shape(read[1])[:1]
            ):
                source.pinned = target.pinned = True
            source.readers.append(op)
            target.writers.append(op)
        elif _by_channel(graph, op, moving, alone):
            for tensor in moving[1:] + op.outputs:
                merge(moving[0], tensor)
            group(moving[0]).inner.append(op)
        elif name == "RESHAPE" and flattens(graph, op):
            channels = graph.shape(read[0])[-1]
            merge(read[0], op.outputs[0], graph.shape(op.outputs[0])[-1] // channels)
            group(read[0]).inner.append(op)
        else:
            for tensor in moving + op.outputs:
                group(tensor).pinned = True
    return list({id(g): g for g in of.values() if not g.pinned}.values())


def _by_channel(graph: Graph, op: Any, moving: list[int], alone: set[int]) -> bool:
    """Returns whether each output channel depends on the same input channel only."""
    name, read = graph.name(op), op.inputs
    if not moving:
        return False
    shape = graph.shape(read[0])
    if name in _UNARY or (name in POOLS and len(shape) == 4):
        return True
    if name == "DEPTHWISE_CONV_2D":
        return read[1] in alone and graph.shape(read[1])[-1] == shape[-1]
    if name == "PAD":
        amounts = graph.const(read[1])
        return amounts is not None and not amounts[-1].any()
    if name == "MEAN":
        return keeps_channels(graph, op)
    if name in BINARY:
        last = {graph.shape(tensor)[-1:] for tensor in moving}
        consts = [graph.const(t) for t in read if t not in moving]
        vectors = all(
            c is not None and c.dtype == np.float32 and c.size in (1, c.shape[-1])
            for c in consts
            if c is None or c.ndim
        )
        return len(last) == 1 and vectors
    return False


def _remove(graph: Graph, group: _Group) -> int:
    """Removes the channels of which no reader has a weight; returns how many."""
    if not group.readers or not group.writers:
        return 0
    needed = np.zeros(group.channels, bool)
    for op in group.readers:
        array = from_zero(graph, op.inputs[1])
        repeat = group.tensors[op.inputs[0]]
        columns = array.any(axis=tuple(range(array.ndim - 1)))
        needed |= columns.reshape(repeat, group.channels).any(axis=0)
    if not needed.any():
        needed[0] = True
    keep = np.flatnonzero(needed)
    gone = group.channels - len(keep)
    if not gone:
        return 0
    for op in group.writers:
        for position in range(1, len(op.inputs)):
            _take(graph, op, position, 0, keep)
    for op in group.readers:
        repeat = group.tensors[op.inputs[0]]
        places = np.arange(repeat)[:, None] * group.channels + keep
        _take(graph, op, 1, -1, places.reshape(-1))
    for tensor, repeat in group.tensors.items():
        shape = (*graph.shape(tensor)[:-1], repeat * len(keep))
        graph.set_shape(tensor, shape)
    for op in group.inner:
        name = graph.name(op)
        if name == "RESHAPE":
            shape = np.array(graph.shape(op.outputs[0]), np.int32)
            op.inputs[1:] = [graph.add_const(shape)]
            if op.builtinOptions is not None:
                op.builtinOptions.newShape = shape
        elif name == "DEPTHWISE_CONV_2D" or name in BINARY:
            for position, tensor in enumerate(op.inputs):
                if tensor >= 0 and graph.is_const(tensor):
                    _take(graph, op, position, -1, keep)
    return gone


def _take(graph: Graph, op: Any, position: int, axis: int, keep: np.ndarray) -> None:
    """Reduces the constant input at `position` to the channels that are kept."""
    tensor = op.inputs[position]
    array = graph.const(tensor)
    if array is None or array.ndim == 0 or (array.shape[axis] == 1 and len(keep) != 1):
        return
    if array.shape[axis] <= keep.max():
        return
    new = graph.add_const(np.take(array, keep, axis=axis))
    graph.tensors[new].name = graph.tensors[tensor].name
    quantization = copy.deepcopy(graph.quantization(tensor))
    axis %= array.ndim
    if quantization is not None:
        if len(quantization.scale) > 1 and quantization.quantizedDimension == axis:
            quantization.scale = quantization.scale[keep]
            quantization.zeroPoint = quantization.zeroPoint[keep]
        quantization.min = quantization.max = None
        graph.tensors[new].quantization = quantization
    op.inputs[position] = new
