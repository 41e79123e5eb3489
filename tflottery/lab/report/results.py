"""Cells: the results of an experiment, checked, and grouped into what is compared."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tflottery.core.checks import is_dict, is_number, is_whole

# Of several dense networks in one setting, the one that others are compared with.
_STARTS = ("trained", "rewind", "initial")
# Densities of one point differ at most by this share, as layers round their counts.
_SAME_DENSITY = 0.01

Kinds = dict[str, tuple[Callable[[Any], bool], str]]


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_KINDS: Kinds = {
    "arm": (_is_text, "text"),
    "density": (lambda v: is_number(v) and 0 < v <= 1, "a number in (0, 1]"),
    "seed": (is_whole, "a whole number of at least 0"),
    **{
        name: (_optional(_is_text), "text or null")
        for name in ("experiment", "weights", "regime", "head", "dataset", "failure")
    },
    **{
        name: (_optional(is_number), "a number or null")
        for name in ("metric", "val_metric", "steps", "steps_to_best", "seconds")
    },
    "source_round": (_optional(is_whole), "a whole number or null"),
    "density_per_layer": (
        _optional(lambda v: is_dict(v, is_number)),
        "an object of numbers or null",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One trained network of an experiment.

    Attributes:
        arm: `"ticket"`, `"dense"`, or the control that it is.
        density: the share of prunable weights that are kept, in (0, 1].
        seed: what pairs it with the other arms.
        experiment, dataset, regime, head: the setting; `None` where it has none.
        weights: `"initial"`, `"rewind"` or `"trained"`, what training started from.
        metric: the test accuracy, in [0, 1]; `None` where the cell failed.
        val_metric: the validation accuracy, in [0, 1].
        steps, steps_to_best: steps trained, and to the best validation accuracy.
        seconds: time taken.
        source_round: the round of the search that the masks are of.
        density_per_layer: the share kept by path, each in [0, 1].
        failure: why the cell does not count, or `None`.
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
        """Whether there is no result, or one that is no number."""
        return self.failure is not None or self.metric is None


def read(rows: Any, where: Any = "rows") -> list[Cell]:
    """Returns the cells that the rows of `results.json` describe.

    A value that is NaN or infinite becomes `None`; keys that no cell has are left out.

    Args:
        rows: a list of dicts.
        where: what to call them in an error.

    Raises:
        ValueError: naming the first row and value that is not of its kind.

    >>> read([{"arm": "dense", "density": 1.0, "seed": 0, "metric": 0.9}])[0].metric
    0.9
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{where} must be a list of objects, one per cell.")
    return [_read_row(row, f"{where}[{index}]") for index, row in enumerate(rows)]


def _read_row(row: dict[str, Any], where: str) -> Cell:
    values = {}
    for name, (fits, kind) in _KINDS.items():
        value = row.get(name)
        if not fits(value):
            raise ValueError(
                f"{where} is not the result of a cell: `{name}` must be {kind}. "
                f"Received: {name}={value!r}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        values[name] = value
    return Cell(**values)


@dataclasses.dataclass(frozen=True)
class Point:
    """The cells of one arm at one density, one per seed or more.

    Attributes:
        density: the share kept, in (0, 1]; the mean where seeds differ by rounding.
        cells: those with a result.
        failed: the seeds of those without one, in order.
    """

    density: float
    cells: tuple[Cell, ...]
    failed: tuple[int, ...] = ()

    def by_seed(self, name: str) -> dict[int, float]:
        """Returns a value of the cells by seed; cells without it are left out.

        Several cells of one seed, as of a control drawn more than once, count as
        their mean: only seeds are independent of each other.

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
    """What is equal in all cells that are compared with each other.

    Attributes:
        experiment, dataset, regime, head: as in `Cell`.
        dense: the network that the arms are compared with, or `None`.
        curves: the arms.
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
        return tuple(sorted(found, key=lambda curve: _order(curve.weights)))


def settings(cells: Iterable[Cell]) -> list[Setting]:
    """Returns the settings of an experiment in order of appearance.

    The dense network of a setting is its arm `"dense"`, and where it has none, the
    ticket at density 1. Of several dense networks, that from the trained weights is
    compared with, then rewind, then initial; the others are curves of one point.
    """
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        key = (cell.experiment, cell.dataset, cell.regime, cell.head)
        groups.setdefault(key, []).append(cell)
    return [_setting(key, group) for key, group in groups.items()]


def _setting(key: tuple, cells: list[Cell]) -> Setting:
    names = ("experiment", "dataset", "regime", "head")
    by_arm: dict[tuple[str, str | None], list[Cell]] = {}
    for cell in cells:
        by_arm.setdefault((cell.arm, cell.weights), []).append(cell)
    curves = [
        Curve(arm, weights, _points(group)) for (arm, weights), group in by_arm.items()
    ]
    dense = sorted(
        (curve for curve in curves if curve.arm == "dense"),
        key=lambda curve: _order(curve.weights),
    )
    if dense:
        curves.remove(dense[0])
    else:
        dense = sorted(
            (c for c in curves if c.arm == "ticket" and c.points[0].density == 1),
            key=lambda curve: _order(curve.weights),
        )
    return Setting(
        **dict(zip(names, key, strict=True)),
        dense=dense[0].points[0] if dense else None,
        dense_weights=dense[0].weights if dense else None,
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


def _order(weights: str | None) -> int:
    return _STARTS.index(weights) if weights in _STARTS else len(_STARTS)
