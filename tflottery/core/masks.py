"""Masks: one boolean array per prunable weight; True keeps, False prunes."""

import math
from collections.abc import Container, Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]
"""Arrays by path, such as `{"dense/kernel": array}`."""

Masks = Mapping[str, np.ndarray]
"""Boolean arrays by path, each with the shape of its weight."""


def ones(weights: Weights) -> dict[str, np.ndarray]:
    """Returns the masks of a dense network, which keep every weight."""
    return {path: np.ones(w.shape, bool) for path, w in weights.items()}


def apply(masks: Masks, weights: Weights) -> dict[str, np.ndarray]:
    """Returns `weights` with every pruned value set to exactly zero.

    Weights without a mask are passed through without a copy.

    >>> apply({"a": np.array([True, False])}, {"a": np.array([3.0, np.inf])})
    {'a': array([3., 0.])}
    """
    check_fit(masks, weights)
    return {
        path: np.where(masks[path], w, np.zeros((), w.dtype)) if path in masks else w
        for path, w in weights.items()
    }


def kept(masks: Masks) -> int:
    """Returns the number of weights that the masks keep."""
    return sum(int(np.count_nonzero(m)) for m in masks.values())


def size(masks: Masks) -> int:
    """Returns the number of weights that the masks cover, kept or not."""
    return sum(m.size for m in masks.values())


def coverage(prunable: Container[str], sizes: Mapping[str, int]) -> tuple[float, str]:
    """Returns the share of the weights that can be pruned, in [0, 1].

    The text with it says so, and names the largest of the others.

    >>> coverage({"a"}, {"a": 3, "b": 1})[1]
    '75.0 % of the 4 weights can be pruned. The largest others: b (1).'
    """
    total = sum(sizes.values())
    rest = {path: size for path, size in sizes.items() if path not in prunable}
    share = 1 - sum(rest.values()) / total
    told = f"{100 * share:.1f} % of the {total:,} weights can be pruned."
    largest = sorted(rest, key=lambda path: -rest[path])[:3]
    if largest:
        named = ", ".join(f"{path} ({rest[path]:,})" for path in largest)
        told += f" The largest others: {named}."
    return share, told


def density(masks: Masks) -> float:
    """Returns the share of masked weights that are kept, in [0, 1].

    If the masks cover no weights, the density is 1.
    """
    return kept(masks) / size(masks) if size(masks) else 1.0


def sparsity(masks: Masks) -> float:
    """Returns the share of masked weights that are zero, in [0, 1].

    >>> sparsity({"dense/kernel": np.array([[True, False], [False, False]])})
    0.75
    """
    return 1.0 - density(masks)


def density_per_layer(masks: Masks) -> dict[str, float]:
    """Returns the density of each mask by its path."""
    return {path: density({path: mask}) for path, mask in masks.items()}


def is_nested(inner: Masks, outer: Masks) -> bool:
    """Returns whether `inner` keeps nothing that `outer` pruned.

    >>> is_nested({"a": np.array([True, False])}, {"a": np.array([True, True])})
    True
    """
    return inner.keys() == outer.keys() and all(
        inner[path].shape == outer[path].shape
        and not np.any(inner[path] & ~outer[path])
        for path in inner
    )


def overlap(a: Masks, b: Masks) -> float:
    """Returns the Jaccard index of the kept weights, in [0, 1]; 1 is identical.

    >>> overlap({"w": np.array([True, True])}, {"w": np.array([True, False])})
    0.5
    """
    check_fit(a, b)
    check_fit(b, a)
    both = sum(int(np.count_nonzero(a[path] & b[path])) for path in a)
    either = sum(int(np.count_nonzero(a[path] | b[path])) for path in a)
    return both / either if either else 1.0


def pack(mask: np.ndarray) -> np.ndarray:
    """Returns the mask as bits, uint8 of shape `(ceil(mask.size / 8),)`.

    >>> pack(np.array([[True, False], [True, True]]))
    array([176], dtype=uint8)
    """
    return np.packbits(mask, axis=None)


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the mask of `shape` that `pack` turned into `bits`.

    Raises:
        ValueError: If `bits` does not have exactly the bytes that `shape` needs.

    >>> unpack(np.array([176], np.uint8), (2, 2)).tolist()
    [[True, False], [True, True]]
    """
    count = math.prod(map(int, shape))
    fits = bits.dtype == np.uint8 and bits.shape == ((count + 7) // 8,)
    if min(shape, default=0) < 0 or not fits:
        raise ValueError(
            f"A mask of shape {shape} needs {(count + 7) // 8} bytes of bits. "
            f"Received: {bits.dtype} array of shape {bits.shape}."
        )
    return np.unpackbits(bits, count=count).astype(bool).reshape(shape)


def check_fit(masks: Masks, weights: Weights) -> None:
    """Raises ValueError if a mask has no weight, or one of another shape."""
    for path, mask in masks.items():
        if path not in weights:
            raise ValueError(
                f"There is a mask for {path!r}, but no such weight. The weights are: "
                f"{', '.join(weights)}."
            )
        if mask.shape != weights[path].shape:
            raise ValueError(
                f"Mask {path!r} has shape {mask.shape}, but the weight has shape "
                f"{weights[path].shape}. Was the ticket found on another backbone?"
            )
