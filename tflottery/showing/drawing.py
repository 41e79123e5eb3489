"""Drawing: one small figure as SVG with a text, legible on a phone and in print.

The colours are Okabe and Ito's, which colour-blind readers can tell apart. Each comes
with its own marker and line style, for printing in grey.
"""

import base64
import contextlib
import dataclasses
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tflottery.core import extras

BLACK, GREY = "#000000", "#666666"
STYLES = {
    "ticket trained": ("#0072B2", "o", "-"),
    "ticket rewind": ("#009E73", "^", "-"),
    "ticket initial": ("#D55E00", "s", "--"),
    "randomly_masked": ("#E69F00", "D", "-."),
    "reinitialized": ("#CC79A7", "v", ":"),
    "layer_shuffled": ("#56B4E9", "P", "-."),
    "globally_shuffled": ("#999999", "X", "--"),
    "learning_rate_rewinding": ("#0072B2", "o", "-"),
    "settle": ("#009E73", "^", "-"),
    "one_shot_rewound": ("#CC79A7", "v", ":"),
    "one_shot_fine_tuned": ("#56B4E9", "P", ":"),
    "gradual": ("#666666", "<", "--"),
    "gradual_twice": ("#000000", ">", "--"),
    "ac_dc": ("#999999", "*", "-."),
}
"""Colour, marker and line style of each arm."""

MORE_STYLES = (("#009E73", "*", "--"), ("#E69F00", "<", ":"), ("#0072B2", ">", "-."))
"""Those of other arms, in turn."""

_WIDTH = 4.6  # inches
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure: an SVG file."""

    svg: bytes
    onto: Callable[[Any], None]  # Draws it onto a Matplotlib figure.
    alt: str  # What it shows, for readers who cannot see it.
    caption: str  # What to know when looking at it.

    @property
    def base64(self) -> str:
        """The SVG file in Base64, as a data URL holds it."""
        return base64.b64encode(self.svg).decode()


def draw(
    plot: Callable[[Any], None],
    *,
    alt: str,
    caption: str,
    height: float = 3.4,
    parts: int = 1,
) -> Picture:
    """Returns what `plot` draws on the Matplotlib axes that it is given.

    With several `parts`, in rows of two, `plot` is given them all.

    Raises:
        ImportError: If Matplotlib is not installed; the message says how to install it.
    """

    def onto(figure: Any) -> None:
        rows, columns = -(-parts // 2), min(parts, 2)
        axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        plot(axes if parts > 1 else axes[0])
        handles, labels = axes[0].get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=2)

    with _matplotlib() as figures:
        figure = figures.Figure(figsize=(_WIDTH, height), layout="constrained")
        onto(figure)
        svg = _svg(figure).encode()
    return Picture(svg=svg, onto=onto, alt=alt, caption=caption)


def panels(pictures: Sequence[Picture]) -> Any:
    """Returns a Matplotlib figure with the pictures side by side."""
    with _matplotlib() as figures:
        size = (3.8 * len(pictures), 3.2)
        figure = figures.Figure(figsize=size, layout="constrained")
        parts = figure.subfigures(1, len(pictures), squeeze=False)[0]
        for part, picture in zip(parts, pictures, strict=True):
            picture.onto(part)
    # A notebook asks for it; Matplotlib registers only figures of pyplot there.
    figure._repr_svg_ = functools.partial(_svg, figure)
    return figure


def _svg(figure: Any) -> str:
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return svg.getvalue().decode()


@contextlib.contextmanager
def _matplotlib() -> Iterator[Any]:
    """Yields Matplotlib's `figure` module, with its default settings in force."""
    with extras.needed("plots", "A figure"):
        from matplotlib import figure, style
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


def share(density: float) -> str:
    """Returns a density as a percentage with at most three digits.

    >>> share(0.0687), share(1.0), share(0.2621), share(0.00412)
    ('6.9 %', '100 %', '26.2 %', '0.41 %')
    """
    percent = 100 * density
    digits = 0 if percent >= 99.95 else 1 if percent >= 1 else 2
    return f"{percent:.{digits}f} %"


def percents() -> dict[str, Any]:
    """Returns the ticks of a logarithmic scale of percentages, and their format."""
    from matplotlib import ticker

    return {"ticks": ticker.LogLocator(subs=(1, 2, 5), numticks=99), "format": "{x:g}"}


def density_axis(axes: Any, densities: Sequence[float]) -> None:
    """Makes the x axis show the weights left, from 100 % down, on a log scale."""
    ticks = percents()
    axes.set_xscale("log")
    axes.set_xlim(118, 100 * min([*densities, 0.5]) / 1.18)
    axes.xaxis.set_major_locator(ticks["ticks"])
    axes.xaxis.set_major_formatter(ticks["format"])
    axes.minorticks_off()
    axes.set_xlabel("weights left (%), log scale")


def bars(axes: Any, values: Mapping[str, tuple[float, float, float]]) -> None:
    """Draws one bar per name, the first at the top, each labelled with its length.

    `values` are the length, and the smallest and the largest value over the seeds. The
    start of a long name is cut off.
    """
    lengths, low, high = np.transpose(list(values.values()))
    places = range(len(lengths))
    drawn = axes.barh(
        places,
        lengths,
        xerr=np.maximum([lengths - low, high - lengths], 0),
        color=STYLES["ticket trained"][0],
        ecolor=BLACK,
        error_kw={"elinewidth": 1},
        height=0.72,
    )
    labels = [f"{length:#.3g}".rstrip(".") for length in lengths]
    axes.bar_label(drawn, labels, padding=3, fontsize=8)
    short = [name if len(name) <= 26 else "…" + name[-25:] for name in values]
    axes.set_yticks(places, labels=short, fontsize=8)
    axes.set_ylim(len(lengths) - 0.4, -0.6)
    axes.set_xlim(0, 1.14 * max(*high, 1))
    axes.grid(visible=False, axis="y")
