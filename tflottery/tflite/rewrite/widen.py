"""Widen: the same arithmetic over a weight whose indices fit in one byte.

A 1x1 convolution over K > 256 channels becomes one over a row of g pixels of K/g
channels, moving g pixels at a time; a fully-connected layer becomes that convolution.
Only the shapes change: the memory of inputs, weights and outputs stays as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflottery.tflite.file import encoding as encodings
from tflottery.tflite.file.graph import Graph, inputs, outputs, schema
from tflottery.tflite.rewrite.sparsify import weights

_BYTE = 256  # coordinates that one byte tells apart
_RESHAPE = 160  # bytes that a RESHAPE with its tensors costs in the file


def widen(graph: Graph, *, quantize: bool = False, always: bool = False) -> int:
    """Rewrites, in place, each layer whose sparse weight becomes smaller by it.

    Args:
      graph: A dense graph with static shapes.
      quantize: The weights will be stored as int8.
      always: Turn every fully-connected layer into a convolution, as int8 needs it:
        LiteRT cannot run FULLY_CONNECTED on an int8 weight that is stored sparse.

    Returns:
      The number of layers rewritten.
    """
    count = 0
    found = weights(graph)
    for op in list(graph.operators):
        tensor = inputs(op)[1] if len(inputs(op)) > 1 else -1
        if tensor not in found or len(found[tensor]) != 1:
            continue
        array = graph.const(tensor)
        if array is None or not _fits(graph, op, array):
            continue
        dense_layer = graph.name(op) == "FULLY_CONNECTED"
        groups = _best_groups(array, quantize, reshapes=1 + dense_layer)
        if groups == 1 and not (always and dense_layer):
            continue
        _rewrite(graph, op, array, groups)
        count += 1
    return count


def _fits(graph: Graph, op: Any, array: np.ndarray) -> bool:
    shape = graph.shape(inputs(op)[0])
    options = op.builtinOptions
    if graph.name(op) == "FULLY_CONNECTED":
        width = array.shape[1]
        rows = int(np.prod(shape)) // width
        size = int(np.prod(graph.shape(outputs(op)[0])))
        return options.weightsFormat == 0 and size == rows * array.shape[0]
    return (
        graph.name(op) == "CONV_2D"
        and len(shape) == 4
        and array.shape[1:3] == (1, 1)
        and options.strideH == options.strideW == 1
    )


def _best_groups(array: np.ndarray, quantize: bool, reshapes: int) -> int:
    """Returns the g with the smallest file; 1 where the layer is best left alone."""
    outs, width = array.shape[0], array.shape[-1]
    least = encodings.cheapest(array).nbytes
    if quantize and array.dtype == np.float32:
        least -= 3 * np.count_nonzero(array)
    least = min(least, array.nbytes // (4 if quantize and array.itemsize == 4 else 1))
    # A larger g than the first that fits only adds segments.
    fits = (g for g in range(2, width + 1) if not width % g and width // g <= _BYTE)
    groups = next(fits, 1)
    shaped = array.reshape(outs, 1, groups, width // groups)
    size = encodings.encode(shaped, range(4)).nbytes + reshapes * _RESHAPE
    if quantize and array.dtype == np.float32:
        size -= 3 * np.count_nonzero(array)
    return groups if size < least else 1


def _rewrite(graph: Graph, op: Any, array: np.ndarray, groups: int) -> None:
    source, target = inputs(op)[0], outputs(op)[0]
    outs, width = array.shape[0], array.shape[-1]
    shape = graph.shape(source)
    dense_layer = graph.name(op) == "FULLY_CONNECTED"
    rows = int(np.prod(shape)) // width
    pixels = (rows, 1, 1) if dense_layer else shape[:3]
    narrow = (*pixels[:2], pixels[2] * groups, width // groups)
    shaped = graph.add_tensor(narrow, like=source)
    tensor = inputs(op)[1]
    graph.tensors[tensor].shape = np.array((outs, 1, groups, width // groups), np.int32)
    graph.tensors[tensor].shapeSignature = None
    result = graph.add_tensor((*pixels, outs), like=target) if dense_layer else target
    bias = inputs(op)[2] if len(inputs(op)) > 2 else -1
    if bias < 0:  # a dense layer may do without; the plain convolution may not
        zeros = np.zeros(outs, np.int32 if array.dtype == np.int8 else np.float32)
        bias = graph.add_const(zeros)
        if array.dtype == np.int8:
            graph.tensors[bias].quantization = _bias_scale(graph, source, tensor)
    convolution = graph.op(
        "CONV_2D",
        [shaped, tensor, bias],
        [result],
        version=3 if graph.tensors[tensor].type == 9 else 1,
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


def _bias_scale(graph: Graph, source: int, weight: int) -> Any:
    """Returns the quantization that an int32 bias of zeros must have: their product."""
    scales = [graph.tensors[t].quantization.scale for t in (source, weight)]
    result = schema().QuantizationParametersT()
    result.scale = (np.asarray(scales[0]) * np.asarray(scales[1])).astype(np.float32)
    result.zeroPoint = np.zeros(len(result.scale), np.int64)
    return result
