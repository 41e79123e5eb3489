"""Rounds: the tickets of one search, from its run directory or as they are given."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tflottery.core import checks, paths
from tflottery.core.masks import Weights
from tflottery.search import run_dir as run_dir_lib
from tflottery.ticket import Ticket, load_ticket

_NAME = "run_dir_or_tickets"


def of_search(
    given: Any, number: int | None, ours: Weights
) -> tuple[Ticket, Iterable[Ticket]]:
    """Returns the ticket of one round, and those of the others, nearest first.

    Of two that are equally near, the denser comes first. Rounds that diverged are left
    out. Those of a run directory are read one by one.

    Args:
        given: A run directory, or tickets or their paths.
        number: The one round. `None` is the one that the search returned, or the
            sparsest of the tickets.
        ours: The weights of the model, whose paths the tickets get.

    Raises:
        TypeError, ValueError: If `given` is neither, is not of one search or has fewer
            than two rounds, has no round `number`, or does not fit `ours`.
    """
    several = isinstance(given, list | tuple | Ticket)
    numbers, chosen, load = (_of_tickets if several else _of_run)(given)
    listed = ", ".join(map(str, numbers)) or "none"
    if len(numbers) < 2:
        raise ValueError(
            f"`{_NAME}` must hold two or more finished rounds of one search that did "
            f"not diverge. Its rounds: {listed}."
        )
    if number is None and chosen is None:
        raise ValueError(
            f"`{_NAME}` holds a search that has not ended, so `round` must say whose "
            f"masks to keep: one of {listed}. Received: round=None"
        )
    wanted = checks.Kind(
        lambda v: checks.is_whole(v) and v in numbers,
        f"a finished round that did not diverge, one of {listed}",
    )
    checks.check("round", one := chosen if number is None else number, wanted)
    base = _fitting(load(one), ours)
    others = sorted({*numbers} - {base.round}, key=lambda n: (abs(n - base.round), n))
    tickets = (_fitting(load(n), ours, base) for n in others)
    return base, [*tickets] if several else tickets


Found = tuple[list[int], int | None, Callable[[Any], Ticket]]
"""The rounds that count, the one that is meant by default, and what loads one."""


def _of_run(path: Any) -> Found:
    run = run_dir_lib.existing(path, _NAME)
    numbers = [record.round for record in run.rounds() if record.failure is None]
    found = run.found()
    return numbers, found and found.round, run.load_round


def _of_tickets(given: Any) -> Found:
    given = (given,) if isinstance(given, Ticket) else given
    tickets = [t if isinstance(t, Ticket) else load_ticket(t) for t in given]
    numbers = sorted(t.round for t in tickets)
    if len({*numbers}) < len(numbers):
        raise ValueError(
            f"`{_NAME}` must have one ticket per round. Received those of the rounds "
            f"{', '.join(map(str, numbers))}."
        )
    found = {
        t.round: t for t in tickets if not (t.rounds and t.rounds[t.round].failure)
    }
    sparsest = max(found, key=lambda number: found[number].sparsity, default=None)
    return sorted(found), sparsest, found.__getitem__


def _fitting(ticket: Ticket, ours: Weights, base: Ticket | None = None) -> Ticket:
    """Returns the ticket with the model's paths; it must be of the search of `base`."""
    try:
        names = paths.align(ticket.trained, ours)
    except ValueError as error:
        raise ValueError(f"Round {ticket.round} of `{_NAME}`: {error}") from error
    ticket = run_dir_lib.with_paths(ticket, names)
    if base is None:
        return ticket
    for path, w in ticket.initial.items():
        both = base.masks.get(path, True) & ticket.masks.get(path, True)
        if np.any((w != base.initial[path]) & both):
            raise ValueError(
                f"`{_NAME}` must be of one search, but the rounds {base.round} and "
                f"{ticket.round} began with other weights {path!r}."
            )
    return ticket
