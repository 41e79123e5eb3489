"""Budgets: how many weights each layer or group of layers keeps, to the weight."""

import math
from collections.abc import Mapping

from tflottery.core.masks import Masks


def rounded(x: float) -> int:
    """Returns the nearest whole number, halves upward.

    >>> rounded(15 * (1 - 0.9)), rounded(2.4)
    (2, 2)
    """
    # A hair up first: 15 * (1 - 0.9) should be 1.5, but is 1.4999999999999996.
    return math.floor(x * (1 + 1e-14) + 0.5)


def of_groups(
    left: list[list[int]], fractions: list[float], at_least: int
) -> list[int]:
    """Returns how many weights to keep of groups whose layers have `left` weights.

    Group i keeps `sum(left[i]) * (1 - fractions[i]) ** t`, with t = 1, or with the t
    in [0, 1] that keeps `at_least` weights in all. A layer's last weight, which is
    kept whatever its group's number, counts among them.

    >>> of_groups([[10, 10], [4]], [0.5, 0.25], at_least=0)
    [10, 3]
    >>> of_groups([[1], [1], [1]], [0.9, 0.9, 0.9], at_least=2)
    [0, 0, 0]
    """
    totals = [sum(layers) for layers in left]
    floors = [sum(1 for n in layers if n) for layers in left]

    def keep(t: float) -> list[int]:
        return [
            rounded(n * (1 - f) ** t) for n, f in zip(totals, fractions, strict=True)
        ]

    def floored(t: float) -> list[int]:
        return [max(n, floor) for n, floor in zip(keep(t), floors, strict=True)]

    if sum(floored(1.0)) >= at_least:
        return keep(1.0)
    if sum(totals) <= at_least:
        return totals
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        enough = sum(floored(middle)) >= at_least
        low, high = (middle, high) if enough else (low, middle)
    # Several groups can step down between `low` and `high`: the last in order do.
    counts, fewer = floored(low), floored(high)
    over = sum(counts) - at_least
    for i in reversed(range(len(counts))):
        step = min(over, counts[i] - fewer[i])
        counts[i] -= step
        over -= step
    return counts


def of_layers(masks: Masks, left: Mapping[str, int], keep: int) -> dict[str, int]:
    """Divides `keep` among layers in proportion to their Erdős-Rényi-kernel density.

    A layer of shape (k, k, in, out) gets a density in proportion to
    (k + k + in + out) / (k * k * in * out), but never more weights than it has left,
    nor fewer than one; what one layer cannot take, the others share (Evci et al.
    2020, "Rigging the Lottery", section 3).

    >>> import numpy as np
    >>> masks = {"a": np.ones((2, 2), bool), "b": np.ones((6, 6), bool)}
    >>> of_layers(masks, {"a": 4, "b": 36}, 8)
    {'a': 2, 'b': 6}
    """
    shares = {p: float(max(sum(m.shape), 1)) for p, m in masks.items() if left[p]}

    def exact(scale: float) -> dict[str, float]:
        return {p: min(max(s * scale, 1.0), left[p]) for p, s in shares.items()}

    low, high = 0.0, max((left[p] / s for p, s in shares.items()), default=0.0)
    for _ in range(100):
        middle = (low + high) / 2
        enough = sum(exact(middle).values()) >= keep
        low, high = (low, middle) if enough else (middle, high)
    wanted = exact(high)
    # A hair up: a share of 2 may come to 1.9999999999999996.
    counts = {p: math.floor(x * (1 + 1e-14)) for p, x in wanted.items()}
    missing = keep - sum(counts.values())
    # The largest remainders round up: a sum that is exact, ties by order.
    for p in sorted(counts, key=lambda p: counts[p] - wanted[p]):
        if missing > 0 and counts[p] < left[p]:
            counts[p] += 1
            missing -= 1
    return {path: counts.get(path, 0) for path in masks}
