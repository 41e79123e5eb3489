"""Intervals: what the seeds of an experiment show, and no more than that.

An arm is compared with the dense network of the same seed. The differences of n seeds
give a two-sided 95 % interval by Student's t with n - 1 degrees of freedom:

    mean ± t(0.975, n - 1) * s / sqrt(n)

An arm *wins* if the lower end of that interval is at least -tolerance: with 95 %
confidence, its mean difference to dense is not below -tolerance. One seed has no
interval. If all seeds differ by the same amount, as can happen with two seeds and a
small test set, the interval has no width. Neither supports a claim.

Densities are chosen by validation accuracy alone; claims are about the test accuracy
at the chosen density.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping

from tflottery.core import extras
from tflottery.lab.report.results import Curve, Point
from tflottery.showing.drawing import share

# Finer than any accuracy; without it, 0.895 - 0.9 would be below -0.005.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over `count` seeds with its 95 % interval, `mean` ± `half`.

    With one seed, `half` is `None` and the interval has no ends.
    """

    mean: float
    half: float | None
    count: int

    @property
    def lower(self) -> float:
        """The lower end."""
        return -math.inf if self.half is None else self.mean - self.half

    @property
    def upper(self) -> float:
        """The upper end."""
        return math.inf if self.half is None else self.mean + self.half

    @property
    def is_flat(self) -> bool:
        """Whether all values are equal, so that there is no spread to judge by."""
        return self.half is not None and self.half < _ROUNDING

    def times(self, factor: float) -> "Interval":
        """Returns the interval in another unit, such as percent."""
        half = None if self.half is None else abs(factor) * self.half
        return Interval(factor * self.mean, half, self.count)


def interval(values: Iterable[float]) -> Interval:
    """Returns the mean and its 95 % interval by Student's t, from a value per seed.

    Raises:
        ValueError: If there is no value, or one is not finite.

    >>> found = interval([0.1, 0.2, 0.3])
    >>> round(found.mean, 3), round(found.half, 3), found.count
    (0.2, 0.248, 3)
    """
    values = [float(value) for value in values]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(
            "`values` must hold at least one number, all finite. Leave out failed "
            f"cells. Received: values={values!r}"
        )
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Interval(mean, None, 1)
    if max(values) - min(values) < _ROUNDING:
        return Interval(mean, 0.0, count)  # SciPy warns about equal values.
    with extras.needed("lab", "An interval over seeds"):
        from scipy import stats
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return Interval(mean, float(high - low) / 2, count)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Interval | None:
    """Returns the interval of `a - b` over the seeds that both have, if there is one.

    >>> paired({0: 0.5, 1: 0.75, 2: 0.5}, {0: 0.25})
    Interval(mean=0.25, half=None, count=1)
    """
    seeds = a.keys() & b.keys()
    return interval(a[seed] - b[seed] for seed in sorted(seeds)) if seeds else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm at one density against the dense networks of the same seeds.

    Differences are the arm's accuracies minus dense's; `None` without a pair.
    """

    density: float  # Share of weights kept, in (0, 1].
    test: Interval | None
    validation: Interval | None
    failed: tuple[int, ...] = ()  # Seeds for which the arm, or dense, failed.
    missing: tuple[int, ...] = ()  # Seeds that only one of dense and the arm has.


def compare(point: Point, dense: Point) -> Comparison:
    """Returns how an arm at one density compares with dense, seed by seed."""
    failed = {*point.failed, *dense.failed}
    seeds = [{cell.seed for cell in p.cells} for p in (point, dense)]
    return Comparison(
        density=point.density,
        test=paired(point.by_seed("metric"), dense.by_seed("metric")),
        validation=paired(point.by_seed("val_metric"), dense.by_seed("val_metric")),
        failed=tuple(sorted(failed)),
        missing=tuple(sorted((seeds[0] ^ seeds[1]) - failed)),
    )


def is_winning(difference: Interval | None, tolerance: float = 0.0) -> bool:
    """Returns whether the mean difference to dense is not below `-tolerance`.

    True only with 95 % confidence, so never with one seed or without spread.

    >>> is_winning(Interval(0.004, 0.002, 3)), is_winning(Interval(0.004, None, 1))
    (True, False)
    """
    if difference is None or difference.is_flat:
        return False
    return difference.lower >= -tolerance - _ROUNDING


def verdict(comparison: Comparison, tolerance: float = 0.0) -> str:
    """Returns what the test accuracy of one arm at one density shows.

    Returns:
        `"beats"` if the interval is above zero; `"ties"` if the arm wins but is not
        shown to be better; `"falls short"` if the interval is below -tolerance;
        `"not settled"` if the interval contains -tolerance, or a seed of a winning arm
        failed; `"no spread: no interval"`, `"1 seed: no interval"`, or `"no pair"` if
        no seed has both.
    """
    test = comparison.test
    if test is None:
        return "no pair"
    if test.half is None:
        return "1 seed: no interval"
    if test.is_flat:
        return "no spread: no interval"
    if test.upper < -tolerance - _ROUNDING:
        return "falls short"
    if comparison.failed or not is_winning(test, tolerance):
        return "not settled"
    return "beats" if test.lower > _ROUNDING else "ties"


HOW = {
    "winning": "the smallest that wins on validation",
    "near": "the smallest within the tolerance on validation",
    "best": "the best on validation, as none wins",
    "smallest": "the smallest of all, as there is no validation accuracy to choose by",
}
"""How a density was chosen, in words."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The density that represents an arm: there against dense, and a key of `HOW`."""

    comparison: Comparison
    how: str


