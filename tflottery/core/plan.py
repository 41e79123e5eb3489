"""Plan: which weights are pruned, and how many each round and each layer keeps."""

import fnmatch
import math
from collections.abc import Iterable, Mapping

import numpy as np

from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig
from tflottery.core.masks import Masks

_MOST_ROUNDS = 10_000


def plan(masks: Masks, config: LotteryConfig) -> list[float]:
    """Returns the density of each round of a search, from the `masks` of round 0 on.

    Raises:
        ValueError: If the target prunes no weight, leaves none in some layer, or cannot
            be reached with this configuration.
    """
    size, target = masks_lib.size(masks), 1 - config.target_sparsity
    kept = masks_lib.kept(masks)
    if kept < size and math.floor(target * size + 0.5) >= kept:
        raise ValueError(
            f"`target_sparsity` must be above the {1 - kept / size:.4g} that `model` "
            f"starts from. Received: target_sparsity={config.target_sparsity}"
        )
    if math.floor(target * size + 0.5) >= size:
        raise ValueError(
            f"`target_sparsity` prunes none of the {size} weights. Received: "
            f"target_sparsity={config.target_sparsity}"
        )
    if target * size + 0.5 < len(masks):
        raise ValueError(
            "`target_sparsity` must leave at least one weight per layer: of "
            f"{size} prunable weights in {len(masks)} layers at most "
            f"{math.floor(1e6 * (1 - len(masks) / size)) / 1e6} can be pruned. "
            f"Received: target_sparsity={config.target_sparsity}"
        )
    return densities(
        masks,
        fraction(masks, config, done=0),
        layer_fractions=config.layer_fractions,
        target_density=target,
        rounds=config.rounds,
    )


def fraction(masks: Masks, config: LotteryConfig, *, done: int) -> float:
    """Returns the fraction to prune next, after `done` prunings."""
    if config.rounds is None:
        return config.prune_fraction
    return fraction_for(
        masks,
        config.rounds - done,
        layer_fractions=config.layer_fractions,
        target_density=1 - config.target_sparsity,
    )


def densities(
    masks: Masks,
    fraction: float,
    *,
    layer_fractions: Mapping[str, float] | None = None,
    target_density: float,
    rounds: int | None = None,
) -> list[float]:
    """Returns the density of each round, starting with round 0.

    Each prunes `fraction` of the remaining weights, or the fraction of the first
    pattern that matches their layer, until `target_density` is reached.

    Raises:
        ValueError: If it takes more than 10,000 rounds, or if `rounds` is larger than
            the number of weights to prune.

    >>> masks = {"w": np.ones(100, bool)}
    >>> [round(d, 2) for d in densities(masks, 0.5, target_density=0.2)]
    [1.0, 0.5, 0.25, 0.2]
    """
    layer_fractions = layer_fractions or {}
    left = {path: float(np.count_nonzero(mask)) for path, mask in masks.items()}
    rates = {
        path: fraction if (f := fraction_of(path, layer_fractions)) is None else f
        for path in masks
    }
    total = sum(mask.size for mask in masks.values())
    if not total:
        return [1.0]
    found = [sum(left.values()) / total]
    to_prune = round(total * (found[0] - target_density))
    if rounds is not None and rounds > max(to_prune, 1):
        raise ValueError(
            f"`rounds` must be at most {to_prune}, the number of weights to prune, as "
            f"each round prunes at least one. Received: rounds={rounds}"
        )
    while (rounds is None or len(found) <= rounds) and (
        found[-1] > target_density * (1 + 1e-9)
    ):
        if len(found) > _MOST_ROUNDS:
            raise ValueError(
                "`prune_fraction` is so small that the search would take more than "
                f"{_MOST_ROUNDS:,} rounds. Raise it, or set `rounds`. "
                f"Received: prune_fraction={fraction}"
            )
        left = {path: n * (1 - rates[path]) for path, n in left.items()}
        # Each round prunes at least one weight.
        density = min(sum(left.values()) / total, found[-1] - 1 / total)
        found.append(max(density, target_density))
    return found


def fraction_for(
    masks: Masks,
    rounds: int,
    *,
    layer_fractions: Mapping[str, float] | None = None,
    target_density: float,
) -> float:
    """Returns the prune fraction that reaches `target_density` in `rounds` prunings.

    Raises:
        ValueError: If the layers in `layer_fractions` alone keep more than that.

    >>> masks = {"w": np.ones(100, bool)}
    >>> round(fraction_for(masks, 2, target_density=0.25), 6)
    0.5
    """
    left = {path: int(np.count_nonzero(mask)) for path, mask in masks.items()}
    own = {path: fraction_of(path, layer_fractions or {}) for path in masks}
    target = target_density * sum(mask.size for mask in masks.values())
    fixed = sum(
        left[path] * (1 - f) ** rounds for path, f in own.items() if f is not None
    )
    if fixed > target + 0.5:
        raise ValueError(
            f"`layer_fractions` prunes its layers so little that {rounds} rounds "
            f"cannot reach a sparsity of {1 - target_density:g}. Raise its fractions, "
            "raise `rounds`, or lower `target_sparsity`. "
            f"Received: layer_fractions={dict(layer_fractions or {})!r}"
        )
    free = sum(n for path, n in left.items() if own[path] is None)
    share = max(target - fixed, 0.0) / max(free, 1)
    return float(np.clip(1 - share ** (1 / rounds), 2.0**-64, 1 - 1e-9))


