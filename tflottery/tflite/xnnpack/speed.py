"""Speed: of all exact ways to write a graph, the one predicted to be fastest."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph, inputs, outputs
from tflottery.tflite.file.parameters import read
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.xnnpack import costs, planar
from tflottery.tflite.xnnpack import outlook as outlook_lib
from tflottery.tflite.xnnpack.canvas import Refusal

_PAYS = 0.9  # a rewriting must promise at most this share of the dense time

# The sparse kernel for fully-connected layers against the dense one, on x86.
_KERNEL_NONZERO = 0.57
_DENSE_WEIGHT = 0.036
_SMALL = 1 << 17  # weights that stay in the first caches, where dense is faster
_DENSE_SMALL_WEIGHT = 0.027
_SWITCH = 1000.0


def make_fast(graph: Graph) -> tuple[set[int], list[str]]:
    """Rewrites the graph, in place, for the sparse kernels of ARM and wasm.

    Returns:
      The weights that TFLite's own sparse kernel for fully-connected layers shall run;
      and notes on what was, or could not be, done.
    """
    dense = predicted_ms(graph, ())
    choices: list[tuple[float, Graph]] = []
    refusals: list[str] = []
    for flip in (None, False, True):
        candidate = copy.deepcopy(graph)
        try:
            if flip is not None:
                planar.make_planar(candidate, flip=flip)
        except Refusal as refusal:
            refusals.append(str(refusal))
            continue
        stored = copy.deepcopy(candidate)
        sparsify.sparsify(stored)
        outlook = outlook_lib.outlook(stored)
        if outlook.sparse and not outlook.wrong:
            choices.append((predicted_ms(stored, outlook.sparse), candidate))
    notes = []
    best = min(choices, key=lambda choice: choice[0], default=None)
    if best is not None and best[0] < _PAYS * dense:
        graph.model, graph.subgraph = best[1].model, best[1].subgraph
    elif best is not None:
        notes.append(
            f"sparse convolutions would take {best[0]:.2g} ms and dense ones "
            f"{dense:.2g} ms by the cost model, so they stay dense."
        )
    elif refusals and any(graph.name(op) == "CONV_2D" for op in graph.operators):
        notes.append(f"convolutions cannot run sparse: {refusals[0]}.")
    return kernel_weights(graph), notes


def predicted_ms(graph: Graph, sparse: Collection[Any]) -> float:
    """Returns the predicted time of a call in LiteRT.js, one thread, in milliseconds.

    Only good for comparing ways to write one network.

    Args:
      graph: A dense or stored graph.
      sparse: The operators that run sparse.
    """
    planar_ops = {id(op) for op in sparse}
    origin = {
        outputs(op)[0]: inputs(op)[0]
        for op in graph.operators
        if graph.name(op) == "DENSIFY"
    }
    total = 0.0
    for op in graph.operators:
        name = graph.name(op)
        if name in ("DENSIFY", "DEQUANTIZE") or not outputs(op):
            continue
        values = int(np.prod(graph.shape(outputs(op)[0])))
        if planar_ops and name not in ("PAD", "RESHAPE"):
            total += values * costs.ELEMENT
        if name not in sparsify.WEIGHTED:
            continue
        weight = inputs(op)[1]
        size = int(np.prod(graph.shape(weight)))
        if name == "DEPTHWISE_CONV_2D":
            total += values * size / graph.shape(weight)[3] * costs.DEPTHWISE_MAC
        elif id(op) in planar_ops:
            pixels = values / graph.shape(weight)[0]
            held = read(graph, origin.get(weight, weight))
            nonzeros = np.count_nonzero(held.values) if held else size
            total += nonzeros * pixels * costs.SPARSE_MAC
        else:
            total += values * size / graph.shape(weight)[0] * costs.DENSE_MAC
    return total / 1e6


def kernel_weights(graph: Graph) -> set[int]:
    """Returns the weights whose layers TFLite's own sparse kernel runs faster.

    That kernel computes one sample at a time, in plain C++: it pays where one weight
    in twenty is left, or fewer, and the batch is 1.
    """
    gains: dict[int, float] = {}  # weight -> nanoseconds won
    pays: set[int] = set()
    for tensor, readers in sparsify.weights(graph).items():
        array = graph.const(tensor)
        if array is None or array.dtype != np.float32:
            continue
        if any(graph.name(op) != "FULLY_CONNECTED" for op, _ in readers):
            continue
        samples = [np.prod(graph.shape(inputs(op)[0])) for op, _ in readers]
        if any(size != array.shape[1] for size in samples):
            continue
        each = _DENSE_SMALL_WEIGHT if array.size <= _SMALL else _DENSE_WEIGHT
        sparse, dense = np.count_nonzero(array) * _KERNEL_NONZERO, array.size * each
        gains[tensor] = dense - sparse
        if sparse < _PAYS * dense:
            pays.add(tensor)
    # A dense layer between sparse ones costs a change to XNNPACK and back.
    return {tensor for tensor in gains if pays and gains[tensor] > -_SWITCH}
