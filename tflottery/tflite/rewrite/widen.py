"""Widen: the same arithmetic with a weight whose indices fit in one byte.

A 1x1 convolution over K > 256 channels becomes one over rows of g pixels of K/g
channels, with stride g. A fully-connected layer becomes such a convolution. Only shapes
change: inputs, weights and outputs look the same in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflottery.tflite.file import encoding as encodings
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.file.packing import schema
from tflottery.tflite.rewrite.quantized import parameters
from tflottery.tflite.rewrite.sparsify import weights

_BYTE = 256  # the number of indices that fit in one byte
_RESHAPE = 160  # bytes of a RESHAPE with its tensors in the file


def widen(graph: Graph, *, quantize: bool = False, always: bool = False) -> int:
    """Rewrites in place the layers whose sparse weights get smaller; returns how many.

    Args:
        graph: A dense graph; one of open sizes is left as it is.
        quantize: Whether the weights will be stored as int8.
        always: Whether every fully-connected layer that is smaller sparse becomes a
            convolution. LiteRT cannot run FULLY_CONNECTED with a sparse int8 weight.
    """
    count = 0
    found = {} if graph.is_open else weights(graph)
    for op in list(graph.operators):
        tensor = op.inputs[1] if len(op.inputs) > 1 else -1
        if tensor not in found or len(found[tensor]) != 1:
            continue
        array = graph.const(tensor)
        if array is None or not _fits(graph, op, array):
            continue
        dense_layer = graph.name(op) == "FULLY_CONNECTED"
        groups = _best_groups(array, quantize, reshapes=1 + dense_layer)
        sparse = encodings.cheapest(array).nbytes + 2 * _RESHAPE < array.nbytes
        if groups == 1 and not (always and dense_layer and sparse):
            continue
        _rewrite(graph, op, array, groups)
        count += 1
    return count


def _fits(graph: Graph, op: Any, array: np.ndarray) -> bool:
    shape = graph.shape(op.inputs[0])
    options = op.builtinOptions
    if array.dtype == np.uint8:
        return False
    if graph.name(op) == "FULLY_CONNECTED":
        width = array.shape[1]
        rows = int(np.prod(shape)) // width
        size = int(np.prod(graph.shape(op.outputs[0])))
        return options.weightsFormat == 0 and size == rows * array.shape[0]
    return (
        graph.name(op) == "CONV_2D"
        and len(shape) == 4
        and array.shape[1:3] == (1, 1)
        and options.strideH == options.strideW == 1
    )


def _best_groups(array: np.ndarray, quantize: bool, reshapes: int) -> int:
    """Returns the g of the smallest file; 1 if the layer should stay as it is."""
    outs, width = array.shape[0], array.shape[-1]
    narrows = quantize and array.dtype == np.float32
    saved = 3 * np.count_nonzero(array) if narrows else 0  # 1 byte a value, not 4
    sparse = encodings.cheapest(array).nbytes - saved
    least = min(sparse, array.nbytes // (4 if narrows else 1))
    # A g above the first that fits only adds segments.
    fits = (g for g in range(2, width + 1) if not width % g and width // g <= _BYTE)
    groups = next(fits, 1)
    shaped = array.reshape(outs, 1, groups, width // groups)
    size = encodings.encode(shaped, range(4)).nbytes - saved + reshapes * _RESHAPE
    return groups if size < least else 1


def _rewrite(graph: Graph, op: Any, array: np.ndarray, groups: int) -> None:
    source, target = op.inputs[0], op.outputs[0]
    outs, width = array.shape[0], array.shape[-1]
    shape = graph.shape(source)
    dense_layer = graph.name(op) == "FULLY_CONNECTED"
    rows = int(np.prod(shape)) // width
    pixels = (rows, 1, 1) if dense_layer else shape[:3]
    narrow = (*pixels[:2], pixels[2] * groups, width // groups)
    shaped = graph.add_tensor(narrow, like=source)
    tensor = op.inputs[1]
    graph.set_shape(tensor, (outs, 1, groups, width // groups))
    result = graph.add_tensor((*pixels, outs), like=target) if dense_layer else target
    bias = op.inputs[2] if len(op.inputs) > 2 else -1
    if bias < 0:  # optional in a dense layer, required in a plain convolution
        zeros = np.zeros(outs, np.int32 if array.dtype == np.int8 else np.float32)
        bias = graph.add_const(zeros)
        if array.dtype == np.int8:
            held = (graph.tensors[t].quantization for t in (source, tensor))
            a, b = (np.asarray(each.scale) for each in held)
            graph.tensors[bias].quantization = parameters((a * b).astype(np.float32))
    convolution = graph.op(
        "CONV_2D",
        [shaped, tensor, bias],
        [result],
        version=3 if array.dtype == np.int8 else 1,
        padding=schema().Padding.VALID,
        strideH=1,
        strideW=groups,
        fusedActivationFunction=op.builtinOptions.fusedActivationFunction,
    )
    new = [graph.reshape(source, shaped), convolution]
    if dense_layer:
        new.append(graph.reshape(result, target))
    where = graph.operators.index(op)
    graph.operators[where : where + 1] = new