def matches(path: str, pattern: str) -> bool:
    """Returns whether a shell-style pattern matches a weight or a layer it is in.

    >>> matches("block/conv1/kernel", "block"), matches("conv1/kernel", "conv*")
    (True, True)
    >>> matches("conv12/kernel", "conv1")
    False
    """
    parts = path.split("/")
    return any(
        fnmatch.fnmatchcase("/".join(parts[:end]), pattern)
        for end in range(1, len(parts) + 1)
    )


def check_patterns(name: str, patterns: Iterable[str], paths: Iterable[str]) -> None:
    """Raises ValueError if a pattern of the argument `name` matches no path."""
    paths = list(paths)
    for pattern in patterns:
        if not any(matches(path, pattern) for path in paths):
            raise ValueError(
                f"`{name}` has the pattern {pattern!r}, which matches no prunable "
                f"weight. The prunable weights are: {', '.join(paths)}."
            )


def choose(
    prunable: Iterable[str], skip: Iterable[str], layer_fractions: Mapping[str, float]
) -> list[str]:
    """Returns the paths of the weights to prune: those that no pattern skips.

    Raises:
        ValueError: If a pattern matches nothing, or nothing is left to prune.
    """
    prunable = list(prunable)
    check_patterns("skip", skip, prunable)
    paths = [p for p in prunable if not any(matches(p, pattern) for pattern in skip)]
    if not paths:
        raise ValueError(f"`skip` leaves nothing to prune. Received: skip={skip!r}")
    check_patterns("layer_fractions", layer_fractions, paths)
    return paths


def fraction_of(path: str, layer_fractions: Mapping[str, float]) -> float | None:
    """Returns the fraction of the first pattern that matches `path`, or `None`."""
    found = (float(f) for p, f in layer_fractions.items() if matches(path, p))
    return next(found, None)


def of_groups(
    left: list[list[int]], fractions: list[float], at_least: int
) -> list[int]:
    """Returns how many weights each group of layers keeps.

    Group i keeps `sum(left[i]) * (1 - fractions[i]) ** t`, where t is 1, or the value
    in [0, 1] that keeps `at_least` weights in total. That total includes the last
    weight of each layer, which is kept regardless of its group's number. `left` holds
    the remaining weights of each layer of each group.

    >>> of_groups([[10, 10], [4]], [0.5, 0.25], at_least=0)
    [10, 3]
    >>> of_groups([[1], [1], [1]], [0.9, 0.9, 0.9], at_least=2)
    [0, 0, 0]
    """
    totals = [sum(layers) for layers in left]
    floors = [sum(1 for n in layers if n) for layers in left]

    def keep(t: float) -> list[int]:
        exact = np.multiply(totals, np.subtract(1, fractions) ** t)
        # Halves round up. Nudged up first: 15 * (1 - 0.9) is 1.4999999999999996.
        return [math.floor(n * (1 + 1e-14) + 0.5) for n in exact]

    counts = keep(1.0)
    if sum(np.maximum(counts, floors)) >= at_least:
        return counts
    if sum(totals) <= at_least:
        return totals
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        enough = sum(np.maximum(keep(middle), floors)) >= at_least
        low, high = (middle, high) if enough else (low, middle)
    # If several groups lose a weight between `low` and `high`, the last ones do.
    counts, fewer = (np.maximum(keep(t), floors).tolist() for t in (low, high))
    over = sum(counts) - at_least
    for i in reversed(range(len(counts))):
        step = min(over, counts[i] - fewer[i])
        counts[i] -= step
        over -= step
    return counts


def of_layers(masks: Masks, left: Mapping[str, int], keep: int) -> dict[str, int]:
    """Divides `keep` among layers in proportion to their Erdős-Rényi-kernel density.

    A layer of shape (k, k, in, out) gets a density proportional to
    (k + k + in + out) / (k * k * in * out), but at least one weight and at most those
    it has left. The other layers share the rest (Evci et al. 2020, "Rigging the
    Lottery", section 3).

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
    # Nudged up: a share of 2 may be computed as 1.9999999999999996.
    counts = {p: math.floor(x * (1 + 1e-14)) for p, x in wanted.items()}
    missing = keep - sum(counts.values())
    # The largest remainders round up, ties in order, so that the sum is exact.
    for p in sorted(counts, key=lambda p: counts[p] - wanted[p]):
        if missing > 0 and counts[p] < left[p]:
            counts[p] += 1
            missing -= 1
    return {path: counts.get(path, 0) for path in masks}
