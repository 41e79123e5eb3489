"""Results: the cells of an experiment, checked and grouped for comparison."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from tflottery.core.checks import (
    NUMBER,
    TEXT,
    WHOLE,
    Kind,
    check,
    dict_of,
    is_number,
    or_none,
)

SETTING = ("experiment", "dataset", "regime", "head")
"""The attributes of a cell that name its setting."""

# If a setting has several dense networks, the first of these is compared with.
_STARTS = ("trained", "rewind", "initial")
# Densities of one point differ at most by this share, as layers round their counts.
_SAME_DENSITY = 0.01


_DENSITY = Kind(lambda v: is_number(v) and 0 < v <= 1, "a number in (0, 1]")
_KINDS = {
    "arm": TEXT,
    "density": _DENSITY,
    "seed": WHOLE,
    **dict.fromkeys((*SETTING, "weights", "failure"), or_none(TEXT)),
    **dict.fromkeys(("metric", "val_metric", "steps"), or_none(NUMBER)),
    **dict.fromkeys(("steps_to_best", "seconds"), or_none(NUMBER)),
    "source_round": or_none(WHOLE),
    "density_per_layer": or_none(dict_of(NUMBER)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One trained network of an experiment.

    Attributes:
        arm: `"ticket"`, `"dense"` or the name of a control.
        density: Share of prunable weights that are kept, in (0, 1].
        seed: Random seed; arms are paired by it.
        experiment, dataset, regime, head: The setting; `None` if there is none.
        weights: `"initial"`, `"rewind"` or `"trained"`, where training started.
        metric: Test accuracy, in [0, 1]; `None` if the cell failed.
        val_metric: Validation accuracy, in [0, 1].
        steps, steps_to_best: Steps trained, and to the best validation accuracy.
        seconds: Duration.
        source_round: Round of the search that the masks come from.
        density_per_layer: Share kept by path, each in [0, 1].
        failure: Why the cell does not count, or `None`.
    """

    arm: str
    density: float
    seed: int
    experiment: str | None = None
    dataset: str | None = None
    regime: str | None = None
    head: str | None = None
    weights: str | None = None
    metric: float | None = None
    val_metric: float | None = None
    steps: float | None = None
    steps_to_best: float | None = None
    seconds: float | None = None
    source_round: int | None = None
    density_per_layer: Mapping[str, float] | None = None
    failure: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the cell has no usable result."""
        return self.failure is not None or self.metric is None


def read(rows: Any) -> list[Cell]:
    """Returns the cells in the rows of `results.json`.

    NaN and infinity become `None`; unknown keys are ignored.

    Args:
        rows: A list of dicts.

    Raises:
        ValueError: If a value has the wrong type; the message names the row.

    >>> read([{"arm": "dense", "density": 1.0, "seed": 0, "metric": 0.9}])[0].metric
    0.9
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("rows must be a list of objects, one per cell.")
    return [_read_row(row, f"rows[{index}]") for index, row in enumerate(rows)]


def _read_row(row: dict[str, Any], where: str) -> Cell:
    values = {}
    for name, kind in _KINDS.items():
        value = row.get(name)
        try:
            check(name, value, kind)
        except ValueError as error:
            raise ValueError(f"{where} is not the result of a cell: {error}") from error
        not_finite = isinstance(value, float) and not math.isfinite(value)
        values[name] = None if not_finite else value
    return Cell(**values)


@dataclasses.dataclass(frozen=True)
class Point:
    """The cells of one arm at one density, at least one per seed.

    Attributes:
        density: Share kept, in (0, 1]; the mean if seeds differ by rounding.
        cells: The cells with a result.
        failed: Seeds of the cells without one, in order.
    """

    density: float
    cells: tuple[Cell, ...]
    failed: tuple[int, ...] = ()

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Cells that are compared with each other.

    Attributes:
        experiment, dataset, regime, head: What these cells share, as in `Cell`.
        dense: The network that the arms are compared with, or `None`.
        dense_weights: Where the training of `dense` started.
        curves: The arms.
    """

    experiment: str | None
    dataset: str | None
    regime: str | None
    head: str | None
    dense: Point | None
    dense_weights: str | None
    curves: tuple[Curve, ...]

    @property
    def tickets(self) -> tuple[Curve, ...]:
        """The curves of tickets: trained weights first, initial last."""
        found = [curve for curve in self.curves if curve.arm == "ticket"]
        return tuple(sorted(found, key=_order))


def settings(cells: Iterable[Cell]) -> list[Setting]:
    """Returns the settings of an experiment in order of appearance.

    The dense network of a setting is its arm `"dense"`, or else its ticket at density
    1. If there are several, the arms are compared with the one from the trained
    weights, else rewind, else initial; the others are curves of one point.
    """
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        key = tuple(getattr(cell, name) for name in SETTING)
        groups.setdefault(key, []).append(cell)
    return [_setting(key, group) for key, group in groups.items()]


def _setting(key: tuple, cells: list[Cell]) -> Setting:
    by_arm: dict[tuple[str, str | None], list[Cell]] = {}
    for cell in cells:
        by_arm.setdefault((cell.arm, cell.weights), []).append(cell)
    curves = [
        Curve(arm, weights, _points(group)) for (arm, weights), group in by_arm.items()
    ]
    dense = min((c for c in curves if c.arm == "dense"), key=_order, default=None)
    if dense is not None:
        curves.remove(dense)
    else:
        whole = (c for c in curves if c.arm == "ticket" and c.points[0].density == 1)
        dense = min(whole, key=_order, default=None)
    return Setting(
        **dict(zip(SETTING, key, strict=True)),
        dense=dense.points[0] if dense else None,
        dense_weights=dense.weights if dense else None,
        curves=tuple(curves),
    )


def _points(cells: list[Cell]) -> tuple[Point, ...]:
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
    known = curve.weights in _STARTS
    return _STARTS.index(curve.weights) if known else len(_STARTS)
