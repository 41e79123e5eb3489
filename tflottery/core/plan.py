"""Plans: the densities that rounds of pruning come to, and the fraction for them."""

import math
from collections.abc import Mapping

import numpy as np

from tflottery.core import masks as masks_lib
from tflottery.core import pruning
from tflottery.core.config import LotteryConfig
from tflottery.core.masks import Masks

_MOST_ROUNDS = 10_000


def densities(
    masks: Masks,
    fraction: float,
    *,
    layer_fractions: Mapping[str, float] | None = None,
    target_density: float,
    rounds: int | None = None,
) -> list[float]:
    """Returns the densities of the rounds to come, round 0 first.

    Raises:
        ValueError: where it takes more than 10,000 rounds, or `rounds` are more than
            there are weights to prune.

    >>> masks = {"w": np.ones(100, bool)}
    >>> [round(d, 2) for d in densities(masks, 0.5, target_density=0.2)]
    [1.0, 0.5, 0.25, 0.2]
    """
    layer_fractions = layer_fractions or {}
    left = {path: float(mask.size) for path, mask in masks.items()}
    rates = {
        path: fraction
        if (f := pruning.fraction_of(path, layer_fractions)) is None
        else f
        for path in masks
    }
    total = sum(left.values())
    found = [1.0]
    if not total:
        return found
    to_prune = round(total * (1 - target_density))
    if rounds is not None and rounds > max(to_prune, 1):
        raise ValueError(
            f"`rounds` must be at most the {to_prune} weights that there are to prune, "
            f"one each round. Received: rounds={rounds}"
        )
    while (rounds is None or len(found) <= rounds) and (
        found[-1] > target_density * (1 + 1e-9)
    ):
        if len(found) > _MOST_ROUNDS:
            raise ValueError(
                f"`prune_fraction` prunes so little that the search takes more than "
                f"{_MOST_ROUNDS:,} rounds. Received: prune_fraction={fraction}. Raise "
                "it, or give `rounds`."
            )
        left = {path: n * (1 - rates[path]) for path, n in left.items()}
        # A round prunes one weight at least.
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
        ValueError: where the layers of `layer_fractions` alone keep more than that.

    >>> masks = {"w": np.ones(100, bool)}
    >>> round(fraction_for(masks, 2, target_density=0.25), 6)
    0.5
    """
    layer_fractions = layer_fractions or {}
    left = {path: int(np.count_nonzero(mask)) for path, mask in masks.items()}
    alone = {path: pruning.fraction_of(path, layer_fractions) for path in masks}
    target = target_density * masks_lib.size(masks)

    def kept(fraction: float) -> float:
        rates = {p: fraction if f is None else f for p, f in alone.items()}
        return sum(n * (1 - rates[path]) ** rounds for path, n in left.items())

    low, high = 0.0, 1.0 - 1e-9
    if kept(high) > target + 0.5:
        raise ValueError(
            f"`layer_fractions` prunes its layers so little that {rounds} rounds do "
            f"not reach a sparsity of {1 - target_density:g}. Received: "
            f"layer_fractions={dict(layer_fractions)!r}. Raise its fractions or "
            "`rounds`, or lower `target_sparsity`."
        )
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) > target else (low, middle)
    return high


def plan(masks: Masks, config: LotteryConfig) -> list[float]:
    """Returns the densities of a search's rounds, from the dense network's masks.

    Raises:
        ValueError: where the target cannot be reached as it was asked for.
    """
    check_reachable(masks, config)
    return densities(
        masks,
        fraction(masks, config, done=0),
        layer_fractions=config.layer_fractions,
        target_density=1 - config.target_sparsity,
        rounds=config.rounds,
    )


def fraction(masks: Masks, config: LotteryConfig, *, done: int) -> float:
    """Returns the share to prune next, where `done` prunings lie behind."""
    if config.rounds is None:
        return config.prune_fraction
    return fraction_for(
        masks,
        config.rounds - done,
        layer_fractions=config.layer_fractions,
        target_density=1 - config.target_sparsity,
    )


def check_reachable(masks: Masks, config: LotteryConfig) -> None:
    """Checks that the target prunes a weight, and leaves one of each layer.

    Raises:
        ValueError: naming the largest `target_sparsity` that does.
    """
    size, target = masks_lib.size(masks), 1 - config.target_sparsity
    if math.floor(target * size + 0.5) >= size:
        raise ValueError(
            f"`target_sparsity` prunes not one of the {size} weights. Received: "
            f"target_sparsity={config.target_sparsity}"
        )
    if target * size + 0.5 < len(masks):
        raise ValueError(
            f"`target_sparsity` must leave at least one weight of each layer: of "
            f"{size} prunable weights in {len(masks)} layers at most "
            f"{math.floor(1e6 * (1 - len(masks) / size)) / 1e6} can be pruned. "
            f"Received: target_sparsity={config.target_sparsity}"
        )