def choose(curve: Curve, dense: Point | None, tolerance: float = 0.0) -> Choice | None:
    """Returns the density that represents an arm, chosen without the test accuracy.

    That is the smallest density that wins by validation accuracy, else the one with
    the best mean validation accuracy. With one seed it is the smallest within the
    tolerance, else the best; without validation accuracies, the smallest of all. A
    density with a failed or missing seed is chosen only if all densities have one.
    If no seed has both the arm and dense, it is `None`.
    """
    if dense is None:
        return None
    found = [compare(p, dense) for p in curve.points if p.density < 1]
    most = max((c.test.count for c in found if c.test), default=0)
    if not most:
        return None
    found = [c for c in found if c.test and c.test.count == most]
    found = [c for c in found if not c.failed] or found
    means = {c: c.validation.mean for c in found if c.validation}
    winning = [c for c in means if is_winning(c.validation, tolerance)]
    near = [c for c in means if most == 1 and means[c] >= -tolerance - _ROUNDING]
    if means and not winning and not near:
        return Choice(max(means, key=lambda c: means[c]), "best")
    how = "winning" if winning else "near" if near else "smallest"
    return Choice(min(winning or near or found, key=lambda c: c.density), how)


def points(
    difference: Interval, *, signed: bool = False, digits: int | None = None
) -> str:
    """Returns a difference of accuracies in percentage points.

    Without `digits`, one stands after the point, or two if the interval is that narrow.

    >>> points(Interval(0.004, 0.0021, 3)), points(Interval(-0.013, None, 1))
    ('0.4 ± 0.2', '-1.3')
    >>> points(Interval(0.0004, 0.0003, 3), signed=True)
    '+0.04 ± 0.03'
    """
    mean, half = 100 * difference.mean, difference.half
    if digits is None:
        digits = 2 if half is not None and _ROUNDING <= half < 0.00095 else 1
    text = f"{mean:{'+' if signed else ''}.{digits}f}"
    return text if half is None else f"{text} ± {100 * half:.{digits}f}"


def headline(choice: Choice | None, tolerance: float = 0.0) -> str:
    """Returns the result of an experiment in one sentence."""
    if choice is None or choice.comparison.test is None:
        return "Nothing to compare yet: no seed has both a ticket and a dense network."
    found, test = choice.comparison, choice.comparison.test
    ticket = f"ticket with {share(found.density)} of the weights"
    allowed = f"tolerance {100 * tolerance:g} points"
    below = f"{points(test.times(-1))} points below"
    differs = f"differs from dense by {points(test, signed=True)} points"
    match verdict(found, tolerance):
        case "1 seed: no interval":
            return f"1 seed: no interval. The {ticket} {differs}; that is no claim."
        case "beats":
            return f"The {ticket} beats dense by {points(test)} points."
        case "ties":
            return (
                f"The {ticket} ties with dense: a difference of "
                f"{points(test, signed=True)} points ({allowed})."
            )
        case "falls short" if choice.how == "best":
            return (
                f"No ticket reaches dense: the {ticket}, the best on validation, is "
                f"{below}."
            )
        case "falls short":
            return f"The {ticket}, {HOW[choice.how]}, is {below} dense on the test set."
    failed = f", and {len(found.failed)} failed" if found.failed else ""
    failed += ", which all differ by the same" if test.is_flat else ""
    seeds = f"{test.count} seeds{failed}"
    return f"Not settled by {seeds}: the {ticket} {differs} ({allowed})."
