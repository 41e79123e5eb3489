"""Figures: the figures of a report, each with its text and caption."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tflottery.lab.report.intervals import Interval, compare, interval
from tflottery.lab.report.results import Curve, Point, Setting
from tflottery.showing import drawing
from tflottery.showing.drawing import BLACK, GREY, Picture, share

_STARTS = {
    "trained": "θT",
    "rewind": "θk",
    "initial": "θ0",
    "fresh": "from scratch",
    "longer": "trained as long",
}
_NAMES = {
    "randomly_masked": "random mask",
    "reinitialized": "re-initialized",
    "layer_shuffled": "layer-shuffled mask",
    "globally_shuffled": "globally shuffled mask",
    "settle": "settled rounds",
    "one_shot_rewound": "one-shot, rewound",
    "one_shot_fine_tuned": "one-shot, fine-tuned",
    "gradual": "tfmot, one training",
    "gradual_twice": "tfmot, two trainings",
    "ac_dc": "AC/DC",
}
_TICKET = drawing.STYLES["ticket initial"]
_FAR = 20  # Points below the best method at which others need no axis of theirs.
_T = (
    "Bars and the grey band: 95 % intervals by Student's t over the seeds, cut off at "
    "the frame."
)


def label(curve: Curve, setting: Setting | None = None) -> str:
    """Returns an arm's name, with where it starts if there is a choice.

    >>> label(Curve("ticket", "trained", ())), label(Curve("randomly_masked", None, ()))
    ('ticket θT', 'random mask')
    """
    name = _NAMES.get(curve.arm, curve.arm.replace("_", " "))
    starts = (
        {c.weights for c in setting.curves if c.arm == curve.arm} if setting else ()
    )
    if curve.arm == "ticket" or len(starts) > 1 or curve.arm == "dense":
        name += f" {_STARTS.get(curve.weights or '', curve.weights or '')}"
    return drawing.plain(name.strip())


def accuracy(setting: Setting) -> Picture | None:
    """Draws the test accuracy over density, with the dense network's level."""
    return _over_density(
        setting,
        lambda point: _mean(point, "metric", 100),
        ylabel="test accuracy (%)",
        what="Test accuracy in percent",
        caption=f"Test accuracy, mean over the seeds. {_T}",
        most=101,
    )


