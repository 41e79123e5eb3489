"""Tables: the figures of an experiment in rows, by arm, by density and by cell."""

import math
from collections.abc import Mapping, Sequence

from tflottery.lab.report import figures, page
from tflottery.lab.report.intervals import (
    Interval,
    compare,
    interval,
    paired,
    points,
    share,
    verdict,
)
from tflottery.lab.report.page import Html, element
from tflottery.lab.report.results import Cell, Curve, Point, Setting


def nearest(curve: Curve, density: float) -> Point:
    """Returns the point of a curve that lies nearest to a density."""
    return min(curve.points, key=lambda p: abs(math.log(p.density / density)))


def arms(setting: Setting, at: float | None, tolerance: float) -> Html:
    """Returns all arms at the density that the ticket is judged at."""
    dense = setting.dense
    if at is None or dense is None:
        return Html()
    ticket = nearest(setting.tickets[0], at)
    rows = [["dense", *_means(dense), None, None, _of_ticket(ticket, dense)]]
    for curve in setting.curves:
        point = nearest(curve, at)
        if abs(point.density / at - 1) > 0.02:
            continue
        found = compare(point, dense)
        rows.append(
            [
                figures.label(curve, setting),
                *_means(point),
                None
                if found.test is None
                else points(found.test, signed=True, digits=2),
                verdict(found, tolerance),
                None if point is ticket else _of_ticket(ticket, point),
            ]
        )
    name = figures.label(setting.tickets[0])
    head = ["arm", "test accuracy (%)", "steps to best", "to dense (points)", "verdict"]
    return page.table(
        [*head, f"{name} minus arm (points)"],
        rows,
        caption=f"The arms at {share(at)} of the weights, with 95 % intervals",
        text=("arm", "verdict"),
        chosen=[i for i, row in enumerate(rows) if row[0] == name],
    )


def _of_ticket(ticket: Point, other: Point) -> str | None:
    pairs = paired(ticket.by_seed("metric"), other.by_seed("metric"))
    return points(interval(pairs.values()), signed=True, digits=2) if pairs else None


def densities(
    setting: Setting, tolerance: float, chosen: Mapping[str | None, float]
) -> Html:
    rows, marked = [], []
    for curve in setting.curves:
        for point in curve.points:
            found = compare(point, setting.dense) if setting.dense else None
            if curve.arm == "ticket" and chosen.get(curve.weights) == point.density:
                marked.append(len(rows))
            rows.append(
                [
                    figures.label(curve, setting),
                    share(point.density),
                    len({cell.seed for cell in point.cells}),
                    *_means(point),
                    _signed(found.test if found else None),
                    _signed(found.validation if found else None),
                    None
                    if found is None or point is setting.dense
                    else verdict(found, tolerance),
                ]
            )
    return element(
        "details",
        element("summary", "Every arm at every density"),
        page.table(
            [
                *("arm", "left", "seeds", "test accuracy (%)", "steps to best"),
                *("to dense (points)", "to dense, validation", "verdict"),
            ],
            rows,
            caption="Means over the seeds with 95 % intervals; the highlighted rows "
            "were chosen on validation. Of many verdicts some are wrong by chance.",
            text=("arm", "verdict"),
            chosen=marked,
        ),
        open="",
    )


def layers(densities: Sequence[Mapping[str, float]], title: str) -> Html:
    """Returns the density of every layer, the mean over tickets."""
    if not densities or not densities[0]:
        return Html()
    rows = []
    for path in densities[0]:
        values = [100 * found[path] for found in densities if path in found]
        rows.append([path, f"{sum(values) / len(values):.2f}"])
    return element(
        "details",
        element("summary", "Every layer"),
        page.table(
            ["weight", "left (%)"],
            rows,
            caption=f"Weights left per layer, {title}",
            text=("weight",),
        ),
    )


def _means(point: Point) -> list[str | None]:
    """Returns the test accuracy and the steps to best, as text."""
    accuracy, steps = point.by_seed("metric"), point.by_seed("steps_to_best")
    return [
        points(interval(accuracy.values()), digits=2) if accuracy else "failed",
        _whole(interval(steps.values())) if steps else None,
    ]


def _whole(found: Interval) -> str:
    end = "" if found.half is None else f" ± {found.half:,.0f}"
    return f"{found.mean:,.0f}{end}"


def _signed(found: Interval | None) -> str | None:
    return None if found is None else points(found, signed=True, digits=2)


def cells(found: Sequence[Cell]) -> Html:
    settings = ("experiment", "dataset", "regime", "head")
    varying = [n for n in settings if len({getattr(c, n) for c in found}) > 1]
    failures = any(cell.failed for cell in found)
    numbers = {"metric": 4, "val_metric": 4, "steps": 0, "steps_to_best": 0}
    numbers["seconds"] = 1
    rows = [
        [
            *(getattr(cell, name) for name in varying),
            *(cell.arm, cell.weights, share(cell.density), cell.seed),
            cell.source_round,
            *(_number(getattr(cell, name), digits) for name, digits in numbers.items()),
            *([cell.failure or cell.failed * "failed"] if failures else ()),
        ]
        for cell in found
    ]
    head = [*varying, "arm", "weights", "left", "seed", "round of the search"]
    head += ["test accuracy", "validation accuracy", "steps", "steps to best"]
    return page.table(
        [*head, "seconds", *(["failure"] if failures else ())],
        rows,
        caption=f"{len(found)} cells, one trained network each",
        text=(*varying, "arm", "weights", "failure"),
    )


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"
