"""Micro: weights in the pruned form that TFLite Micro's DECODE operator unpacks.

A weight is a bitmap of the places that are not at the zero point, the most significant
bit first, and the values of these places behind a header of 16 bytes. See
`kernels/decode_state_prune.cc` of TFLite Micro.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import FLOAT32, INT8, Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.rewrite.quantized import per_channel

NAME = "TFLM_DECODE"  # of the operator, which is a custom one
_HEADER = bytes([2, 1, 0, 0, 1, *[0] * 11])  # pruned, version 1; its own version 1
_TYPES = (INT8, FLOAT32, 7)  # what the operator unpacks: int8, float32 and int16
_OVERHEAD = 150  # measured bytes of the operator and its two tensors


def store(graph: Graph) -> tuple[sparsify.Stored, ...]:
    """Stores every weight pruned or dense, whichever is smaller, in place.

    Each reader gets an operator of its own directly before it, as TFLite Micro keeps
    what is unpacked only that long.

    Returns:
        How each weight is stored, in the order of the graph.
    """
    before: dict[int, list[Any]] = {}
    weights = sparsify.weights(graph)
    dense = sparsify.sparsify(graph, dense=weights)
    stored = []
    for record, (tensor, readers) in zip(dense, weights.items(), strict=True):
        packed = _pack(graph, tensor)
        if packed is None:
            stored.append(record)
            continue
        bitmap, values = (graph.add_const(array) for array in packed)
        for op, position in readers:
            unpacked = graph.add_tensor(graph.shape(tensor), like=tensor)
            before[id(op)] = [
                graph.op("CUSTOM", [bitmap, values], [unpacked], custom=NAME.encode())
            ]
            op.inputs[position] = unpacked
        size = sum(array.nbytes for array in packed)
        stored.append(dataclasses.replace(record, form="pruned", bytes=size))
    graph.insert(before)
    return tuple(stored)


def unpack(data: bytes) -> bytes:
    """Returns a pruned file with its weights dense, which other runtimes can run."""
    graph = Graph(data)
    unpack_weights(graph)
    return graph.to_bytes(keep_names=True)


def unpack_weights(graph: Graph) -> int:
    """Makes pruned weights dense, in place; returns how many.

    This repeats what TFLite Micro does, and so checks what was written.

    Raises:
        ValueError: If a weight is in another form that TFLite Micro unpacks.
    """
    kept = []
    for op in graph.operators:
        if graph.name(op) != NAME:
            kept.append(op)
            continue
        bitmap, held = (graph.raw(tensor) for tensor in op.inputs)
        target = op.outputs[0]
        shape, dtype = graph.shape(target), graph.dtype(target)
        zeros = _zero_points(graph, target)
        if not held.startswith(_HEADER) or zeros is None:
            raise ValueError(
                "A weight of the .tflite file is packed for TFLite Micro, but not as a "
                "bitmap and values. Give the file as it was before it was packed."
            )
        array = np.full(shape, zeros, dtype)
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=array.size)
        values = np.frombuffer(held[len(_HEADER) :], dtype)
        array.reshape(-1)[bits.astype(bool)] = values
        graph.set_const(target, array)
    count = len(graph.operators) - len(kept)
    graph.subgraph.operators = kept
    return count


def largest(graph: Graph) -> int:
    """Returns the bytes of the largest weight that is unpacked, which needs RAM."""
    unpacked = [op.outputs[0] for op in graph.operators if graph.name(op) == NAME]
    sizes = [graph.dtype(t).itemsize * math.prod(graph.shape(t)) for t in unpacked]
    return max(sizes, default=0)


def _pack(graph: Graph, tensor: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the bitmap, and the header with the values; None if dense is smaller."""
    array = graph.const(tensor)
    zeros = _zero_points(graph, tensor)
    if array is None or zeros is None or graph.tensors[tensor].type not in _TYPES:
        return None
    kept = array != zeros
    bitmap = np.packbits(kept)
    values = np.frombuffer(_HEADER + array[kept].tobytes(), np.uint8)
    pays = bitmap.nbytes + values.nbytes + _OVERHEAD < array.nbytes
    return (bitmap, values) if pays else None


def _zero_points(graph: Graph, tensor: int) -> np.ndarray | int | None:
    """Returns the zero points, to broadcast over the tensor; None if not unpacked."""
    held, rank = graph.quantization(tensor), len(graph.shape(tensor))
    if held is None:
        return 0
    zeros, axis = np.asarray(held.zeroPoint), held.quantizedDimension
    if zeros.any() and graph.tensors[tensor].type != INT8:
        return None
    if axis not in (0, rank - 1 if zeros.size > 1 else 0):
        return None
    return per_channel(zeros, axis, rank)
