"""Figures: what a search found, round by round and layer by layer."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflottery.core.masks import Masks
from tflottery.core.records import Round
from tflottery.showing import drawing
from tflottery.showing.drawing import Picture, share

_LARGEST = 1e100  # Matplotlib cannot draw longer axes.
_MOST_TILES = 32


def rounds_metric(
    rounds: Sequence[Round], monitor: str, chosen: int | None
) -> Picture | None:
    """Draws the metric after each round of a search over density, if any has one."""
    found = {
        r.round: (1 - r.sparsity, r.metrics[monitor])
        for r in rounds
        if counts(r, monitor)
    }
    if not found:
        return None
    densities, metrics = zip(*found.values(), strict=True)

    def plot(axes: Any) -> None:
        if 0 in found:
            dense = found[0][1]
            axes.axhline(dense, color=drawing.BLACK, ls="--", lw=1, label="dense")
        percents = [100 * density for density in densities]
        color, marker, _ = drawing.STYLES["ticket trained"]
        axes.plot(percents, metrics, color=color, marker=marker, label="rounds")
        if chosen in found:
            density, metric = found[chosen]
            color, *_ = drawing.STYLES["ticket initial"]
            axes.plot(
                100 * density, metric, "*", ms=14, color=color, label="the ticket"
            )
        drawing.density_axis(axes, densities)
        axes.set_ylabel(drawing.plain(monitor))

    listed = "; ".join(f"{metric:.4g} at {share(d)}" for d, metric in found.values())
    return drawing.draw(
        plot,
        alt=f"{monitor} over weights left: {listed}.",
        caption=f"{monitor} after each round; round 0 is the dense network.",
    )


def learning_curves(rounds: Sequence[Round], monitor: str) -> Picture | None:
    """Draws the metric over the epochs of each round of a search."""
    curves = [
        (r, [v if abs(v) < _LARGEST else math.nan for v in r.history[monitor]])
        for r in rounds
        if r.history.get(monitor)
    ]
    if not curves:
        return None

    def plot(axes: Any) -> None:
        from matplotlib import cm, colors, ticker

        left = [100 * (1 - r.sparsity) for r, _ in curves]
        bounds = colors.LogNorm(min([*left, 50]), 100)
        colormap = cm.ScalarMappable(bounds, "cividis")
        dense = {"color": drawing.BLACK, "ls": "--", "lw": 1.6, "zorder": 3}
        for (r, values), percent in zip(curves, left, strict=True):
            sparse = {"color": colormap.cmap(bounds(percent)), "lw": 1.2}
            look = sparse if r.round else dense | {"label": "dense"}
            marker = "o" if len(values) == 1 else None
            axes.plot(range(1, len(values) + 1), values, marker=marker, **look)
        bar = axes.figure.colorbar(
            colormap, ax=axes, pad=0.02, label="weights left (%)", **drawing.percents()
        )
        bar.minorticks_off()
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.set_xlabel("epochs trained in the round")
        axes.set_ylabel(drawing.plain(monitor))

    ends = "; ".join(
        f"round {r.round} ends at {values[-1]:.4g}" for r, values in curves
    )
    return drawing.draw(
        plot,
        alt=f"{monitor} over the epochs of {len(curves)} rounds: {ends}.",
        caption=f"{monitor} in each round; darker lines have fewer weights.",
    )


def counts(record: Round, monitor: str) -> bool:
    """Returns whether a round's metric can be drawn."""
    value = record.metrics.get(monitor)
    counts = record.failure is None and record.in_full
    return counts and value is not None and abs(value) < _LARGEST


