"""NPU: dense int8 weights that a microNPU's compiler codes in few bits."""

from __future__ import annotations

import numpy as np

from tflottery.core import extras
from tflottery.tflite.file.graph import FLOAT16, FLOAT32, Graph
from tflottery.tflite.rewrite import sparsify


def cluster(graph: Graph, count: int) -> int:
    """Snaps the kept values of each int8 weight to `count` values, in place.

    Returns how many weights had more. Pruned weights stay zero. Uses k-means on the
    integers, whatever their channel, as the compiler codes these.
    """
    with extras.needed("npu", "`clusters`"):
        from sklearn.cluster import KMeans

    changed = 0
    for tensor in sparsify.weights(graph):
        array = graph.const(tensor)
        if array is None or array.dtype != np.int8:
            continue
        values, counts = np.unique(array[array != 0], return_counts=True)
        if len(values) <= count:
            continue
        changed += 1
        means = KMeans(count, random_state=0)
        means.fit(values[:, None], sample_weight=counts)
        centers = np.rint(means.cluster_centers_[means.labels_, 0])
        snapped = np.arange(256).astype(np.uint8).view(np.int8)  # by a value's bits
        snapped[values.view(np.uint8)] = centers
        graph.set_const(tensor, snapped[array.view(np.uint8)])
    return changed


def filled(graph: Graph) -> Graph:
    """Returns the same network as if nothing were pruned, to compare compilations with.

    Each zero of an int8 weight becomes one of the weight's other values, at random.
    """
    generator = np.random.default_rng(0)
    result = Graph(graph.to_bytes())
    for tensor in sparsify.weights(result):
        array = result.const(tensor)
        if array is not None and array.dtype == np.int8 and array.any():
            drawn = generator.choice(array[array != 0], array.shape)
            result.set_const(tensor, np.where(array == 0, drawn, array))
    return result


def in_float(graph: Graph) -> list[str]:
    """Returns the operators that compute in floating point, which no microNPU does."""
    floats = (FLOAT32, FLOAT16)
    return [
        graph.name(op)
        for op in graph.operators
        if any(graph.tensors[t].type in floats for t in [*op.inputs, *op.outputs])
    ]
