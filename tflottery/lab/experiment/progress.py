"""Progress: what a long experiment shows while it runs."""

import datetime
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich import progress


class Progress:
    """Counts the finished parts of an experiment: bars in a terminal, else lines.

    Every line is added to the file `log`, with its time; `bars` show while entered. Of
    the parts of each kind, `total`, some are `done` already. `verbose` is as in `run`.
    """

    def __init__(
        self,
        verbose: str | int,
        log: Any,
        total: Mapping[str, int],
        done: Mapping[str, int],
    ):
        terminal = sys.stdout.isatty()
        self._prints = verbose == 2 or (verbose == "auto" and not terminal)
        self._log = log
        self.bars = progress.Progress(
            progress.TextColumn("{task.description:>6}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[left]}"),
            disable=self._prints or verbose != "auto",
        )
        self._tasks = {
            kind: self.bars.add_task(kind, total=n, completed=done[kind], left="")
            for kind, n in total.items()
        }
        self._seconds: dict[str, list[float]] = {kind: [] for kind in total}
        self._last = time.monotonic()
        self.say(
            ", ".join(f"{done[kind]} of {n} {kind} done" for kind, n in total.items())
        )

    def add(self, kind: str, what: str) -> None:
        """Counts one more part of a kind as finished."""
        now = time.monotonic()
        seconds = self._seconds[kind]
        seconds.append(now - self._last)
        self._last = now
        task = self.bars.tasks[self._tasks[kind]]
        ahead = int(task.remaining or 0) - 1
        mean = sum(seconds) / len(seconds)
        time_left = datetime.timedelta(seconds=round(ahead * mean))
        left = f"{time_left} left" if ahead > 0 else ""
        self.bars.update(task.id, advance=1, left=left)
        count = f"{int(task.completed):>4} of {int(task.total or 0)} {kind}"
        self.say(f"{count}: {what}  {left}")

    def say(self, line: str) -> None:
        """Adds a line to the log, and shows it."""
        with self._log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        if self._prints:
            print(line, flush=True)
        elif not self.bars.disable:
            self.bars.console.print(line, markup=False, highlight=False)
