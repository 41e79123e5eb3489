"""Pruning: from scores to smaller masks that keep an exact number of weights."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflottery.core import checks, plan
from tflottery.core import masks as masks_lib
from tflottery.core.config import SCOPES
from tflottery.core.criteria import Scores
from tflottery.core.masks import Masks

_SCOPE = checks.one_of(SCOPES)


def prune(
    scores: Scores,
    masks: Masks,
    fraction: float,
    *,
    scope: str = "global",
    layer_fractions: Mapping[str, float] | None = None,
    target_density: float = 0.0,
) -> dict[str, np.ndarray]:
    """Returns masks that keep `1 - fraction` of the remaining weights.

    The weights with the lowest scores are pruned. The number kept is exact: the number
    remaining times `1 - fraction`, with halves rounded up. It is counted over all
    weights (`"global"`), in each layer (`"layer"`), or over all weights and then
    divided among the layers by the Erdős-Rényi-kernel rule (`"erk"`; Evci et al. 2020,
    section 3). Among equal scores, those that come first by the order of `masks` and
    then by flat index are kept. No layer is emptied: its best weight is kept in
    exchange for the worst one of its group, if one can be spared, and a warning names
    the layer.

    Args:
        scores: An array for each path in `masks`, of the same shape.
        masks: The masks to shrink. What they prune stays pruned.
        fraction: Share of the remaining weights to prune, in (0, 1).
        scope: `"global"`, `"layer"` or `"erk"`.
        layer_fractions: Separate fractions, in (0, 1), for the layers that match a
            pattern. These are pruned layer by layer. The first match counts.
        target_density: Least share of all weights to keep, in [0, 1). If the fractions
            would keep less, they are all reduced to keep exactly this share.

    Raises:
        ValueError: If a fraction or `scope` is out of range, the scores do not fit the
            masks, or a score is NaN.

    >>> prune({"w": np.array([3.0, 1.0, 2.0])}, {"w": np.ones(3, bool)}, 1 / 3)
    {'w': array([ True, False,  True])}
    """
    checks.check("fraction", fraction, checks.TO_PRUNE)
    checks.check("scope", scope, _SCOPE)
    layer_fractions = layer_fractions or {}
    plan.check_patterns("layer_fractions", layer_fractions, masks)
    for pattern, value in layer_fractions.items():
        checks.check(f"layer_fractions[{pattern!r}]", value, checks.TO_PRUNE)
    scores = _checked(scores, masks)

    alone = {path: plan.fraction_of(path, layer_fractions) for path in masks}
    together = [path for path in masks if alone[path] is None]
    groups = [([path], f) for path, f in alone.items() if f is not None]
    if scope == "layer":
        groups += [([path], float(fraction)) for path in together]
    elif together:
        groups += [(together, float(fraction))]

    left = {path: int(np.count_nonzero(mask)) for path, mask in masks.items()}
    keeps = plan.of_groups(
        [[left[path] for path in paths] for paths, _ in groups],
        [f for _, f in groups],
        at_least=math.floor(target_density * masks_lib.size(masks) + 0.5),
    )
    kept: dict[str, np.ndarray] = {}
    for (paths, _), keep in zip(groups, keeps, strict=True):
        group = {path: masks[path] for path in paths}
        if scope == "erk" and paths == together:
            for path, count in plan.of_layers(group, left, keep).items():
                kept |= _keep_best(scores, {path: masks[path]}, count)
        else:
            kept |= _keep_best(scores, group, keep)
    return {path: kept[path] for path in masks}


def _checked(scores: Any, masks: Masks) -> dict[str, np.ndarray]:
    """Returns the scores for `masks` as arrays that can be compared with each other."""
    if not isinstance(scores, Mapping):
        raise ValueError(
            "A criterion must return a dict from paths to arrays of scores. "
            f"Received: {type(scores).__name__}"
        )
    checked = {}
    for path, mask in masks.items():
        if path not in scores:
            raise ValueError(
                f"The scores lack {path!r}. A criterion must score every weight that "
                f"it is given. It scored: {', '.join(scores)}."
            )
        score = np.asarray(scores[path])
        if score.shape != mask.shape:
            raise ValueError(
                f"The scores of {path!r} have shape {score.shape}, but the weight has "
                f"shape {mask.shape}. A criterion must return one score per weight."
            )
        if score.dtype.kind == "V":  # NumPy cannot sort bfloat16 among other types.
            score = score.astype(np.float32)
        # The sum is NaN if a score is NaN (or for inf - inf). This spares most layers
        # an array of booleans. The scores of pruned weights do not matter.
        with np.errstate(invalid="ignore"):
            suspect = np.isnan(np.sum(score, dtype=np.float64))
        if suspect and np.isnan(score[mask]).any():
            raise ValueError(
                f"The scores of {path!r} contain NaN: training diverged. Lower the "
                "learning rate or use a later `rewind_step`. If the scores come from "
                "your own criterion, look for 0 / 0 in it."
            )
        checked[path] = score
    if len({score.dtype for score in checked.values()}) > 1:
        common = np.result_type(*checked.values())
        return {path: s.astype(common, copy=False) for path, s in checked.items()}
    return checked


def _keep_best(scores: Scores, masks: Masks, keep: int) -> dict[str, np.ndarray]:
    """Returns masks of the `keep` best-scored weights of all `masks` together."""
    left = masks_lib.kept(masks)
    if keep >= left:
        return {path: mask.copy() for path, mask in masks.items()}
    kept = {path: np.zeros(mask.shape, bool) for path, mask in masks.items()}
    if keep:
        pool = np.empty(left, np.result_type(*[scores[path].dtype for path in masks]))
        start = 0
        for path, mask in masks.items():
            values = scores[path][mask]
            pool[start : start + values.size] = values
            start += values.size
        pool.partition(left - keep)
        threshold, ties = pool[left - keep], keep
        del pool
        for path in masks:
            # NumPy turns arrays without dimensions into scalars.
            kept[path] = np.asarray(masks[path] & (scores[path] > threshold))
            ties -= int(np.count_nonzero(kept[path]))
        for path in masks:
            if ties <= 0:
                break
            equal = np.flatnonzero(masks[path] & (scores[path] == threshold))[:ties]
            kept[path].reshape(-1)[equal] = True
            ties -= len(equal)
    _guard(scores, masks, kept)
    return kept


def _guard(scores: Scores, masks: Masks, kept: dict[str, np.ndarray]) -> None:
    """Restores the best weight of each emptied layer, in exchange for the worst."""
    for path in masks:
        if kept[path].any() or not masks[path].any():
            continue
        left = np.flatnonzero(masks[path])
        best = left[np.argmax(scores[path].reshape(-1)[left])]
        worst = _worst(scores, kept)
        kept[path].reshape(-1)[best] = True
        if worst is not None:
            donor, index = worst
            kept[donor].reshape(-1)[index] = False
        warnings.warn(
            f"Pruning would have emptied the layer {path!r}, so its best weight was "
            'kept. Use scope="layer" or "erk", use a smaller `prune_fraction`, or add '
            "the layer to `skip`.",
            stacklevel=4,
        )


def _worst(scores: Scores, kept: Masks) -> tuple[str, int] | None:
    """Returns the path and flat index of the worst weight that a layer can spare.

    Among equal scores it is the last one in order, since the first are kept.
    """
    found, lowest = None, None
    for path in kept:
        indices = np.flatnonzero(kept[path])
        if indices.size < 2:
            continue
        values = scores[path].reshape(-1)[indices]
        last = values.size - 1 - int(np.argmin(values[::-1]))
        if lowest is None or values[last] <= lowest:
            found, lowest = (path, int(indices[last])), values[last]
    return found
