"""Tables: an experiment's numbers by arm, by density and by cell."""

import math
from collections.abc import Mapping, Sequence

from tflottery.lab.report import figures
from tflottery.lab.report.intervals import (
    Interval,
    compare,
    interval,
    paired,
    points,
    share,
    verdict,
)
from tflottery.lab.report.page import Table
from tflottery.lab.report.results import SETTING, Cell, Curve, Point, Setting

# How far, as a share, a point's density may be from the one asked for.
_SAME_DENSITY = 0.02


def nearest(curve: Curve, density: float) -> Point:
    """Returns the point of a curve whose density is nearest to `density`."""
    return min(curve.points, key=lambda p: abs(math.log(p.density / density)))


def arms(setting: Setting, at: float | None, tolerance: float) -> Table | None:
    """Returns all arms at the density that the ticket is judged at."""
    dense = setting.dense
    if at is None or dense is None:
        return None
    ticket = nearest(setting.tickets[0], at)
    name = figures.label(setting.tickets[0])
    rows = [["dense", *_means(dense), None, None, _minus(ticket, dense)]]
    for curve in setting.curves:
        point = nearest(curve, at)
        if abs(point.density / at - 1) <= _SAME_DENSITY:
            found = compare(point, dense)
            rows.append(
                [
                    figures.label(curve, setting),
                    *_means(point),
                    _signed(found.test),
                    verdict(found, tolerance),
                    None if point is ticket else _minus(ticket, point),
                ]
            )
    head = ["arm", "test accuracy (%)", "steps to best", "to dense (points)", "verdict"]
    return Table(
        head=[*head, f"{name} minus arm (points)"],
        rows=rows,
        caption=f"The arms at {share(at)} of the weights, with 95 % intervals",
        text=("arm", "verdict"),
        chosen=[i for i, row in enumerate(rows) if row[0] == name],
    )


def densities(
    setting: Setting, tolerance: float, chosen: Mapping[str | None, float]
) -> Table:
    """Returns every arm at every density.

    Args:
        setting: The arms.
        tolerance: Allowed difference to dense, in [0, 1].
        chosen: For the weights that a ticket starts from, the density to highlight.
    """
    rows, marked = [], []
    for curve in setting.curves:
        for point in curve.points:
            found = compare(point, setting.dense) if setting.dense else None
            if curve.arm == "ticket" and chosen.get(curve.weights) == point.density:
                marked.append(len(rows))
            to_dense = [None, None, None]
            if found is not None:
                judged = point is not setting.dense
                to_dense = [_signed(found.test), _signed(found.validation)]
                to_dense.append(verdict(found, tolerance) if judged else None)
            rows.append(
                [
                    figures.label(curve, setting),
                    share(point.density),
                    len({cell.seed for cell in point.cells}),
                    *_means(point),
                    *to_dense,
                ]
            )
    return Table(
        head=[
            *("arm", "left", "seeds", "test accuracy (%)", "steps to best"),
            *("to dense (points)", "to dense, validation", "verdict"),
        ],
        rows=rows,
        caption="Means over the seeds with 95 % intervals. The highlighted rows were "
        "chosen on validation. With this many verdicts, some are wrong by chance.",
        text=("arm", "verdict"),
        chosen=marked,
    )


def layers(densities: Sequence[Mapping[str, float]], title: str) -> Table | None:
    """Returns the density of every layer, averaged over the tickets."""
    if not densities or not densities[0]:
        return None
    means = figures.means_by_layer(densities)
    return Table(
        head=["weight", "left (%)"],
        rows=[[path, f"{mean:.2f}"] for path, (mean, _) in means.items()],
        caption=f"Weights left per layer, {title}",
        text=("weight",),
    )


def cells(found: Sequence[Cell]) -> Table:
    """Returns all cells, with the settings in which they differ."""
    varying = [n for n in SETTING if len({getattr(c, n) for c in found}) > 1]
    failures = ["failure"] if any(cell.failed for cell in found) else []
    numbers = {"metric": 4, "val_metric": 4, "steps": 0, "steps_to_best": 0}
    numbers["seconds"] = 1
    rows = [
        [
            *(getattr(cell, name) for name in varying),
            *(cell.arm, cell.weights, share(cell.density), cell.seed),
            cell.source_round,
            *(_number(getattr(cell, name), digits) for name, digits in numbers.items()),
            *(cell.failure or cell.failed * "failed" for _ in failures),
        ]
        for cell in found
    ]
    head = [*varying, "arm", "weights", "left", "seed", "round of the search"]
    head += ["test accuracy", "validation accuracy", "steps", "steps to best"]
    return Table(
        head=[*head, "seconds", *failures],
        rows=rows,
        caption=f"{len(found)} cells, one trained network each",
        text=(*varying, "arm", "weights", "failure"),
    )


def _means(point: Point) -> list[str | None]:
    """Returns the test accuracy and the steps to best, as text."""
    accuracy, steps = point.by_seed("metric"), point.by_seed("steps_to_best")
    return [
        points(interval(accuracy.values()), digits=2) if accuracy else "failed",
        _whole(interval(steps.values())) if steps else None,
    ]


def _minus(ticket: Point, other: Point) -> str | None:
    pairs = paired(ticket.by_seed("metric"), other.by_seed("metric"))
    return _signed(interval(pairs.values()) if pairs else None)


def _whole(found: Interval) -> str:
    end = "" if found.half is None else f" ± {found.half:,.0f}"
    return f"{found.mean:,.0f}{end}"


def _signed(found: Interval | None) -> str | None:
    return None if found is None else points(found, signed=True, digits=2)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"
