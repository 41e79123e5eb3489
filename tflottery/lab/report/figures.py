"""Figures: the figures of a report, each with its text and caption."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tflottery.lab.report import drawing
from tflottery.lab.report.drawing import BLACK, GREY, Picture
from tflottery.lab.report.intervals import Interval, compare, interval, share
from tflottery.lab.report.results import Curve, Point, Setting

_STARTS = {"trained": "θT", "rewind": "θk", "initial": "θ0"}
_NAMES = {
    "randomly_masked": "random mask",
    "reinitialized": "re-initialized",
    "layer_shuffled": "layer-shuffled mask",
    "globally_shuffled": "globally shuffled mask",
}
_T = (
    "Bars and the grey band: 95 % intervals by Student's t over the seeds, cut off at "
    "the frame."
)

# Pairs of a density and the value drawn there.
Series = Sequence[tuple[float, Interval]]


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


def accuracy(setting: Setting) -> Picture:
    """Draws the test accuracy over density, with the dense network's level."""
    return _over_density(
        setting,
        lambda point: _interval(point, "metric", 100),
        ylabel="test accuracy (%)",
        what="Test accuracy in percent",
        ceiling=101,
        caption=f"Test accuracy, mean over the seeds. {_T}",
    )


def steps_to_best(setting: Setting) -> Picture | None:
    """Draws the steps to the best validation accuracy, if any are recorded."""
    points = [point for curve in setting.curves for point in curve.points]
    if not any(point.by_seed("steps_to_best") for point in points):
        return None
    return _over_density(
        setting,
        lambda point: _interval(point, "steps_to_best", 1),
        ylabel="steps to best validation accuracy",
        what="Steps to the best validation accuracy",
        caption=f"Mean optimizer steps to the best validation accuracy. {_T}",
        floor=0.0,
    )


def differences(setting: Setting, tolerance: float) -> Picture | None:
    """Draws the differences in test accuracy to dense, paired by seed."""
    dense = setting.dense
    if dense is None:
        return None

    def difference(point: Point) -> Interval | None:
        test = compare(point, dense).test
        return None if test is None else _scaled(test, 100)

    series = _series(setting, difference)
    if not any(series.values()):
        return None

    def plot(axes: Any) -> None:
        axes.axhline(0, color=BLACK, linewidth=1, label="dense")
        if tolerance > 0:
            axes.axhline(
                -100 * tolerance,
                color=GREY,
                linewidth=1,
                linestyle=(0, (4, 3)),
                label="tolerance",
            )
        _curves(axes, setting, series)
        _limit(axes, [*series.values()], Interval(0, 0, 1))
        axes.set_ylabel("difference to dense (points)")

    return drawing.draw(
        plot,
        alt=_describe("Difference in test accuracy to dense, in points", series),
        caption=(
            "Difference in test accuracy to the dense network of the same seed: an arm "
            "wins if its whole interval is at or above "
            + (f"-{100 * tolerance:g} points." if tolerance > 0 else "zero.")
        ),
    )


def layers(densities: Sequence[Mapping[str, float]], title: str) -> Picture | None:
    """Draws the density of every layer, averaged over the tickets.

    Args:
        densities: For each ticket, the share kept by path; none draws nothing.
        title: Which tickets these are.
    """
    found = means_by_layer(densities)
    if not found:
        return None
    names, means = layer_names(list(found)), [mean for mean, _ in found.values()]

    def plot(axes: Any) -> None:
        drawing.bars(axes, names, means, [ends for _, ends in found.values()])
        axes.set_xlabel("weights left in the layer (%)")

    listed = ", ".join(
        f"{name} {mean:.3g}" for name, mean in zip(names, means, strict=True)
    )
    return drawing.draw(
        plot,
        height=0.9 + 0.22 * len(names),
        alt=f"Weights left per layer in percent: {listed}.",
        caption=f"Weights left per layer, {title}."
        + (" Black lines: range over the seeds." if len(densities) > 1 else ""),
    )


