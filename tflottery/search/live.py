"""Live: the table of a search and its curve, redrawn in place as the rounds pass."""

import html
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.showing import ticket_tables

_COLUMNS = ("round", "left %", "to dense", "seconds", "time left")
_WIDTH, _HEIGHT = 360, 120


class Live:
    """A table, a curve and a status line, in a notebook or a terminal.

    Attributes:
        status: What is under way.
        monitor: The name of the metric.
    """

    def __init__(self):
        self.status, self.monitor = "", "metric"
        self._rows: list[Sequence[str]] = []
        self._points: list[tuple[float, float]] = []
        self._screen: Any = None

    def add(self, monitor: str, row: Sequence[str], density: float, metric: float):
        """Adds a round: the texts of its row, and its point of the curve."""
        self.monitor = monitor
        self._rows.append(row)
        if math.isfinite(metric):
            self._points.append((density, metric))
        self.show()

    def epoch(self, number: int, epoch: int, epochs: int, logs: Mapping[str, float]):
        """Says which epoch of a round has ended, with its metrics."""
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
        self.status = f"round {number}, epoch {epoch} of {epochs}: {metrics}"
        self.show()

    def show(self) -> None:
        """Redraws all."""
        if "ipykernel" in sys.modules:
            self._show_in_notebook()
        else:
            self._show_in_terminal()

    def stop(self) -> None:
        """Leaves what was drawn last, without a status."""
        self.status = ""
        if self._screen is not None:
            self.show()
            if hasattr(self._screen, "stop"):
                self._screen.stop()

    def _show_in_notebook(self) -> None:
        from IPython.display import display

        text = ticket_tables.printed(self._table())
        bundle = {"text/html": self._html(), "text/plain": text}
        if self._screen is None:
            self._screen = display(bundle, raw=True, display_id=True)
        else:
            self._screen.update(bundle, raw=True)

    def _show_in_terminal(self) -> None:
        from rich import live

        if self._screen is None:
            self._screen = live.Live(auto_refresh=False)
            self._screen.start()
        # Of a long table the end is seen.
        most = max(self._screen.console.height - 8, 3)
        self._screen.update(self._table(most), refresh=True)

    def _columns(self) -> tuple[str, ...]:
        return (*_COLUMNS[:2], self.monitor, *_COLUMNS[2:])

    def _table(self, most: int | None = None) -> Any:
        from rich import box, table, text

        found = table.Table(box=box.SIMPLE, caption=text.Text(self.status))
        found.caption_justify = "left"
        for name in self._columns():
            found.add_column(text.Text(name), justify="right")
        for row in self._rows[-most:] if most else self._rows:
            found.add_row(*map(text.Text, row))
        return found

    def _html(self) -> str:
        table = ticket_tables.Table(self._columns(), self._rows, 0)
        status = f"<p>{html.escape(self.status)}</p>"
        return f"{self._curve()}{ticket_tables.html_table(table)}{status}"

    def _curve(self) -> str:
        """Returns the metric over the weights left, on a log scale, as SVG."""
        if not self._points:
            return ""
        left = [-math.log(density) for density, _ in self._points]
        values = [metric for _, metric in self._points]
        low, high = min(values), max(values)
        x0, x1 = left[0], max(left[-1], left[0] + 0.2)
        places = [
            (
                8 + (_WIDTH - 16) * (x - x0) / (x1 - x0),
                18 + (_HEIGHT - 36) * (high - y) / ((high - low) or 1),
            )
            for x, y in zip(left, values, strict=True)
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0072B2"/>'
            for x, y in places
        )
        dense = places[0][1]
        name = html.escape(self.monitor)
        ends = f"{name}: {low:.4g} to {high:.4g}, dense {values[0]:.4g} (dashed)"
        return (
            f'<svg role="img" aria-label="{ends}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" style="max-width: 100%; color: inherit">'
            f'<line x1="0" x2="{_WIDTH}" y1="{dense:.1f}" y2="{dense:.1f}" '
            'stroke="currentColor" stroke-dasharray="4 3"/>'
            f'<polyline points="{line}" fill="none" stroke="#0072B2" '
            f'stroke-width="2"/>{dots}<text x="0" y="{_HEIGHT - 3}" font-size="11" '
            f'fill="currentColor">{ends}</text></svg>'
        )
