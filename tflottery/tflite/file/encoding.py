"""Encoding: a sparse array as values and indices, in the fewest bytes.

TensorFlow Lite's `SparsityParameters` walk the dimensions of an array in some order.
Each dimension is dense or compressed: segments say where the indices of each row begin
and end, and only the indices that hold something are listed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.file.packing import schema, table

# One dimension: its size if dense, or (segments, indices) if compressed.
Dimension = int | tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """A sparse array: its dimensions and `[count]` values, in walking order."""

    shape: tuple[int, ...]  # of the dense array
    order: tuple[int, ...]  # its dimensions in walking order
    dimensions: tuple[Dimension, ...]
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the values, segments and indices."""
        vectors = [v for d in self.dimensions if not isinstance(d, int) for v in d]
        return self.values.nbytes + sum(narrow(vector).nbytes for vector in vectors)

    @property
    def levels(self) -> int:
        """Number of compressed dimensions."""
        return sum(not isinstance(dimension, int) for dimension in self.dimensions)


def narrow(vector: np.ndarray) -> np.ndarray:
    """Returns `vector` in the narrowest type of the format that holds its maximum.

    >>> [narrow(np.array([0, top])).dtype.name for top in (255, 256, 65_535, 65_536)]
    ['uint8', 'uint16', 'uint16', 'int32']
    """
    dtypes = {1: np.uint8, 2: np.uint16, 4: np.int32}
    return vector.astype(dtypes[_width(int(vector.max(initial=0)))])


def _width(top: int) -> int:
    return 1 if top <= 255 else 2 if top <= 65_535 else 4


def encode(array: np.ndarray, order: Sequence[int], levels: int = 1) -> Encoding:
    """Encodes `array`, compressing the last `levels` dimensions in `order`.

    A file cannot hold an empty constant, so an array of zeros keeps one of them. A
    negative zero counts as zero. `levels` is 1 or 2, at most the rank.

    >>> encode(np.array([[0, 7, 0], [0, 0, 0]]), (0, 1)).dimensions[1]
    (array([0, 1, 1]), array([1]))
    """
    walked = np.transpose(array, order)
    stored = walked != 0
    if not stored.any():
        stored[(0,) * stored.ndim] = True
    dense, compressed = walked.shape[:-levels], walked.shape[-levels:]
    values = walked.reshape(-1, *compressed)
    stored = stored.reshape(-1, *compressed)
    dimensions: list[Dimension] = [int(size) for size in dense]
    for _ in range(levels):
        holds = stored.any(axis=tuple(range(2, stored.ndim)))
        segments = np.concatenate([[0], np.cumsum(holds.sum(axis=1))])
        rows, indices = np.nonzero(holds)
        dimensions.append((segments, indices))
        values, stored = values[rows, indices], stored[rows, indices]
    return Encoding(
        shape=tuple(int(size) for size in array.shape),
        order=tuple(int(dimension) for dimension in order),
        dimensions=tuple(dimensions),
        values=values,
    )


def decode(encoding: Encoding) -> np.ndarray:
    """Returns the dense array.

    Raises:
        ValueError: If segments, indices and values do not fit together.

    >>> decode(encode(np.array([[0, 7, 0], [0, 0, 0]]), (1, 0), levels=2))
    array([[0, 7, 0],
           [0, 0, 0]])
    """
    walked_shape = [encoding.shape[dimension] for dimension in encoding.order]
    flat = np.zeros(1, np.int64)  # flat position of each entry, up to this dimension
    for size, dimension in zip(walked_shape, encoding.dimensions, strict=True):
        if isinstance(dimension, int):
            if dimension != size:
                raise ValueError(
                    f"A dense dimension is {dimension}, the tensor's {size}."
                )
            flat = (flat[:, None] * size + np.arange(size)).reshape(-1)
            continue
        segments, indices = (vector.astype(np.int64) for vector in dimension)
        counts = np.diff(segments)
        whole = segments[:1].tolist() == [0] and segments[-1] == len(indices)
        if len(segments) != len(flat) + 1 or not whole or (counts < 0).any():
            raise ValueError(
                f"{len(segments)} segments do not fit {len(flat)} rows and "
                f"{len(indices)} indices."
            )
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            raise ValueError(f"An index lies outside of its dimension of {size}.")
        flat = np.repeat(flat, counts) * size + indices
    if len(flat) != len(encoding.values):
        raise ValueError(f"{len(encoding.values)} values for {len(flat)} places.")
    walked = np.zeros(math.prod(walked_shape), encoding.values.dtype)
    walked[flat] = encoding.values
    back = np.argsort(encoding.order)
    return np.ascontiguousarray(walked.reshape(walked_shape).transpose(back))


