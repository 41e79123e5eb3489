"""Speed: the form of a graph that is predicted to be the fastest on ARM and wasm."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.xnnpack import costs, planar
from tflottery.tflite.xnnpack import outlook as outlook_lib
from tflottery.tflite.xnnpack.canvas import Refusal

_PAYS = 0.9  # the largest share of the dense time at which rewriting pays

# Nanoseconds in a fully-connected layer on x86.
_KERNEL_NONZERO = 0.57  # a nonzero weight in TFLite's sparse kernel
_DENSE_WEIGHT = 0.036  # a weight in the dense kernel
_DENSE_SMALL_WEIGHT = 0.027  # the same in a layer that fits in the first caches
_SMALL = 1 << 17  # the most weights of such a layer
_SWITCH = 1000.0  # a change from XNNPACK to TFLite and back


def make_fast(graph: Graph) -> tuple[set[int], list[str]]:
    """Rewrites the graph, in place, for the sparse kernels of ARM and wasm.

    Returns:
        The weights of the fully-connected layers to run in TFLite's own sparse kernel,
        and notes on what could not be done.
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
            f"the cost model predicts {best[0]:.2g} ms with sparse convolutions and "
            f"{dense:.2g} ms with dense ones, so they stay dense."
        )
    elif refusals and any(graph.name(op) == "CONV_2D" for op in graph.operators):
        notes.append(f"convolutions cannot run sparse: {refusals[0]}.")
    return kernel_weights(graph), notes


def predicted_ms(graph: Graph, sparse: Collection[Any]) -> float:
    """Returns the predicted milliseconds of a call in LiteRT.js, with one thread.

    The graph may be dense or stored; `sparse` are the operators that run sparse.
    """
    planar_ops = {id(op) for op in sparse}
    origin, _ = outlook_lib.weight_origins(graph)
    total = 0.0
    for op in graph.operators:
        name = graph.name(op)
        if name in ("DENSIFY", "DEQUANTIZE") or not op.outputs:
            continue
        values = int(np.prod(graph.shape(op.outputs[0])))
        if planar_ops and name not in ("PAD", "RESHAPE"):
            total += values * costs.ELEMENT
        if name not in sparsify.WEIGHTED or not graph.shape(op.inputs[1]):
            continue  # a weight that is computed may be of unknown shape
        weight: int = op.inputs[1]
        size = int(np.prod(graph.shape(weight)))
        if name == "DEPTHWISE_CONV_2D":
            total += values * size / graph.shape(weight)[3] * costs.DEPTHWISE_MAC
        elif id(op) in planar_ops:
            pixels = values / graph.shape(weight)[0]
            stored = origin.get(weight, weight)
            if graph.tensors[stored].sparsity is not None:
                held = np.frombuffer(graph.raw(stored), graph.dtype(stored))
                size = int(np.count_nonzero(held))
            total += size * pixels * costs.SPARSE_MAC
        else:
            total += values * size / graph.shape(weight)[0] * costs.DENSE_MAC
    return total / 1e6


def kernel_weights(graph: Graph) -> set[int]:
    """Returns the weights of the layers to run in TFLite's own sparse kernel.

    That kernel is plain C++ and computes one sample at a time: it is faster for batches
    of 1 if at most about one weight in twenty is left.
    """
    gains: dict[int, float] = {}  # weight -> nanoseconds saved
    pays = False
    for tensor, readers in sparsify.weights(graph).items():
        array = graph.const(tensor)
        if array is None or array.dtype != np.float32:
            continue
        if any(graph.name(op) != "FULLY_CONNECTED" for op, _ in readers):
            continue
        samples = [np.prod(graph.shape(op.inputs[0])) for op, _ in readers]
        if any(size != array.shape[1] for size in samples):
            continue
        each = _DENSE_SMALL_WEIGHT if array.size <= _SMALL else _DENSE_WEIGHT
        sparse, dense = np.count_nonzero(array) * _KERNEL_NONZERO, array.size * each
        gains[tensor] = dense - sparse
        pays |= bool(sparse < _PAYS * dense)
    # A dense layer between sparse ones would cost a switch.
    return {tensor for tensor in gains if pays and gains[tensor] > -_SWITCH}
