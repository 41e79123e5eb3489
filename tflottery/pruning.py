"""Pruning: from scores to smaller masks, keeping an exact number of weights."""

import fnmatch
import math
import warnings
from collections.abc import Iterable, Mapping

import numpy as np

from tflottery import masks as masks_lib
from tflottery.criteria import Scores
from tflottery.masks import Masks

SCOPES = ("global", "layer", "erk")


def matches(path: str, pattern: str) -> bool:
    """Returns whether a shell-style pattern names the weight or a layer above it.

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
    """Raises ValueError where a pattern of the argument `name` matches no path."""
    paths = list(paths)
    for pattern in patterns:
        if not any(matches(path, pattern) for path in paths):
            raise ValueError(
                f"`{name}` has the pattern {pattern!r}, which matches no prunable "
                f"weight. The prunable weights are: {', '.join(paths)}."
            )


def prune(
    scores: Scores,
    masks: Masks,
    fraction: float,
    *,
    scope: str = "global",
    layer_fractions: Mapping[str, float] | None = None,
    target_density: float = 0.0,
) -> dict[str, np.ndarray]:
    """Returns masks that keep `1 - fraction` of the weights that are left.

    The weights with the lowest scores go. The number kept is exact: the count left
    times `1 - fraction`, rounded half up, of all weights together (`"global"`), of
    each layer (`"layer"`), or of all together but divided among the layers by the
    Erdős-Rényi-kernel rule (`"erk"`; Evci et al. 2020, section 3). Equal scores are
    kept in the order of the paths in `masks`, then of the flat index. No layer is
    emptied: its best weight stays, and a warning names it.

    Args:
        scores: an array per path of `masks`, of its shape; higher is kept.
        masks: the masks to shrink; what they prune stays pruned.
        fraction: the share of the weights left to prune, in (0, 1).
        scope: `"global"`, `"layer"` or `"erk"`.
        layer_fractions: fractions of its own, in (0, 1), for the layers that a
            pattern matches; these are pruned layer by layer. The first match counts.
        target_density: where the fractions would leave a smaller share of the
            weights than this, in [0, 1), all are lessened in proportion so that
            exactly this share is left.

    Returns:
        Boolean arrays by path, nested in `masks`.

    Raises:
        ValueError: for a fraction or scope out of range, scores that do not fit the
            masks, or a NaN score, which names the layer.

    >>> prune({"w": np.array([3.0, 1.0, 2.0])}, {"w": np.ones(3, bool)}, 1 / 3)
    {'w': array([ True, False,  True])}
    """
    check_fraction("fraction", fraction)
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {SCOPES}. Received: scope={scope!r}")
    layer_fractions = layer_fractions or {}
    check_patterns("layer_fractions", layer_fractions, masks)
    for pattern, value in layer_fractions.items():
        check_fraction(f"layer_fractions[{pattern!r}]", value)
    _check_scores(scores, masks)

    alone = {path: _fraction_of(path, layer_fractions) for path in masks}
    together = [path for path in masks if alone[path] is None]
    groups = [([path], f) for path, f in alone.items() if f is not None]
    if scope == "layer":
        groups += [([path], fraction) for path in together]
    elif together:
        groups += [(together, fraction)]

    left = {path: int(np.count_nonzero(mask)) for path, mask in masks.items()}
    keeps = _counts(
        [sum(left[path] for path in paths) for paths, _ in groups],
        [f for _, f in groups],
        at_least=_round(target_density * masks_lib.size(masks)),
    )
    kept: dict[str, np.ndarray] = {}
    for (paths, _), keep in zip(groups, keeps, strict=True):
        group = {path: masks[path] for path in paths}
        if scope == "erk" and paths == together:
            budgets = _erk_counts(group, left, keep)
            for path, budget in budgets.items():
                kept |= _keep_best(scores, {path: masks[path]}, budget)
        else:
            kept |= _keep_best(scores, group, keep)
    return {path: kept[path] for path in masks}


def plan(
    masks: Masks,
    fraction: float,
    *,
    layer_fractions: Mapping[str, float] | None = None,
    target_density: float,
    rounds: int | None = None,
) -> list[float]:
    """Returns the densities of the rounds to come, round 0 first.

    >>> masks = {"w": np.ones(100, bool)}
    >>> [round(d, 2) for d in plan(masks, 0.5, target_density=0.2)]
    [1.0, 0.5, 0.25, 0.2]
    """
    layer_fractions = layer_fractions or {}
    left = {path: float(mask.size) for path, mask in masks.items()}
    rates = {
        path: next(
            (f for p, f in layer_fractions.items() if matches(path, p)), fraction
        )
        for path in masks
    }
    total = sum(left.values())
    densities = [1.0]
    while (rounds is None or len(densities) <= rounds) and (
        densities[-1] > target_density * (1 + 1e-9)
    ):
        left = {path: n * (1 - rates[path]) for path, n in left.items()}
        densities.append(max(sum(left.values()) / total, target_density))
    return densities


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError unless the argument `name` lies strictly between 0 and 1."""
    if not (isinstance(value, (int, float, np.number)) and 0 < value < 1):
        raise ValueError(
            f"`{name}` must be in (0, 1), both ends excluded: the share of the "
            f"remaining weights to prune. Received: {name}={value!r}"
        )


