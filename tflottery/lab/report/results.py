"""Results: the cells of an experiment, checked and grouped for comparison."""

import dataclasses
import math
import operator
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tflottery.core import checks
from tflottery.core.checks import NUMBER, TEXT, WHOLE, list_of, or_none

SETTING = ("experiment", "dataset", "images_per_class", "regime", "head")
"""The attributes of a cell that name its setting."""

# If a setting has several dense networks, the first of these is compared with.
_STARTS = {"trained": 0, "rewind": 1, "initial": 2}
# Densities of one point differ at most by this share, as layers round their counts.
_SAME_DENSITY = 0.01
# How far, as a share, the densities of two arms at one density may be apart.
_ALIKE = 0.02

_KINDS = {
    **dict.fromkeys((*SETTING, "weights", "failure"), or_none(TEXT)),
    "arm": TEXT,
    "density": checks.Kind(
        lambda v: checks.is_number(v) and 0 < v <= 1, "a number in (0, 1]"
    ),
    "seed": WHOLE,
    "images_per_class": or_none(WHOLE),
    "val_metrics": or_none(list_of(NUMBER)),
    **dict.fromkeys(("metric", "val_metric", "steps", "cost"), or_none(NUMBER)),
    **dict.fromkeys(("steps_to_best", "seconds"), or_none(NUMBER)),
    "source_round": or_none(WHOLE),
    "density_per_layer": or_none(checks.dict_of(NUMBER)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One trained network of an experiment."""

    arm: str  # "ticket", "dense" or the name of a control.
    density: float  # Share of prunable weights that are kept, in (0, 1].
    seed: int  # Arms are paired by it.
    experiment: str | None = None
    dataset: str | None = None
    images_per_class: int | None = None  # Training images; `None` is all.
    regime: str | None = None
    head: str | None = None
    weights: str | None = (
        None  # Where training started: "initial", "rewind", "trained".
    )
    metric: float | None = None  # Test accuracy, in [0, 1].
    val_metric: float | None = None  # Validation accuracy, in [0, 1].
    val_metrics: Sequence[float] | None = None  # After each epoch.
    steps: float | None = None
    cost: float | None = None  # All steps spent, in trainings of the dense network.
    steps_to_best: float | None = None  # To the best validation accuracy.
    seconds: float | None = None
    source_round: int | None = None  # Round of the search that the masks come from.
    density_per_layer: Mapping[str, float] | None = None  # By path, in [0, 1].
    failure: str | None = None  # Why the cell does not count.

    @property
    def failed(self) -> bool:
        """Whether the cell has no usable result."""
        return self.failure is not None or self.metric is None


def read(rows: Any) -> list[Cell]:
    """Returns the cells in the rows of `results.json`.

    NaN and infinity become `None`; unknown keys are ignored.

    Raises:
        ValueError: If a value has the wrong type; the message names the row.

    >>> read([{"arm": "dense", "density": 1.0, "seed": 0, "metric": 0.9}])[0].metric
    0.9
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("rows must be a list of objects, one per cell.")
    cells = []
    for index, row in enumerate(rows):
        values = {name: row.get(name) for name in _KINDS}
        for name, value in values.items():
            try:
                checks.check(name, value, _KINDS[name])
            except ValueError as error:
                raise ValueError(
                    f"rows[{index}] is not the result of a cell: {error}"
                ) from error
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        cells.append(Cell(**values))
    return cells


@dataclasses.dataclass(frozen=True)
class Point:
    """The cells of one arm at one density, at least one per seed."""

    density: float  # Share kept, in (0, 1]; the mean if seeds differ by rounding.
    cells: tuple[Cell, ...]  # Those with a result.
    failed: tuple[int, ...] = ()  # Seeds of those without one, in order.

    def by_seed(self, name: str) -> dict[int, float]:
        """Returns one attribute of the cells by seed; cells without it are left out.

        Several cells of one seed, as of a control drawn more than once, count as
        their mean, because only seeds are independent of each other.

        >>> cells = [Cell(arm="dense", density=1, seed=3, metric=m) for m in (0.5, 1)]
        >>> Point(1.0, tuple(cells)).by_seed("metric")
        {3: 0.75}
        """
        values: dict[int, list[float]] = {}
        for cell in self.cells:
            value = getattr(cell, name)
            if value is not None:
                values.setdefault(cell.seed, []).append(value)
        return {seed: statistics.fmean(values[seed]) for seed in sorted(values)}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One arm from one start over densities, the densest point first."""

    arm: str
    weights: str | None
    points: tuple[Point, ...]

    def nearest(self, density: float) -> Point:
        """Returns the point whose density is nearest to `density`."""
        return min(self.points, key=lambda p: abs(math.log(p.density / density)))

    def alike(self, density: float) -> Point | None:
        """Returns the point that was pruned like one of this density, if there is one.

        Arms differ slightly, as each layer keeps a whole number of weights.
        """
        point = self.nearest(density)
        return point if abs(point.density / density - 1) <= _ALIKE else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Cells that are compared with each other: the arms, and dense if it is there."""

    experiment: str | None
    dataset: str | None
    images_per_class: int | None
    regime: str | None
    head: str | None
    dense: Point | None
    curves: tuple[Curve, ...]

    def curve(self, arm: str, weights: str) -> Curve | None:
        """Returns the curve of an arm from its start, if the setting has it."""
        found = (c for c in self.curves if (c.arm, c.weights) == (arm, weights))
        return next(found, None)

    @property
    def tickets(self) -> list[Curve]:
        """The curves of tickets: trained weights first, initial last."""
        return sorted((c for c in self.curves if c.arm == "ticket"), key=_order)


def settings(cells: Iterable[Cell]) -> list[Setting]:
    """Returns the settings of an experiment in order of appearance.

    The dense network of a setting is its arm `"dense"`, or else its ticket at density
    1. If there are several, the arms are compared with the one from the trained
    weights, else rewind, else initial; the others are curves of one point.
    """
    found = []
    for key, group in _grouped(cells, *SETTING).items():
        curves = [
            Curve(arm, weights, _points(members))
            for (arm, weights), members in _grouped(group, "arm", "weights").items()
        ]
        dense = min((c for c in curves if c.arm == "dense"), key=_order, default=None)
        if dense is not None:
            curves.remove(dense)
        else:
            whole = (
                c for c in curves if c.arm == "ticket" and c.points[0].density == 1
            )
            dense = min(whole, key=_order, default=None)
        found.append(
            Setting(
                **dict(zip(SETTING, key, strict=True)),
                dense=dense.points[0] if dense else None,
                curves=tuple(curves),
            )
        )
    return found


def _grouped(cells: Iterable[Cell], *names: str) -> dict[tuple, list[Cell]]:
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(operator.attrgetter(*names)(cell), []).append(cell)
    return groups


def _points(cells: Iterable[Cell]) -> tuple[Point, ...]:
    groups: list[list[Cell]] = []
    for cell in sorted(cells, key=lambda cell: -cell.density):
        if groups and cell.density >= groups[-1][0].density * (1 - _SAME_DENSITY):
            groups[-1].append(cell)
        else:
            groups.append([cell])
    return tuple(
        Point(
            statistics.fmean(cell.density for cell in group),
            tuple(cell for cell in group if not cell.failed),
            tuple(sorted({cell.seed for cell in group if cell.failed})),
        )
        for group in groups
    )


def _order(curve: Curve) -> int:
    return _STARTS.get(curve.weights or "", len(_STARTS))