def cheapest(array: np.ndarray) -> Encoding:
    """Returns the smallest encoding over all orders and both numbers of levels.

    Only the last one or two dimensions of an order affect the size.
    """
    stored = array != 0
    count = max(1, int(stored.sum()))
    choices: list[tuple[int, int, tuple[int, ...]]] = []
    for last in range(array.ndim):
        rows = array.size // max(1, array.shape[last])
        size = _width(array.shape[last] - 1) * count + _width(count) * (rows + 1)
        choices.append((size, 1, _ending(array.ndim, last)))
    for last_two in itertools.permutations(range(array.ndim), 2):
        # A row is a place of all dimensions but the last.
        rows = int(stored.any(axis=last_two[1]).sum()) or 1
        first, second = (array.shape[dimension] for dimension in last_two)
        outer = array.size // max(1, first * second)
        size = (
            _width(rows) * (outer + 1)
            + _width(first - 1) * rows
            + _width(count) * (rows + 1)
            + _width(second - 1) * count
        )
        choices.append((size, 2, _ending(array.ndim, *last_two)))
    _, levels, order = min(choices)
    return encode(array, order, levels)


def _ending(rank: int, *last: int) -> tuple[int, ...]:
    return (*(d for d in range(rank) if d not in last), *last)


def entropy_bits(count: int, size: int) -> float:
    """Returns the fewest bits that tell which `count` of `size` places hold a value.

    An ideal code takes `size` times the binary entropy of the density.

    >>> round(entropy_bits(50, 1000) / 50, 3)
    5.728
    """
    if count in (0, size):
        return 0.0
    p = count / size
    return -size * (p * math.log2(p) + (1 - p) * math.log2(1 - p))


def parameters(encoding: Encoding) -> Any:
    """Returns the `SparsityParameters` of a file for an encoding."""
    entries = []
    for dimension in encoding.dimensions:
        entry = table("DimensionMetadataT")
        if isinstance(dimension, int):
            entry.format = schema().DimensionType.DENSE
            entry.denseSize = dimension
        else:
            entry.format = schema().DimensionType.SPARSE_CSR
            entry.arraySegmentsType, entry.arraySegments = _vector(dimension[0])
            entry.arrayIndicesType, entry.arrayIndices = _vector(dimension[1])
        entries.append(entry)
    order = list(encoding.order)
    return table("SparsityParametersT", traversalOrder=order, dimMetadata=entries)


def _vector(values: np.ndarray) -> tuple[int, Any]:
    values = narrow(values)
    name = {1: "Uint8Vector", 2: "Uint16Vector", 4: "Int32Vector"}[values.itemsize]
    return getattr(schema().SparseIndexVector, name), table(name + "T", values=values)


def read(graph: Graph, tensor: int) -> Encoding | None:
    """Returns the encoding of a sparse constant; None if `tensor` is not one.

    Raises:
        ValueError: If it is sparse in blocks, of an unsupported type, or damaged.
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
    dtype = graph.dtype(tensor)
    if dtype not in (np.float32, np.float16, np.int8):
        raise ValueError(f"A sparse tensor of type {dtype} is not supported.")
    shape = graph.shape(tensor)
    order = tuple(int(d) for d in held.traversalOrder)
    if sorted(order) != list(range(len(shape))) or len(dimensions) != len(shape):
        raise ValueError(f"A sparse tensor of shape {shape} is walked as {order}.")
    return Encoding(
        shape=shape,
        order=order,
        dimensions=tuple(dimensions),
        values=np.frombuffer(graph.raw(tensor), dtype),
    )