def means_by_layer(
    densities: Sequence[Mapping[str, float]],
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Returns each layer's mean density in percent, with the smallest and largest.

    >>> means_by_layer([{"a": 0.25}, {"a": 0.75}])
    {'a': (50.0, (25.0, 75.0))}
    """
    found = {}
    for path in densities[0] if densities else ():
        values = [100 * density[path] for density in densities if path in density]
        found[path] = (sum(values) / len(values), (min(values), max(values)))
    return found


def layer_names(paths: Sequence[str]) -> list[str]:
    """Returns the paths without their last part if all have the same one.

    >>> layer_names(["a/kernel", "b/kernel"]), layer_names(["a/kernel", "a/bias"])
    (['a', 'b'], ['a/kernel', 'a/bias'])
    """
    paths = [drawing.plain(path) for path in paths]
    ends = {path.rpartition("/")[2] for path in paths}
    if len(ends) == 1 and all("/" in path for path in paths):
        return [path.rpartition("/")[0] for path in paths]
    return paths


def overlap(pairs: Sequence[tuple[float, float]]) -> Picture | None:
    """Draws how much of their masks the tickets of two seeds share.

    Args:
        pairs: For each two seeds, the density and the Jaccard index of the kept
            weights, both in [0, 1].
    """
    if not pairs:
        return None
    by_density: dict[float, list[float]] = {}
    for density, jaccard in pairs:
        by_density.setdefault(float(f"{density:.3g}"), []).append(100 * jaccard)
    densities = sorted(by_density, reverse=True)
    means = [sum(by_density[d]) / len(by_density[d]) for d in densities]

    def plot(axes: Any) -> None:
        color = drawing.STYLES["ticket trained"][0]
        places = [100 * d for d in densities]
        axes.plot(places, means, "-", color=color, label="mean of the pairs")
        axes.plot(
            [100 * d for d, _ in pairs],
            [100 * jaccard for _, jaccard in pairs],
            "o",
            color=color,
            alpha=0.5,
            label="pair of seeds",
        )
        dots = [min(densities) ** (i / 40) for i in range(41)]
        axes.plot(
            [100 * d for d in dots],
            [100 * d / (2 - d) for d in dots],
            ":",
            color=BLACK,
            label="chance",
        )
        drawing.density_axis(axes, densities)
        axes.set_ylim(0, 105)
        axes.set_ylabel("shared (%)")

    ends = {densities[0]: means[0], densities[-1]: means[-1]}
    listed = "; ".join(f"{mean:.1f} % at {share(d)}" for d, mean in ends.items())
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
    floor: float | None = None,
    ceiling: float | None = None,
) -> Picture:
    series = _series(setting, value)
    dense = value(setting.dense) if setting.dense else None

    def plot(axes: Any) -> None:
        if dense is not None:
            axes.axhline(dense.mean, color=BLACK, linewidth=1.2, label="dense")
            if dense.half is not None:
                axes.axhspan(dense.lower, dense.upper, color=BLACK, alpha=0.1, lw=0)
        _curves(axes, setting, series)
        _limit(axes, [*series.values()], dense)
        if floor is not None:
            axes.set_ylim(bottom=floor)
        if ceiling is not None and axes.get_ylim()[1] > ceiling:
            axes.set_ylim(top=ceiling)
        axes.set_ylabel(ylabel)

    level = "" if dense is None else f" Dense: {dense.mean:.4g}."
    return drawing.draw(plot, alt=_describe(what, series) + level, caption=caption)


def _series(
    setting: Setting, value: Callable[[Point], Interval | None]
) -> dict[str, Series]:
    found = {}
    for curve in setting.curves:
        points = [(point.density, value(point)) for point in curve.points]
        found[label(curve, setting)] = [(d, v) for d, v in points if v is not None]
    return found


def _curves(axes: Any, setting: Setting, series: Mapping[str, Series]) -> None:
    """Draws the arms slightly apart, so that their intervals do not overlap."""
    keys = [
        f"ticket {curve.weights}" if curve.arm == "ticket" else curve.arm
        for curve in setting.curves
    ]
    unique = [k if keys.count(k) == 1 else f"{k} {i}" for i, k in enumerate(keys)]
    looks = drawing.styles(unique)
    for index, (key, (name, points)) in enumerate(
        zip(unique, series.items(), strict=True)
    ):
        aside = 1 + 0.022 * (index - (len(series) - 1) / 2)
        color, marker, line = looks[key]
        axes.errorbar(
            [100 * density * aside for density, _ in points],
            [value.mean for _, value in points],
            yerr=[value.half or 0 for _, value in points],
            color=color,
            marker=marker,
            linestyle=line,
            capsize=2,
            elinewidth=0.8,
            label=name,
        )
    drawing.density_axis(axes, [d for points in series.values() for d, _ in points])


def _limit(axes: Any, series: Sequence[Series], dense: Interval | None) -> None:
    """Limits the y axis, as the huge intervals of few seeds would hide the means."""
    values = [value for points in series for _, value in points]
    values += [dense] if dense is not None else []
    if not values:
        return
    low, high = min(v.mean for v in values), max(v.mean for v in values)
    room = 0.35 * (high - low) or 0.05 * abs(high) or 1.0
    ends = [(v.mean - (v.half or 0), v.mean + (v.half or 0)) for v in values]
    bottom = max(min(a for a, _ in ends), low - room)
    top = min(max(b for _, b in ends), high + room)
    margin = 0.05 * (top - bottom) or room
    axes.set_ylim(bottom - margin, top + margin)


def _describe(what: str, series: Mapping[str, Series]) -> str:
    ends = [
        f"{name} from {points[0][1].mean:.4g} at {share(points[0][0])} to "
        f"{points[-1][1].mean:.4g} at {share(points[-1][0])}"
        for name, points in series.items()
        if points
    ]
    return f"{what} over weights left: {'; '.join(ends) or 'no results yet'}."


def _interval(point: Point, name: str, scale: float) -> Interval | None:
    values = point.by_seed(name)
    return _scaled(interval(values.values()), scale) if values else None


def _scaled(found: Interval, scale: float) -> Interval:
    half = None if found.half is None else scale * found.half
    return Interval(scale * found.mean, half, found.count)