def layers(densities: Sequence[Mapping[str, float]], title: str) -> Picture | None:
    """Draws the density of every layer, averaged over the tickets; none draws nothing.

    `densities` hold the share kept by path for each of the tickets that `title` names.
    """
    found = means_by_layer(densities)
    if not found:
        return None
    values = dict(zip(layer_names(list(found)), found.values(), strict=True))

    def plot(axes: Any) -> None:
        drawing.bars(axes, values)
        axes.set_xlabel("weights left in the layer (%)")

    listed = ", ".join(f"{name} {mean:.3g}" for name, (mean, *_) in values.items())
    return drawing.draw(
        plot,
        height=0.9 + 0.22 * len(values),
        alt=f"Weights left per layer in percent: {listed}.",
        caption=f"Weights left per layer, {title}."
        + (" Black lines: range over the seeds." if len(densities) > 1 else ""),
    )


def means_by_layer(
    densities: Sequence[Mapping[str, float]],
) -> dict[str, tuple[float, float, float]]:
    """Returns each layer's mean density in percent, with the smallest and largest.

    >>> means_by_layer([{"a": 0.25}, {"a": 0.75}])
    {'a': (50.0, 25.0, 75.0)}
    """
    found = {}
    for path in densities[0] if densities else ():
        values = [100 * density[path] for density in densities if path in density]
        found[path] = statistics.fmean(values), min(values), max(values)
    return found


def layer_names(paths: Sequence[str]) -> list[str]:
    """Returns the paths without their last part if all have the same one.

    >>> layer_names(["a/kernel", "b/kernel"]), layer_names(["a/kernel", "a/bias"])
    (['a', 'b'], ['a/kernel', 'a/bias'])
    """
    parts = [drawing.plain(path).rpartition("/") for path in paths]
    if len({end for _, _, end in parts}) == 1 and all(start for start, _, _ in parts):
        return [start for start, _, _ in parts]
    return ["".join(part) for part in parts]


def first_masks(masks: Masks) -> Picture | None:
    """Draws the masks of the first layer: of each unit or filter, where it looks."""
    path, mask = next(((p, m) for p, m in masks.items() if m.ndim > 1), ("", None))
    if mask is None or not mask.size:
        return None
    found = tiles(mask)
    shown = found[:_MOST_TILES]
    sheet = _sheet(shown)

    def plot(axes: Any) -> None:
        axes.imshow(sheet, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        axes.set_facecolor("#56B4E9")  # Shows through between the tiles.
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"mask of {name}, kept is black")

    name = drawing.plain(path)
    kept = share(float(np.mean(mask)))
    if len(found) == 1:
        caption = f"The mask of {name}, inputs down, outputs across. Black is kept."
    else:
        some = f"the first {len(shown)} of " if len(shown) < len(found) else ""
        caption = (
            f"Where {some}{len(found)} units of {name} look: black is kept, white is "
            "pruned, grey is kept for some channels."
        )
    alt = f"The mask of {name}, of which {kept} is kept."
    return drawing.draw(plot, alt=alt, caption=caption)


def tiles(mask: np.ndarray) -> np.ndarray:
    """Returns a mask as pictures [n, height, width] of the share kept, in [0, 1].

    A filter is one picture, and so is a unit whose inputs fill a square image of one
    or three channels. Any other mask is one picture [1, inputs, outputs].

    >>> tiles(np.ones((3, 3, 16, 8))).shape, tiles(np.ones((784, 300))).shape
    ((8, 3, 3), (300, 28, 28))
    >>> tiles(np.ones((10, 5))).shape
    (1, 10, 5)
    """
    if mask.ndim == 4:
        return mask.mean(axis=2).transpose(2, 0, 1)
    for channels in (1, 3):
        side = math.isqrt(len(mask) // channels)
        if mask.ndim == 2 and side >= 4 and channels * side * side == len(mask):
            return mask.T.reshape(-1, side, side, channels).mean(axis=3)
    return mask.reshape(1, -1, mask.shape[-1]).astype(float)


def _sheet(shown: np.ndarray) -> np.ndarray:
    """Returns the tiles side by side, eight in a row, with NaN between them."""
    count, height, width = shown.shape
    columns = min(8, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for index, tile in enumerate(shown):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        sheet[top : top + height, left : left + width] = tile
    return sheet
