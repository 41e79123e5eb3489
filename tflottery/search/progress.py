"""Progress: what a long search shows: a table that grows, or one line per round."""

import numbers
import sys
from collections.abc import Sequence

from tflottery.core.records import steps_told
from tflottery.search import live
from tflottery.ticket import Round, Ticket


class Progress:
    """Shows how a search goes on; works in a terminal, a notebook and a log.

    Args:
        verbose: `"auto"` prints one line per round, or draws a table in place if
            someone is watching; 1 prints the lines and Keras' progress bar; 2 one line
            per epoch. For 0, do not call the methods.

    Attributes:
        inside_round: The `verbose` of `fit` inside a round.
        live: The table that is drawn in place, or `None`.

    Raises:
        ValueError: For any other `verbose`.
    """

    def __init__(self, verbose: str | int):
        kind = str | numbers.Integral  # True is 1, as in Keras.
        if not isinstance(verbose, kind) or verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                f'`verbose` must be "auto", 0, 1 or 2. Received: verbose={verbose!r}'
            )
        watched = sys.stdout.isatty() or "ipykernel" in sys.modules
        self.live = live.Live() if watched and verbose == "auto" else None
        self.inside_round: int = 0 if verbose == "auto" else int(verbose)
        self._plan: Sequence[float] = ()
        self._records: list[Round] = []

    def say(self, *lines: str) -> None:
        """Prints lines."""
        print(*lines, sep="\n", flush=True)

    def start(self, plan: Sequence[float]) -> None:
        """Prints what is ahead: `plan` holds the density of every round."""
        self._plan, first = plan, "the dense network"
        if plan[0] < 1:
            first = f"the network as it is, with {100 * plan[0]:.2f} % of its weights"
        left = f"{100 * plan[-1]:.2f} % of the weights"
        self.say(f"{len(plan)} rounds: {first}, then down to {left}.")

    def add(self, record: Round, monitor: str, *, resumed: bool = False) -> None:
        """Prints a finished round's line, or adds it to the table."""
        line = "{:>8} {:>7} {:>14} {:>9} {:>8}  {}"
        if not self._records and not self.live:
            names = ("round", "left %", monitor, "to dense", "seconds", "time left")
            self.say(line.format(*names))
        self._records.append(record)
        ahead = max(0, len(self._plan) - len(self._records))
        seconds = [r.seconds or 0.0 for r in self._records[-3:]]
        left = duration(ahead * sum(seconds) / len(seconds))
        metric = record.metrics.get(monitor, float("nan"))
        dense = self._records[0].metrics.get(monitor, float("nan"))
        row = (
            f"{record.round}/{len(self._plan) - 1:<2}",
            f"{100 * (1 - record.sparsity):.2f}",
            f"{metric:.4f}",
            f"{metric - dense:+.4f}",
            f"{record.seconds or 0:.1f}",
            ("(resumed)" if resumed else left)
            + (f"  {told}" if (told := record.failure or record.how) else ""),
        )
        if self.live:
            self.live.add(monitor, row, 1 - record.sparsity, metric)
        else:
            self.say(line.format(*row))

    def end(self, ticket: Ticket) -> None:
        """Prints which ticket the search found."""
        if self.live:
            self.live.stop()
        found = ticket.rounds[ticket.round]
        metric = found.metrics[ticket.monitor]
        dense = ticket.rounds[0].metrics[ticket.monitor]
        self.say(
            f"Ticket of round {ticket.round}: {100 * ticket.density:.2f} % of the "
            f"weights, {ticket.monitor} {metric:.4f} ({metric - dense:+.4f} to dense), "
            f"in {duration(sum(r.seconds or 0 for r in ticket.rounds))}."
        )
        if told := steps_told(ticket.rounds):
            self.say(told)


def duration(seconds: float) -> str:
    """Returns a time in words.

    >>> duration(42), duration(754), duration(7500)
    ('42 s', '12 min 34 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
