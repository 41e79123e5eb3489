"""Drawing: one small figure as SVG with a text, legible on a phone and in print.

The colours are Okabe and Ito's, which colour-blind readers can tell apart. Each comes
with its own marker and line style, for printing in grey.
"""

import base64
import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

BLACK, GREY = "#000000", "#666666"
STYLES = {
    "ticket trained": ("#0072B2", "o", "-"),
    "ticket rewind": ("#009E73", "^", "-"),
    "ticket initial": ("#D55E00", "s", "--"),
    "randomly_masked": ("#E69F00", "D", "-."),
    "reinitialized": ("#CC79A7", "v", ":"),
    "layer_shuffled": ("#56B4E9", "P", "-."),
    "globally_shuffled": ("#999999", "X", "--"),
}
"""Colour, marker and line style of each arm."""

_MORE = (("#009E73", "*", "--"), ("#E69F00", "<", ":"), ("#0072B2", ">", "-."))

WIDTH = 4.6  # inches
_RC = {
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "svg.hashsalt": "tflottery",  # Equal results give equal files.
    "text.parse_math": False,  # A layer may be called $x.
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}
_TICKS = [m * 10.0**e for e in range(2, -5, -1) for m in (1, 2, 5)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure.

    Attributes:
        svg: The figure as an SVG file.
        alt: What it shows, for readers who cannot see it.
        caption: What to know when looking at it.
    """

    svg: bytes
    alt: str
    caption: str

    @property
    def base64(self) -> str:
        """The SVG file in Base64, as a data URL holds it."""
        return base64.b64encode(self.svg).decode()


def draw(
    plot: Callable[[Any], None], *, alt: str, caption: str, height: float = 3.4
) -> Picture:
    """Returns what `plot` draws.

    Args:
        plot: Draws on the Matplotlib axes that it is given.
        alt: As in `Picture`.
        caption: As in `Picture`.
        height: Height of the figure in inches; it is `WIDTH` wide.

    Raises:
        ImportError: If Matplotlib is not installed; the message says how to install it.
    """
    with _matplotlib() as figures:
        figure = figures.Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        plot(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=2)
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(svg=svg.getvalue(), alt=alt, caption=caption)


@contextlib.contextmanager
def _matplotlib() -> Iterator[Any]:
    """Yields Matplotlib's `figure` module, with its default settings in force."""
    try:
        from matplotlib import figure, style
    except ImportError as error:
        raise ImportError(
            "A report needs Matplotlib, which is not installed. Install it with "
            "pip install 'tflottery[plots]'."
        ) from error
    logger = logging.getLogger("matplotlib.font_manager")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with style.context(["default", _RC]), warnings.catch_warnings():
            # Characters that the font lacks become boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            yield figure
    finally:
        logger.setLevel(before)


def plain(text: str) -> str:
    """Returns a text that fonts and XML can hold, with other characters replaced.

    >>> plain("a\\x00b")
    'a\ufffdb'
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def styles(names: list[str]) -> dict[str, tuple[str, str, str]]:
    """Returns a colour, marker and line style for every arm, by `STYLES` if known.

    >>> styles(["ticket trained", "mine"])
    {'ticket trained': ('#0072B2', 'o', '-'), 'mine': ('#009E73', '*', '--')}
    """
    found, own = {}, 0
    for name in names:
        if name in STYLES:
            found[name] = STYLES[name]
        else:
            found[name] = _MORE[own % len(_MORE)]
            own += 1
    return found


def density_axis(axes: Any, densities: list[float]) -> None:
    """Makes the x axis show the weights left, from 100 % down, on a log scale."""
    from matplotlib import ticker

    smallest = min([*densities, 0.5])
    axes.set_xscale("log")
    axes.set_xlim(118, 100 * smallest / 1.18)
    axes.xaxis.set_major_locator(
        ticker.FixedLocator([t for t in _TICKS if 100 * smallest / 1.18 <= t <= 100])
    )
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("weights left (%), log scale")


def bars(
    axes: Any,
    names: Sequence[str],
    values: Sequence[float],
    ranges: Sequence[tuple[float, float]] = (),
) -> None:
    """Draws one bar per name, the first at the top, each labelled with its value.

    Args:
        axes: Where to draw.
        names: Labels of the bars; the start of a long one is cut off.
        values: Lengths of the bars.
        ranges: For each bar, the smallest and the largest value over the seeds.
    """
    places = range(len(names))
    ranges = ranges or [(value, value) for value in values]
    axes.barh(places, values, color=STYLES["ticket trained"][0], height=0.72)
    for place, value, (low, high) in zip(places, values, ranges, strict=True):
        if high > low:
            axes.plot([low, high], [place, place], color=BLACK, linewidth=1)
        axes.annotate(
            f"{value:#.3g}".rstrip("."),
            (max(value, high), place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    short = [name if len(name) <= 26 else "…" + name[-25:] for name in names]
    axes.set_yticks(places, labels=short, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.14 * max([*values, *(high for _, high in ranges), 1]))
    axes.grid(visible=False, axis="y")
