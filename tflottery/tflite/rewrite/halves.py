"""Halves: the float16 constants of a dense file, as the float32 that they stand for."""

from __future__ import annotations

import numpy as np

from tflottery.tflite.file.graph import Graph, inputs, outputs


def unfold_halves(graph: Graph) -> int:
    """Replaces, in place, each float16 constant and its DEQUANTIZE by a float32 one.

    Such a weight could not be stored sparse: only what operators read themselves can.

    Returns:
      How many constants were replaced.
    """
    kept = []
    for op in graph.operators:
        constant = graph.const(inputs(op)[0]) if inputs(op) else None
        if (
            graph.name(op) != "DEQUANTIZE"
            or constant is None
            or constant.dtype != np.float16
            or outputs(op)[0] in graph.outputs
        ):
            kept.append(op)
        else:
            graph.set_const(outputs(op)[0], constant.astype(np.float32))
    count = len(graph.operators) - len(kept)
    graph.subgraph.operators = kept
    return count