def cost(setting: Setting) -> Picture | None:
    """Draws the test accuracy over its cost if known, a part per density."""
    found: dict[str, list[tuple[Curve, float, Interval]]] = {}
    for curve in setting.curves:
        for point in curve.points:
            spent, reached = _mean(point, "cost"), _mean(point, "metric", 100)
            if spent and reached:
                part = found.setdefault(f"{share(point.density)} left", [])
                part.append((curve, spent.mean, reached))
    if not found:
        return None

    def plot(parts: Any) -> None:
        parts = parts if len(found) > 1 else [parts]
        for axes, (title, points) in zip(parts, found.items(), strict=False):
            best = max(reached.mean for *_, reached in points)
            shown = [reached for *_, reached in points if reached.mean > best - _FAR]
            low, high = _limits(shown)
            far = 0
            for index, (curve, spent, reached) in enumerate(points):
                color, marker, _ = drawing.STYLES.get(curve.arm, _TICKET)
                # Slightly apart, as several methods cost the same.
                place = spent * 1.04 ** (index - (len(points) - 1) / 2)
                look = color, marker, "none"
                _bars(axes, [(place, reached)], look, label(curve, setting))
                if reached not in shown:
                    options = {"color": color, "textcoords": "offset points"}
                    text, at, up = f"↓ {reached.mean:.0f}", (place, low), (-6, 12 * far)
                    axes.annotate(text, at, up, va="bottom", **options)
                    far += 1
            axes.set_title(title, fontsize=10)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_ylim(low, high)
        for axes in parts[-2:]:
            axes.set_xlabel("cost in trainings")
        for axes in parts[::2]:
            axes.set_ylabel("test accuracy (%)")

    listed = "; ".join(
        f"{title}: "
        + ", ".join(
            f"{label(c, setting)} {v.mean:.4g} for {x:.3g}" for c, x, v in points
        )
        for title, points in found.items()
    )
    return drawing.draw(
        plot,
        height=1 + 2 * -(-len(found) // 2),
        parts=len(found),
        alt=f"Test accuracy in percent over the cost in trainings. {listed}.",
        caption="Test accuracy over all steps spent to reach it, in trainings "
        f"of the dense network; mean over the seeds. An arrow stands for what is more "
        f"than {_FAR} points below the best. {_T}",
    )


def steps_to_best(setting: Setting) -> Picture | None:
    """Draws the steps to the best validation accuracy, if any are recorded."""
    return _over_density(
        setting,
        lambda point: _mean(point, "steps_to_best"),
        ylabel="steps to best validation accuracy",
        what="Steps to the best validation accuracy",
        caption=f"Mean optimizer steps to the best validation accuracy. {_T}",
        least=0,
    )


def differences(setting: Setting, tolerance: float) -> Picture | None:
    """Draws the differences in test accuracy to dense, paired by seed."""
    dense = setting.dense
    if dense is None:
        return None

    def value(point: Point) -> Interval | None:
        test = compare(point, dense).test
        return test and test.times(100)

    return _over_density(
        setting,
        value,
        tolerance=100 * tolerance,
        ylabel="difference to dense (points)",
        what="Difference in test accuracy to dense, in points",
        caption="Difference in test accuracy to the dense network of the same seed: an "
        "arm wins if its whole interval is at or above "
        + (f"-{100 * tolerance:g} points." if tolerance > 0 else "zero."),
    )


def gain(settings: Sequence[Setting]) -> Picture | None:
    """Draws by how much θT beats dense from scratch, for each number of images.

    Only settings that are fine-tuned and have dense networks from scratch are drawn.
    Each line starts at 100 % with the pretrained dense network.
    """
    lines: dict[str, list[tuple[float, Interval]]] = {}
    for setting in settings:
        scratch = setting.curve("dense", "fresh")
        ticket = setting.curve("ticket", "trained")
        if not scratch or not ticket or not setting.dense:
            continue
        found = [
            (point.density, difference.times(100))
            for point in (setting.dense, *ticket.points)
            if (difference := compare(point, scratch.points[0]).test)
        ]
        if found:
            name = size(setting.images_per_class)
            if len({s.dataset for s in settings}) > 1:
                name = f"{setting.dataset}, {name}"
            lines[name] = found
    if not lines:
        return None

    def plot(axes: Any) -> None:
        looks = itertools.cycle(drawing.STYLES.values())
        for name, found in lines.items():
            _bars(axes, [(100 * density, v) for density, v in found], next(looks), name)
        axes.axhline(0, color=BLACK, linewidth=1.2, label="dense from scratch")
        drawing.density_axis(axes, [d for found in lines.values() for d, _ in found])
        axes.set_ylabel("gain over scratch (points)")

    listed = "; ".join(
        f"{name} {found[0][1].mean:+.1f} at {share(found[0][0])}, "
        f"{found[-1][1].mean:+.1f} at {share(found[-1][0])}"
        for name, found in lines.items()
    )
    return drawing.draw(
        plot,
        alt=f"Gain of θT over dense from scratch, in points of accuracy: {listed}.",
        caption="What pretrained weights are worth as fewer of them are left: the test "
        "accuracy of the ticket θT, fine-tuned, less that of the whole network trained "
        "from scratch on the same images. At 100 % is the pretrained dense network: "
        "where a line stays level, the ticket equals it. Bars: 95 % intervals by "
        "Student's t over the seeds.",
    )


def size(images_per_class: int | None) -> str:
    """Returns how many training images a target has, in words."""
    return f"{images_per_class} images per class" if images_per_class else "all images"


def overlap(pairs: Sequence[tuple[float, float]]) -> Picture | None:
    """Draws how much of their masks the tickets of two seeds share.

    `pairs` are the density and the Jaccard index of the kept weights of each two seeds.
    """
    if not pairs:
        return None
    places = [100 * density for density, _ in pairs]
    shared = [100 * jaccard for _, jaccard in pairs]
    by_place: dict[float, list[float]] = {}
    for place, value in sorted(zip(places, shared, strict=True), reverse=True):
        by_place.setdefault(float(f"{place:.3g}"), []).append(value)
    means = {place: statistics.fmean(found) for place, found in by_place.items()}

    def plot(axes: Any) -> None:
        color = drawing.STYLES["ticket trained"][0]
        axes.plot([*means], [*means.values()], color=color, label="mean of the pairs")
        axes.plot(places, shared, "o", color=color, alpha=0.5, label="pair of seeds")
        dots = [(min(means) / 100) ** (i / 40) for i in range(41)]
        axes.plot(
            [100 * d for d in dots],
            [100 * d / (2 - d) for d in dots],
            ":",
            color=BLACK,
            label="chance",
        )
        drawing.density_axis(axes, [place / 100 for place in means])
        axes.set_ylim(0, 105)
        axes.set_ylabel("shared (%)")

    ends = list(means.items())[:: max(len(means) - 1, 1)]
    listed = "; ".join(f"{mean:.1f} % at {share(d / 100)}" for d, mean in ends)
    return drawing.draw(
        plot,
        alt=f"Overlap of the masks of two seeds over weights left: {listed}.",
        caption=(
            "Of the weights that either seed's ticket keeps, the share that both keep "
            "(Jaccard index). Chance: d / (2 - d) for two random masks of density d."
        ),
    )


def _over_density(
    setting: Setting,
    value: Callable[[Point], Interval | None],
    *,
    ylabel: str,
    what: str,
    caption: str,
    tolerance: float = 0.0,
    least: float | None = None,
    most: float | None = None,
) -> Picture | None:
    """Draws a value of every arm, if any has one, between `least` and `most`."""
    series = []
    for curve in setting.curves:
        found = [(point.density, value(point)) for point in curve.points]
        series.append([(density, v) for density, v in found if v is not None])
    if not any(series):
        return None
    dense = value(setting.dense) if setting.dense else None

    def plot(axes: Any) -> None:
        if dense is not None:
            axes.axhline(dense.mean, color=BLACK, linewidth=1.2, label="dense")
            if dense.half:
                axes.axhspan(dense.lower, dense.upper, color=BLACK, alpha=0.1, lw=0)
        if tolerance > 0:
            dashes = (0, (4, 3))
            axes.axhline(
                -tolerance, color=GREY, linewidth=1, linestyle=dashes, label="tolerance"
            )
        looks, more = dict(drawing.STYLES), itertools.cycle(drawing.MORE_STYLES)
        for index, (curve, points) in enumerate(
            zip(setting.curves, series, strict=True)
        ):
            start = f" {curve.weights}" if curve.arm == "ticket" else ""
            look = looks.pop(curve.arm + start, None) or next(more)
            # Slightly apart, so that the intervals of two arms do not overlap.
            aside = 100 * (1 + 0.022 * (index - (len(series) - 1) / 2))
            places = [(aside * density, v) for density, v in points]
            _bars(axes, places, look, label(curve, setting))
        drawing.density_axis(axes, [d for points in series for d, _ in points])
        values = [v for points in series for _, v in points]
        low, high = _limits([*values, dense] if dense else values)
        axes.set_ylim(low if least is None else least, min(high, most or high))
        axes.set_ylabel(ylabel)

    ends = [
        f"{label(curve, setting)} from {points[0][1].mean:.4g} at "
        f"{share(points[0][0])} to {points[-1][1].mean:.4g} at {share(points[-1][0])}"
        for curve, points in zip(setting.curves, series, strict=True)
        if points
    ]
    level = "" if dense is None else f" Dense: {dense.mean:.4g}."
    alt = f"{what} over weights left: {'; '.join(ends)}.{level}"
    return drawing.draw(plot, alt=alt, caption=caption)


def _bars(
    axes: Any,
    values: Sequence[tuple[float, Interval]],
    look: tuple[str, str, str],
    name: str,
) -> None:
    """Draws means with their intervals; `look` is colour, marker and line style."""
    color, marker, line = look
    axes.errorbar(
        [place for place, _ in values],
        [v.mean for _, v in values],
        yerr=[v.half or 0 for _, v in values],
        color=color,
        marker=marker,
        linestyle=line,
        capsize=2,
        elinewidth=0.8,
        label=name,
    )


def _limits(values: Sequence[Interval]) -> tuple[float, float]:
    """Returns limits of an axis at which huge intervals of few seeds hide no mean."""
    low, high = min(v.mean for v in values), max(v.mean for v in values)
    room = 0.35 * (high - low) or 0.05 * abs(high) or 1.0
    bottom = max(min(v.mean - (v.half or 0) for v in values), low - room)
    top = min(max(v.mean + (v.half or 0) for v in values), high + room)
    margin = 0.05 * (top - bottom) or room
    return bottom - margin, top + margin


def _mean(point: Point, name: str, factor: float = 1) -> Interval | None:
    values = point.by_seed(name)
    return interval(values.values()).times(factor) if values else None
