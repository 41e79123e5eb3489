"""Board: what a long experiment shows while it runs: done, left, and for how long."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tflottery.search.progress import duration


class Board:
    """Counts the parts of an experiment as they are done.

    Where someone watches it is a table that renews itself; elsewhere, and with
    `log`, a line for each part.

    Args:
        verbose: 0 shows nothing; `"auto"` the table in a terminal, else lines; 2
            always lines.
        log: a function that takes each line, too.
    """

    def __init__(self, verbose: str | int, log: Callable[[str], Any]):
        self._lines = verbose == 2 or (verbose == "auto" and not sys.stdout.isatty())
        self._table = verbose == "auto" and not self._lines
        self._log = log
        self._total: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._spent: dict[str, float] = {}
        self._fresh: dict[str, int] = {}
        self._live: Any = None
        self._last = time.monotonic()

    def start(self, total: Mapping[str, int], done: Mapping[str, int]) -> None:
        """Says how many parts of each kind there are, and how many are done."""
        self._total, self._done = dict(total), dict(done)
        self._last = time.monotonic()
        self.say(
            ", ".join(f"{done[kind]} of {n} {kind} done" for kind, n in total.items())
        )

    def add(self, kind: str, what: str) -> None:
        """Counts one more part of a kind as done."""
        now = time.monotonic()
        self._done[kind] += 1
        self._fresh[kind] = self._fresh.get(kind, 0) + 1
        self._spent[kind] = self._spent.get(kind, 0.0) + now - self._last
        self._last = now
        number = f"{self._done[kind]:>4} of {self._total[kind]} {kind}"
        self.say(f"{number}: {what}  {self.left()}")

    def left(self) -> str:
        """Returns the time that is left, as far as it can be told."""
        seconds = 0.0
        for kind, total in self._total.items():
            ahead = total - self._done[kind]
            if ahead and kind not in self._fresh:
                return ""
            if ahead:
                seconds += ahead * self._spent[kind] / self._fresh[kind]
        return f"{duration(seconds)} left" if seconds > 0 else ""

    def say(self, line: str) -> None:
        """Writes a line to the log, and shows it."""
        self._log(line)
        if self._lines:
            print(line, flush=True)
        elif self._live is not None:
            self._live.update(self._rendered(line))

    @contextlib.contextmanager
    def shown(self):
        """Shows the table while the block runs, in a terminal."""
        if not self._table:
            yield
            return
        from rich import live

        with live.Live(self._rendered(""), refresh_per_second=2) as self._live:
            yield
        self._live = None

    def _rendered(self, line: str) -> Any:
        from rich import box, console, table

        rows = table.Table("", "done", "left", box=box.SIMPLE)
        for kind, total in self._total.items():
            done = self._done[kind]
            rows.add_row(kind, str(done), str(total - done))
        for column in rows.columns[1:]:
            column.justify = "right"
        return console.Group(rows, line)
