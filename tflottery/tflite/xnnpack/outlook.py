"""Outlook: predicts which operators of a file XNNPACK computes sparse, or wrongly.

On all CPUs except x86 with AVX, XNNPACK moves clusters of operators to planar layout
(CHW) and computes their 1x1 convolutions sparse. This repeats the logic of its
`xnn_subgraph_rewrite_for_nchw` (src/subgraph.c) including its mistakes: a cluster that
ends in an operator of the other layout is computed wrongly, without a warning.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import FLOAT32, Graph, schema

Padding = tuple[int, int, int, int]  # top, right, bottom, left

# Operators on each value by itself that have a planar form.
_UNARY = """
RELU RELU6 RELU_N1_TO_1 LOGISTIC HARD_SWISH TANH ELU LEAKY_RELU GELU ABS NEG SQUARE SQRT
RSQRT EXP FLOOR CEIL ROUND
"""
UNARY = frozenset(_UNARY.split())
_OTHERS = """
CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV FULLY_CONNECTED BATCH_MATMUL PAD ADD SUB MUL
DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE MEAN SUM MAX_POOL_2D AVERAGE_POOL_2D SOFTMAX
PRELU RESHAPE EXPAND_DIMS TRANSPOSE CONCATENATION SPLIT SLICE STRIDED_SLICE
RESIZE_BILINEAR DEPTH_TO_SPACE SPACE_TO_DEPTH
"""
_DELEGATED = UNARY.union(_OTHERS.split())
_FIRST_INPUT_ONLY = frozenset(["MEAN", "SUM", "RESHAPE", "RESIZE_BILINEAR", "PAD"])
EXITS = frozenset({"MEAN", "SUM", "DEPTH_TO_SPACE"})

# Flags of a node, as in XNNPACK.
_PLANAR, _ENTERS, _LEAVES, _BAD = 1, 2, 4, 8


@dataclasses.dataclass(eq=False)
class _Node:
    op: Any
    name: str
    inputs: list[int]
    outputs: list[int]
    flags: int
    weight: int | None
    leader: int = 0
    zeros: int = 0
    parameters: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """The operators that XNNPACK computes sparse, and those it does wrong, with why."""

    sparse: tuple[Any, ...] = ()
    wrong: tuple[tuple[Any, str], ...] = ()


def outlook(graph: Graph) -> Outlook:
    """Predicts which operators run sparse, and which wrongly, with planar layout."""
    origin, sparse_weights = weight_origins(graph)
    sparse: list[Any] = []
    wrong: list[tuple[Any, str]] = []
    for part in _partitions(graph, origin):
        if any(tensor in sparse_weights for op in part for tensor in op.inputs):
            found = _rewrite(graph, _nodes(graph, part, origin), origin)
            sparse += found.sparse
            wrong += found.wrong
    return Outlook(sparse=tuple(sparse), wrong=tuple(wrong))


def weight_origins(graph: Graph) -> tuple[dict[int, int], set[int]]:
    """Returns unpacked constant -> stored constant, and which of them are sparse."""
    origin: dict[int, int] = {}
    sparse: set[int] = set()
    for op in graph.operators:
        name = graph.name(op)
        if name in ("DENSIFY", "DEQUANTIZE"):
            source: int = op.inputs[0]
            target: int = op.outputs[0]
            if name == "DENSIFY" or source in origin or graph.is_const(source):
                origin[target] = origin.get(source, source)
            if name == "DENSIFY" or source in sparse:
                sparse.add(target)
    return origin, sparse


def _partitions(graph: Graph, origin: dict[int, int]) -> list[list[Any]]:
    """Returns the groups of operators that TFLite delegates to XNNPACK."""

    def is_delegated(op: Any) -> bool:
        # Version 8 of FULLY_CONNECTED is TFLite's own sparse kernel.
        own = graph.name(op) == "FULLY_CONNECTED" and graph.version(op) >= 8
        return graph.name(op) in _DELEGATED and not own

    ready = set(graph.inputs) | set(origin) | {-1}
    ready |= {t for t in range(len(graph.tensors)) if graph.is_const(t)}
    ready |= {t for t, entry in enumerate(graph.tensors) if entry.isVariable}
    left = [op for op in graph.operators if not origin.keys() & op.outputs]
    parts = []
    while first := next((op for op in left if set(op.inputs) <= ready), None):
        kind, part = is_delegated(first), []
        for op in left:
            if is_delegated(op) == kind and set(op.inputs) <= ready:
                part.append(op)
                ready |= set(op.outputs)
        taken = {id(op) for op in part}
        left = [op for op in left if id(op) not in taken]
        if kind:
            parts.append(part)
    return parts


def fused_padding(
    graph: Graph, op: Any, producers: dict[int, Any], readers: dict[int, int]
) -> tuple[int, Padding] | None:
    """Returns the input and the padding of a PAD that XNNPACK fuses into `op`."""
    pad = producers.get(op.inputs[0])
    if pad is None or graph.name(pad) != "PAD" or readers[op.inputs[0]] != 1:
        return None
    if op.builtinOptions.padding != schema().Padding.VALID:
        return None
    amounts = graph.const(pad.inputs[1])
    if amounts is None or amounts.shape != (4, 2) or amounts[[0, 3]].any():
        return None
    (top, bottom), (left, right) = amounts[1:3].tolist()
    return pad.inputs[0], (top, right, bottom, left)


def _nodes(graph: Graph, part: list[Any], origin: dict[int, int]) -> list[_Node]:
    readers = collections.Counter(tensor for op in part for tensor in op.inputs)
    for tensor in graph.outputs:
        readers[tensor] += 1
    producers = {tensor: op for op in part for tensor in op.outputs}
    fused: set[int] = set()
    nodes: list[_Node] = []
    for op in part:
        name, read = graph.name(op), op.inputs
        padding: Padding | None = None
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            found = fused_padding(graph, op, producers, readers)
            if found is not None:
                fused.add(id(producers[read[0]]))
                read = [found[0], *read[1:]]
                padding = found[1]
        constant = {t for t in read if t < 0 or t in origin or graph.is_const(t)}
        moving = read[:1] if name in _FIRST_INPUT_ONLY else read
        moving = [tensor for tensor in moving if tensor not in constant]
        weight = read[1] if name in ("CONV_2D", "FULLY_CONNECTED") else None
        flags = 0
        if graph.tensors[read[0]].type == FLOAT32:
            flags = _flags(graph, op, read, padding, constant)
        nodes.append(_Node(op, name, moving, op.outputs, flags, weight))
    nodes = [node for node in nodes if id(node.op) not in fused]
    return [dataclasses.replace(node, leader=i) for i, node in enumerate(nodes)]


def _flags(
    graph: Graph, op: Any, read: list[int], padding: Padding | None, constant: set[int]
) -> int:
    name, options = graph.name(op), op.builtinOptions
    shape = graph.shape(read[0])
    if name == "CONV_2D":
        return _convolution_flags(graph, op, padding)
    if name == "DEPTH_TO_SPACE":
        return _LEAVES
    if name in ("MEAN", "SUM"):
        return _PLANAR | _LEAVES if len(shape) == 4 else 0
    fits = False
    if name == "DEPTHWISE_CONV_2D":
        rows, columns, channels = graph.shape(read[1])[1:]
        stride, half = options.strideH, rows // 2
        if padding is None and options.padding == schema().Padding.SAME:
            padding = (half, half, half, half) if stride == 1 else None
        fits = (
            channels == shape[3]
            and rows == columns
            and rows in (3, 5)
            and stride == options.strideW
            and stride in (1, 2)
            and padding == (half,) * 4
            and options.dilationHFactor == 1
        )
    elif name in ("ADD", "MUL"):
        shapes = {tensor: graph.shape(tensor) for tensor in read}
        fits = all(len(shape) == 4 for shape in shapes.values()) and all(
            sum(size != 1 for size in shapes[tensor]) <= 1 for tensor in constant
        )
    elif name in UNARY:
        fits = len(shape) == 4
    elif name == "RESIZE_BILINEAR":
        fits = min(shape[1:3]) > 1
    elif name == "FULLY_CONNECTED":
        fits = options.keepNumDims
    return _PLANAR if fits else 0


def _convolution_flags(graph: Graph, op: Any, padding: Padding | None) -> int:
    options = op.builtinOptions
    rows, columns, channels = graph.shape(op.inputs[1])[1:]
    strides = (options.strideH, options.strideW)
    if padding is None:
        padding = (0, 0, 0, 0)
        if options.padding == schema().Padding.SAME and (rows, columns) != (1, 1):
            if strides != (1, 1):
                return 0
            up, left = (rows - 1) // 2, (columns - 1) // 2
            padding = (up, columns - 1 - left, rows - 1 - up, left)
    if options.dilationHFactor != 1 or options.dilationWFactor != 1:
        return 0
    if (rows, columns) == (1, 1) and padding == (0, 0, 0, 0) and strides == (1, 1):
        return _PLANAR
    enters = (rows, columns, channels) == (3, 3, 3) and padding == (1, 1, 1, 1)
    return _ENTERS if enters and strides == (2, 2) else 0


def _rewrite(graph: Graph, nodes: list[_Node], origin: dict[int, int]) -> Outlook:
    makers = {tensor: node for node in nodes for tensor in node.outputs}

    def join(node: _Node) -> bool:
        """Joins the clusters of a node and its producers; returns if any changed."""
        moved = False
        for tensor in node.inputs:
            maker = makers.get(tensor)
            good = maker is not None and maker.flags & (_ENTERS | _PLANAR)
            if maker is None or not good or maker.flags & _BAD:
                node.flags |= _BAD
                continue
            maker.flags &= ~_LEAVES
            if maker.leader != node.leader:
                maker.leader = node.leader = max(maker.leader, node.leader)
                moved = True
        return moved

    moved = any([join(node) for node in nodes if node.flags & _LEAVES])
    if not moved:
        return Outlook()
    while moved:
        inner = (
            n for n in nodes if not n.flags & _BAD and n.flags & (_PLANAR | _LEAVES)
        )
        moved = any([join(node) for node in inner])
    for node in nodes:
        nodes[node.leader].flags |= node.flags & _BAD

    def lives(node: _Node) -> bool:
        good = not nodes[node.leader].flags & _BAD
        return good and bool(node.flags & (_PLANAR | _LEAVES))

    planar = collections.Counter(t for n in nodes if lives(n) for t in n.inputs)
    every = collections.Counter(t for n in nodes for t in n.inputs)
    for node in nodes:
        if lives(node) and any(planar[t] != every[t] for t in node.inputs):
            nodes[node.leader].flags |= _BAD  # XNNPACK does not count graph outputs
    for node in nodes:
        leader = nodes[node.leader]
        if node.weight is not None and not leader.flags & _BAD:
            shape = graph.shape(node.weight)
            if node.name == "FULLY_CONNECTED" or max(shape[1:3]) == 1:
                stored = origin.get(node.weight, node.weight)
                values = np.frombuffer(graph.raw(stored), graph.dtype(stored))
                leader.zeros += math.prod(shape) - int(np.count_nonzero(values))
                leader.parameters += math.prod(shape)
    turned: set[int] = set()  # the values that are kept planar
    for node in nodes:
        leader = nodes[node.leader]
        if lives(node) and leader.zeros * 3 > leader.parameters * 2:
            turned |= set(node.inputs)
    sparse = [n.op for n in nodes if n.weight is not None and turned & set(n.inputs)]
    wrong = [
        (node.op, "its input stays planar, and it expects the other layout")
        for node in nodes
        if turned & set(node.inputs)
        and not turned & set(node.outputs)
        and node.name not in EXITS
    ]
    wrong += [
        (makers[tensor].op, "its result is an output of the model and stays planar")
        for tensor in turned & set(graph.outputs)
        if tensor in makers
    ]
    return Outlook(sparse=tuple(sparse), wrong=tuple(wrong))
