"""Parameters: an encoding as the schema's table in a file, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflottery.tflite.file import encoding as encodings
from tflottery.tflite.file.encoding import Encoding
from tflottery.tflite.file.graph import Graph, schema


def parameters(coded: Encoding) -> Any:
    """Returns the encoding as the schema's table."""
    generated = schema()
    result = generated.SparsityParametersT()
    result.traversalOrder = np.array(coded.order, np.int32)
    result.dimMetadata = []
    for dimension in coded.dimensions:
        entry = generated.DimensionMetadataT()
        if isinstance(dimension, int):
            entry.format = generated.DimensionType.DENSE
            entry.denseSize = dimension
        else:
            entry.format = generated.DimensionType.SPARSE_CSR
            entry.arraySegmentsType, entry.arraySegments = _vector(dimension[0])
            entry.arrayIndicesType, entry.arrayIndices = _vector(dimension[1])
        result.dimMetadata.append(entry)
    return result


def _vector(values: np.ndarray) -> tuple[int, Any]:
    kind = {"uint8": "Uint8Vector", "uint16": "Uint16Vector", "int32": "Int32Vector"}
    narrowed = encodings.narrow(values)
    name = kind[narrowed.dtype.name]
    table = getattr(schema(), name + "T")()
    table.values = narrowed
    return getattr(schema().SparseIndexVector, name), table


def read(graph: Graph, tensor: int) -> Encoding | None:
    """Returns the encoding of a sparse constant; None where `tensor` is not one.

    Raises:
      ValueError: If it uses blocks, or is damaged.
    """
    entry = graph.tensors[tensor]
    held = entry.sparsity
    if held is None:
        return None
    if held.blockMap is not None and len(held.blockMap):
        raise ValueError("A tensor with block sparsity is not supported.")
    dimensions: list[Any] = []
    for metadata in held.dimMetadata or []:
        if metadata.format == schema().DimensionType.DENSE:
            dimensions.append(int(metadata.denseSize))
        elif metadata.arraySegments is None or metadata.arrayIndices is None:
            raise ValueError("A compressed dimension has no segments or no indices.")
        else:
            vectors = metadata.arraySegments.values, metadata.arrayIndices.values
            dimensions.append(tuple(np.asarray(v) for v in vectors))
    dtypes = {0: np.float32, 1: np.float16, 9: np.int8}
    if entry.type not in dtypes:
        raise ValueError(f"A sparse tensor of type {entry.type} is not supported.")
    shape = graph.shape(tensor)
    order = tuple(int(d) for d in held.traversalOrder)
    if sorted(order) != list(range(len(shape))) or len(dimensions) != len(shape):
        raise ValueError(f"A sparse tensor of shape {shape} is walked as {order}.")
    raw = graph.raw(tensor)
    return Encoding(
        shape=shape,
        order=order,
        dimensions=tuple(dimensions),
        values=np.frombuffer(raw, dtypes[entry.type]),
    )
