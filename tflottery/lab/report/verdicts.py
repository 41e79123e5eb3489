"""Verdicts: what a transfer experiment shows, one sentence for each claim."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

from tflottery.lab.report.intervals import (
    Interval,
    compare,
    is_winning,
    paired,
    points,
)
from tflottery.lab.report.results import Cell, Curve, Point, Setting
from tflottery.showing.drawing import share

# The densities at which arms are compared, or else the smallest one.
_SPARSE = 0.1


def verdicts(
    settings: Sequence[Setting],
    tolerance: float,
    name: Callable[[Sequence[Setting], Setting], str],
) -> list[tuple[str, str]]:
    """Returns each claim on transfer with a sentence on it.

    There are none without dense networks that were trained from scratch on the target.
    A sentence says it for every setting, with the `name` that tells it from the others
    in the sentence. Differences are in points of test accuracy, paired by seed, with
    95 % intervals; one seed has none.
    """
    if not any(s.curve("dense", "fresh") for s in settings):
        return []
    tuned = [s for s in settings if s.regime != "frozen"]
    frozen = [s for s in settings if s.regime == "frozen"]
    equal = functools.partial(_equal, tolerance=tolerance)
    longer = functools.partial(_equal_to_longer, tolerance=tolerance)
    steps = functools.partial(_steps, tolerance=tolerance)
    claims = (
        ("θT equals pretrained dense", tuned, equal),
        ("θT equals dense trained as long as the last θT", tuned, longer),
        ("θT less dense from scratch", tuned, _scratch),
        ("θT less its layer-shuffled twin", tuned, _places),
        ("θ0 less re-initialized", tuned, _values),
        ("Steps until as good as dense on validation", tuned, steps),
        ("Frozen, θT equals dense", frozen, equal),
        ("Frozen, θT equals dense trained as long as the last θT", frozen, longer),
    )
    found = []
    for claim, members, judge in claims:
        parts = [(name(members, s), judge(s)) for s in members]
        text = "; ".join(": ".join(filter(None, part)) for part in parts if part[1])
        if text:
            found.append((claim, f"{text}."))
    return found


def _equal(setting: Setting, tolerance: float) -> str:
    """Says down to which density θT is not worse than dense by the tolerance."""
    ticket, dense = setting.curve("ticket", "trained"), setting.dense
    if ticket is None or dense is None:
        return ""
    found = [c for p in ticket.points if (c := compare(p, dense)).test]
    equal = []
    for comparison in found:
        if comparison.failed or not is_winning(comparison.test, tolerance):
            break
        equal.append(comparison)
    if not found:
        return ""
    texts = [_at(c.test, c.density) for c in found]
    if found[-1].test and found[-1].test.half is None:
        return f"1 seed, no interval ({texts[-1]})"
    if not equal:
        ends = ", ".join(dict.fromkeys(texts[:1] + texts[-1:]))
        return f"not shown at any density ({ends})"
    text = f"down to {share(equal[-1].density)} left ({texts[len(equal) - 1]}"
    return f"{text})" if equal == found else f"{text}, {texts[len(equal)]})"


def _scratch(setting: Setting) -> str:
    scratch = setting.curve("dense", "fresh")
    if scratch is None:
        return ""
    ticket = setting.curve("ticket", "trained")
    return _differences(ticket, lambda point: scratch.points[0])


def _equal_to_longer(setting: Setting, tolerance: float) -> str:
    longer = setting.curve("dense", "longer")
    dense = longer.points[0] if longer else None
    return _equal(dataclasses.replace(setting, dense=dense), tolerance)


def _places(setting: Setting) -> str:
    other = setting.curve("layer_shuffled", "trained")
    ticket = setting.curve("ticket", "trained")
    return _differences(ticket, lambda point: other and other.alike(point.density))


def _values(setting: Setting) -> str:
    other = setting.curve("reinitialized", "fresh")
    ticket = setting.curve("ticket", "initial")
    return _differences(ticket, lambda point: other and other.alike(point.density))


def _differences(one: Curve | None, other: Callable[[Point], Point | None]) -> str:
    texts = []
    for point in _sparse(one):
        against = other(point)
        if against is not None:
            found = paired(point.by_seed("metric"), against.by_seed("metric"))
            if found is not None:
                texts.append(f"{_at(found, point.density)}{_word(found)}")
    return ", ".join(texts)


def _word(found: Interval) -> str:
    if found.half is None or found.is_flat:
        return ""
    if found.lower > 0:
        return ", ahead"
    return ", behind" if found.upper < 0 else ", not settled"


def _at(found: Interval | None, density: float) -> str:
    text = points(found, signed=True) if found else "nothing"
    return f"{text} points at {share(density)}"


def _sparse(one: Curve | None) -> Iterable[Point]:
    found = one.points if one else ()
    return [p for p in found if p.density <= _SPARSE] or found[-1:]


def _steps(setting: Setting, tolerance: float) -> str:
    """Says after how many steps θT and dense are as good as dense at its end."""
    ticket, dense = setting.curve("ticket", "trained"), setting.dense
    if dense is None:
        return ""
    whole = {cell.seed: cell for cell in dense.cells if cell.val_metrics}
    texts = []
    for point in _sparse(ticket):
        pairs = [(c, whole[c.seed]) for c in point.cells if c.seed in whole]
        took = [
            (_reached(c, d, tolerance), _reached(d, d, tolerance)) for c, d in pairs
        ]
        both = [(a, b) for a, b in took if a is not None and b is not None]
        if not took:
            continue
        text = ["never"] if not both else []
        if both:
            a, b = (sum(values) / len(both) for values in zip(*both, strict=True))
            text.append(f"{a:,.0f}, dense {b:,.0f}")
        if both and len(both) < len(took):
            text.append(f"(never with {len(took) - len(both)} of {len(took)} seeds)")
        texts.append(" ".join([*text, f"at {share(point.density)}"]))
    return ", ".join(texts)


def _reached(cell: Cell, dense: Cell, tolerance: float) -> float | None:
    """Returns the steps after which a cell first was as good as dense at its end."""
    values = cell.val_metrics or ()
    if dense.val_metric is None or cell.steps is None:
        return None
    goal = dense.val_metric - tolerance - 1e-9
    first = next((i for i, value in enumerate(values, 1) if value >= goal), None)
    return first and first * cell.steps / len(values)
