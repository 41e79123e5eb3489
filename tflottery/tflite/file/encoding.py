"""Encoding: a sparse array as values and indices, the cheapest way the format allows.

The format (TensorFlow Lite's `SparsityParameters`) walks an array's dimensions in a
chosen order. Each is dense, or compressed: segments say where each row's indices
begin and end, and only the coordinates that hold something are listed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

# One dimension: its size if dense, or (segments, indices) if compressed.
Dimension = int | tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """A sparse array.

    Attributes:
      shape: The shape of the dense array.
      order: The dimensions in the order in which they are walked.
      dimensions: One per dimension, in that order; the last one or two compressed.
      values: The stored values, `[count]`, in walking order.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    dimensions: tuple[Dimension, ...]
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the values, segments and indices."""
        vectors = [v for d in self.dimensions if not isinstance(d, int) for v in d]
        return self.values.nbytes + sum(narrow(vector).nbytes for vector in vectors)

    @property
    def levels(self) -> int:
        """How many dimensions are compressed."""
        return sum(not isinstance(dimension, int) for dimension in self.dimensions)


def narrow(vector: np.ndarray) -> np.ndarray:
    """Returns `vector` in the narrowest type the format knows for its largest entry.

    >>> [narrow(np.array([0, top])).dtype.name for top in (255, 256, 65_535, 65_536)]
    ['uint8', 'uint16', 'uint16', 'int32']
    """
    top = int(vector.max(initial=0))
    dtype = np.uint8 if top <= 255 else np.uint16 if top <= 65_535 else np.int32
    return vector.astype(dtype)


def encode(array: np.ndarray, order: Sequence[int], levels: int = 1) -> Encoding:
    """Returns `array` encoded with its last `levels` dimensions in `order` compressed.

    An array without any nonzero keeps one stored zero, as a file cannot hold an empty
    constant. A negative zero counts as a zero.

    Args:
      array: Any array of rank 1 or more.
      order: A permutation of its dimensions.
      levels: 1 or 2, at most the rank.

    >>> encode(np.array([[0, 7, 0], [0, 0, 0]]), (0, 1)).dimensions[1]
    (array([0, 1, 1]), array([1]))
    """
    if sorted(order) != list(range(array.ndim)):
        raise ValueError(
            f"`order` must be a permutation of the {array.ndim} dimensions. "
            f"Received: order={tuple(order)}"
        )
    if levels not in (1, 2) or levels > array.ndim:
        raise ValueError(
            f"`levels` must be 1 or 2 and at most the rank {array.ndim}. "
            f"Received: levels={levels}"
        )
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
      ValueError: If segments, indices and values do not fit each other.

    >>> decode(encode(np.array([[0, 7, 0], [0, 0, 0]]), (1, 0), levels=2))
    array([[0, 7, 0],
           [0, 0, 0]])
    """
    walked_shape = [encoding.shape[dimension] for dimension in encoding.order]
    flat = np.zeros(1, np.int64)  # where each entry of the level so far lies
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
    """Returns the encoding of fewest bytes over all orders and both level counts.

    Only the last one or two dimensions of an order matter, so those are tried.
    """
    stored = array != 0
    count = max(1, int(stored.sum()))
    choices: list[tuple[int, int, tuple[int, ...]]] = []
    for last in range(array.ndim):
        order = _ending(array.ndim, (last,))
        rows = array.size // max(1, array.shape[last])
        size = _width(array.shape[last] - 1) * count + _width(count) * (rows + 1)
        choices.append((size, 1, order))
    for last_two in itertools.permutations(range(array.ndim), 2):
        order = _ending(array.ndim, last_two)
        # A row is what is left when the last dimension is looked along.
        rows = int(stored.any(axis=last_two[1]).sum()) or 1
        first, second = (array.shape[dimension] for dimension in last_two)
        outer = array.size // max(1, first * second)
        size = (
            _width(rows) * (outer + 1)
            + _width(first - 1) * rows
            + _width(count) * (rows + 1)
            + _width(second - 1) * count
        )
        choices.append((size, 2, order))
    _, levels, order = min(choices)
    return encode(array, order, levels)


def _ending(rank: int, last: tuple[int, ...]) -> tuple[int, ...]:
    return (*(d for d in range(rank) if d not in last), *last)


def _width(top: int) -> int:
    return 1 if top <= 255 else 2 if top <= 65_535 else 4


def entropy_bits(count: int, size: int) -> float:
    """Returns the least bits that say which `count` of `size` places hold a value.

    This is `size` times the binary entropy of the density, what an ideal code of
    independent places would need.

    >>> round(entropy_bits(50, 1000) / 50, 3)
    5.728
    """
    if count in (0, size):
        return 0.0
    p = count / size
    return -size * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
