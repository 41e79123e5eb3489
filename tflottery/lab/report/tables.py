"""Tables: an experiment's numbers by arm, by density and by cell."""

import statistics
from collections.abc import Mapping, Sequence

from tflottery.lab.report import figures, intervals
from tflottery.lab.report.intervals import Interval, compare, verdict
from tflottery.lab.report.page import Table
from tflottery.lab.report.results import SETTING, Cell, Point, Setting
from tflottery.showing import ticket_figures
from tflottery.showing.drawing import share


def arms(setting: Setting, at: float | None, tolerance: float) -> Table | None:
    """Returns all arms at the density that the ticket is judged at."""
    dense = setting.dense
    if at is None or dense is None:
        return None
    ticket, name = setting.tickets[0].nearest(at), figures.label(setting.tickets[0])
    near = [(figures.label(c, setting), c.alike(at)) for c in setting.curves]
    rows = []
    for arm, point in [("dense", dense), *near]:
        if point is None:
            continue
        found = None if point is dense else compare(point, dense)
        difference = intervals.paired(ticket.by_seed("metric"), point.by_seed("metric"))
        rows.append(
            {
                "arm": arm,
                **_means(point),
                "to dense (points)": found and _signed(found.test),
                "verdict": found and verdict(found, tolerance),
                f"{name} minus arm (points)": None
                if point is ticket
                else _signed(difference),
            }
        )
    return Table(
        f"The arms at {share(at)} of the weights, with 95 % intervals",
        rows,
        text=("arm", "verdict"),
        chosen=[i for i, row in enumerate(rows) if row["arm"] == name],
    )


def densities(
    setting: Setting, tolerance: float, chosen: Mapping[str | None, float]
) -> Table:
    """Returns every arm at every density.

    By the weights that a ticket starts from, `chosen` are the densities to highlight.
    """
    rows, marked = [], []
    for curve in setting.curves:
        for point in curve.points:
            if curve.arm == "ticket" and chosen.get(curve.weights) == point.density:
                marked.append(len(rows))
            found = compare(point, setting.dense) if setting.dense else None
            rows.append(
                {
                    "arm": figures.label(curve, setting),
                    "left": share(point.density),
                    "seeds": len({cell.seed for cell in point.cells}),
                    **_means(point),
                    "to dense (points)": found and _signed(found.test),
                    "to dense, validation": found and _signed(found.validation),
                    "verdict": verdict(found, tolerance)
                    if found and point is not setting.dense
                    else None,
                }
            )
    return Table(
        "Means over the seeds with 95 % intervals. The highlighted rows were chosen on "
        "validation. With this many verdicts, some are wrong by chance.",
        rows,
        text=("arm", "verdict"),
        chosen=marked,
    )


def layers(densities: Sequence[Mapping[str, float]], title: str) -> Table | None:
    """Returns the density of every layer, averaged over the tickets."""
    rows = [
        {"weight": path, "left (%)": f"{mean:.2f}"}
        for path, (mean, *_) in ticket_figures.means_by_layer(densities).items()
    ]
    return (
        Table(f"Weights left per layer, {title}", rows, ("weight",)) if rows else None
    )


def cells(found: Sequence[Cell]) -> Table:
    """Returns all cells, with the settings in which they differ."""
    varying = [n for n in SETTING if len({getattr(c, n) for c in found}) > 1]
    fails = any(cell.failed for cell in found)
    rows = [
        {
            **{name: getattr(cell, name) for name in varying},
            "arm": cell.arm,
            "weights": cell.weights,
            "left": share(cell.density),
            "seed": cell.seed,
            "round of the search": cell.source_round,
            "test accuracy": _number(cell.metric, 4),
            "validation accuracy": _number(cell.val_metric, 4),
            "steps": _number(cell.steps, 0),
            "steps to best": _number(cell.steps_to_best, 0),
            "seconds": _number(cell.seconds, 1),
            **({"failure": cell.failure or cell.failed * "failed"} if fails else {}),
        }
        for cell in found
    ]
    return Table(
        f"{len(found)} cells, one trained network each",
        rows,
        text=(*varying, "arm", "weights", "failure"),
    )


def _means(point: Point) -> dict[str, str | None]:
    accuracy, steps = point.by_seed("metric"), point.by_seed("steps_to_best")
    cost = [*point.by_seed("cost").values()]
    mean = intervals.interval(steps.values()) if steps else None
    half = "" if mean is None or mean.half is None else f" ± {mean.half:,.0f}"
    return {
        "test accuracy (%)": intervals.points(
            intervals.interval(accuracy.values()), digits=2
        )
        if accuracy
        else "failed",
        "steps to best": mean and f"{mean.mean:,.0f}{half}",
        "cost (trainings)": f"{statistics.fmean(cost):.1f}" if cost else None,
    }


def _signed(found: Interval | None) -> str | None:
    return None if found is None else intervals.points(found, signed=True, digits=2)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"