def _fraction_of(path: str, layer_fractions: Mapping[str, float]) -> float | None:
    return next((f for p, f in layer_fractions.items() if matches(path, p)), None)


def _check_scores(scores: Scores, masks: Masks) -> None:
    masks_lib.check_fit(masks, scores)
    for path in masks:
        # The sum of a layer is NaN (or inf - inf) if one score is; most layers pass
        # this without an array of booleans being made.
        if not np.isfinite(np.sum(scores[path], dtype=np.float64)) and np.any(
            np.isnan(scores[path])
        ):
            raise ValueError(
                f"The scores of {path!r} hold NaN: training diverged. Lower the "
                "learning rate, or start from a later `rewind_step`."
            )


def _round(x: float) -> int:
    return math.floor(x + 0.5)


def _counts(left: list[int], fractions: list[float], at_least: int) -> list[int]:
    """Returns the numbers to keep of groups that have `left` weights each.

    Group i keeps `left[i] * (1 - fractions[i]) ** t`, with t = 1, or with the t in
    [0, 1] that keeps `at_least` weights in all.
    """

    def keep(t: float) -> list[int]:
        return [_round(n * (1 - f) ** t) for n, f in zip(left, fractions, strict=True)]

    if sum(keep(1.0)) >= at_least:
        return keep(1.0)
    if sum(left) <= at_least:
        return list(left)
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(keep(middle)) >= at_least else (low, middle)
    counts = keep(low)
    # Several groups can step at the same t: the largest gives up what is over.
    counts[int(np.argmax(counts))] -= sum(counts) - at_least
    return counts


def _erk_counts(masks: Masks, left: Mapping[str, int], keep: int) -> dict[str, int]:
    """Divides `keep` among layers in proportion to their Erdős-Rényi-kernel density.

    A layer of shape (k, k, in, out) gets a density in proportion to
    (k + k + in + out) / (k * k * in * out), but never more weights than it has left,
    nor fewer than one; what one layer cannot take, the others share.
    """
    counts: dict[str, int] = {}
    shares = {p: float(max(sum(m.shape), 1)) for p, m in masks.items() if left[p]}
    counts |= {p: 0 for p in masks if not left[p]}
    while shares:
        rest = keep - sum(counts.values())
        scale = rest / sum(shares.values())
        full = [p for p, share in shares.items() if share * scale >= left[p]]
        if not full:
            exact = {p: share * scale for p, share in shares.items()}
            floors = {p: math.floor(x) for p, x in exact.items()}
            missing = rest - sum(floors.values())
            # The largest remainders round up: a sum that is exact, ties by order.
            for p in sorted(exact, key=lambda p: floors[p] - exact[p])[:missing]:
                floors[p] += 1
            counts |= floors
            break
        for path in full:
            counts[path] = left[path]
            del shares[path]
    return {path: counts[path] for path in masks}


def _keep_best(scores: Scores, masks: Masks, keep: int) -> dict[str, np.ndarray]:
    """Returns masks of the `keep` best-scored weights of all `masks` together."""
    left = {path: int(np.count_nonzero(mask)) for path, mask in masks.items()}
    total = sum(left.values())
    if keep >= total:
        return {path: mask.copy() for path, mask in masks.items()}
    floor = sum(1 for n in left.values() if n)
    if keep < floor:
        keep = floor
    threshold = _kth_largest(scores, masks, keep) if keep else np.inf
    kept = {path: masks[path] & (scores[path] > threshold) for path in masks}
    ties = keep - masks_lib.kept(kept)
    for path in masks:
        if ties <= 0:
            break
        equal = np.flatnonzero(masks[path] & (scores[path] == threshold))[:ties]
        kept[path].reshape(-1)[equal] = True
        ties -= len(equal)
    return _guard(scores, masks, kept)


def _kth_largest(scores: Scores, masks: Masks, k: int) -> float:
    dtype = np.result_type(*[scores[path].dtype for path in masks])
    pool = np.empty(masks_lib.kept(masks), dtype)
    start = 0
    for path, mask in masks.items():
        values = scores[path][mask]
        pool[start : start + values.size] = values
        start += values.size
    index = pool.size - k
    pool.partition(index)
    return pool[index]


def _guard(scores: Scores, masks: Masks, kept: dict) -> dict[str, np.ndarray]:
    """Gives each emptied layer its best weight back, in exchange for the worst kept."""
    for path in masks:
        if not masks[path].any() or kept[path].any():
            continue
        best = np.where(masks[path], scores[path], -np.inf)
        kept[path].reshape(-1)[int(np.argmax(best))] = True
        warnings.warn(
            f"Pruning would have emptied the layer {path!r}; its best weight was "
            'kept. Use scope="layer" or "erk", a smaller `prune_fraction`, or `skip` '
            "it.",
            stacklevel=4,
        )
        donors = [p for p in kept if p != path and np.count_nonzero(kept[p]) > 1]
        worst = [np.where(kept[p], scores[p], np.inf).reshape(-1) for p in donors]
        if donors:
            minima = [w.min() for w in worst]
            # Last in order among equals, as ties are kept first-come.
            chosen = len(donors) - 1 - int(np.argmin(minima[::-1]))
            flat = worst[chosen]
            index = flat.size - 1 - int(np.argmin(flat[::-1]))
            kept[donors[chosen]].reshape(-1)[index] = False
    return kept
