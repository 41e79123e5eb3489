"""Progress: what a long experiment shows while it runs."""

import contextlib
import datetime
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich import progress


class Progress:
    """Counts the finished parts of an experiment: bars in a terminal, else lines.

    Args:
        verbose: 0 shows nothing; `"auto"` bars in a terminal and lines elsewhere; 2
            lines.
        log: Text file that every line is added to, with its time.
        total: Number of parts of each kind.
        done: Number of parts of each kind that are finished already.
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
        self._bars = progress.Progress(
            progress.TextColumn("{task.description:>6}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[left]}"),
            disable=self._prints or verbose != "auto",
        )
        self._tasks = {
            kind: self._bars.add_task(kind, total=n, completed=done[kind], left="")
            for kind, n in total.items()
        }
        self._seconds: dict[str, list[float]] = {kind: [] for kind in total}
        self._last = time.monotonic()
        self.say(
            ", ".join(f"{done[kind]} of {n} {kind} done" for kind, n in total.items())
        )

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the bars while the block runs."""
        with self._bars:
            yield

    def add(self, kind: str, what: str) -> None:
        """Counts one more part of a kind as finished."""
        now = time.monotonic()
        seconds = self._seconds[kind]
        seconds.append(now - self._last)
        self._last = now
        task = self._bars.tasks[self._tasks[kind]]
        ahead = int(task.remaining or 0) - 1
        mean = sum(seconds) / len(seconds)
        time_left = datetime.timedelta(seconds=round(ahead * mean))
        left = f"{time_left} left" if ahead > 0 else ""
        self._bars.update(task.id, advance=1, left=left)
        count = f"{int(task.completed):>4} of {int(task.total or 0)} {kind}"
        self.say(f"{count}: {what}  {left}")

    def say(self, line: str) -> None:
        """Adds a line to the log, and shows it."""
        with self._log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        if self._prints:
            print(line, flush=True)
        elif not self._bars.disable:
            self._bars.console.print(line, markup=False, highlight=False)
