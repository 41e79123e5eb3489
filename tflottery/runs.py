"""Runs: the run directory, which is a search's memory; every path in it is made here.

RUN_DIR/
  run.json                what is searched: config, architecture, data, versions
  start.safetensors       θ0: all state before the first step
  rewind.safetensors      all state at step k
  current.safetensors     all state after the last finished epoch
  rounds/003.ticket       each finished round, itself a ticket
  rounds/003.json         its record, times included
  ticket.safetensors      the ticket that the search came to
  lock                    who is at it now; see `locks`
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tflottery import files, locks, tickets
from tflottery.tickets import Round, Ticket

RESUME = ("auto", "never")


class RunError(ValueError):
    """A run directory that does not belong to the search that was asked for."""


class Run:
    """A run directory, or with `path=None` nothing: then nothing is kept.

    Args:
        path: a folder, a URL such as `gs://bucket/run`, or `None`.
        manifest: plain data that tells one search from another; `"paths"` in it lists
            the paths of all weights, in order, which may differ in Keras' numbers.
        writes: whether to write; of several workers only the chief does.

    Raises:
        RunError: where `path` holds a run of another search; it lists what differs.
    """

    def __init__(self, path: Any, manifest: Mapping[str, Any], *, writes: bool = True):
        self.path = None if path is None else files.path_of(path)
        self.writes = writes and path is not None
        if self.path is None:
            return
        if writes:
            files.make_folder(self.path / "rounds")
        plain = json.loads(json.dumps(manifest))
        self._here: dict[str, str] = {}
        if is_run(self.path):
            there = files.read_json(self.path / "run.json")
            _check_same(self.path, there, plain)
            self._here = dict(
                zip(there.get("paths", ()), plain.get("paths", ()), strict=False)
            )
        elif writes:
            files.write_json(self.path / "run.json", plain)

    def save(self, name: str, state: Mapping[str, np.ndarray], header: Any) -> None:
        """Writes a state, `"start"`, `"rewind"` or `"current"`, with its header."""
        if self.path is not None and self.writes:
            state = _renamed(state, self._there, "weights/")
            files.write_arrays(self.path / f"{name}.safetensors", state, header)

    def load(self, name: str) -> tuple[dict[str, np.ndarray], Any] | None:
        """Returns the state and header that `save` wrote, or `None`."""
        if self.path is None or not (self.path / f"{name}.safetensors").exists():
            return None
        state, header = files.read_arrays(self.path / f"{name}.safetensors")
        return _renamed(state, self._here, "weights/"), header

    def save_round(self, ticket: Ticket) -> None:
        """Writes a finished round: its ticket first, then the record that ends it."""
        if self.path is not None and self.writes:
            name = f"{ticket.round:03d}"
            ticket = _with_paths(ticket, self._there)
            ticket.save(self.path / "rounds" / f"{name}.ticket")
            record = dataclasses.asdict(ticket.rounds[-1])
            files.write_json(self.path / "rounds" / f"{name}.json", record)

    def rounds(self) -> list[Round]:
        """Returns the records of the finished rounds, in order, without a gap.

        Raises:
            FileError: naming the record that is damaged.
        """
        found: list[Round] = []
        while self.path is not None:
            path = self.path / "rounds" / f"{len(found):03d}.json"
            if not path.exists():
                break
            try:
                record = _of_paths(Round(**files.read_json(path)), self._here)
            except (TypeError, ValueError) as error:
                raise files.FileError(
                    f"{path} is not the record of a round. {error}"
                ) from error
            if record.round != len(found):
                raise files.FileError(f"{path} is the record of round {record.round}.")
            found.append(record)
        return found

    def load_round(self, number: int) -> Ticket:
        """Returns the ticket of a finished round."""
        assert self.path is not None
        ticket = tickets.load_ticket(self.path / "rounds" / f"{number:03d}.ticket")
        return _with_paths(ticket, self._here)

    def finish(self, ticket: Ticket) -> None:
        """Writes the ticket that the search came to."""
        if self.path is not None and self.writes:
            ticket = _with_paths(ticket, self._there)
            ticket.save(self.path / "ticket.safetensors")

    @property
    def _there(self) -> dict[str, str]:
        """The paths in the run's files by those of the model."""
        return {now: was for was, now in self._here.items()}


@contextlib.contextmanager
def opened(
    path: Any,
    manifest: Mapping[str, Any],
    *,
    resume: str = "auto",
    writes: bool = True,
) -> Iterator[Run]:
    """Opens a run directory for a search, which has it to itself.

    Args:
        path: as for `Run`.
        manifest: as for `Run`.
        resume: `"auto"` goes on with the run that is there; `"never"` takes the first
            of `path`, `path-2`, `path-3`, ... that holds none.
        writes: as for `Run`.

    Raises:
        RunError: where `path` holds a run of another search, or files of some other
            kind under the names of a run's.
        LockError: where another search is using it.
    """
    if path is None or (resume == "never" and not writes):
        yield Run(None, manifest)
        return
    if not writes:
        yield Run(path, manifest, writes=False)
        return
    for number in itertools.count(1):
        folder = files.path_of(path)
        if resume == "never" and number > 1:
            folder = folder.parent / f"{folder.name}-{number}"
        if resume == "never" and is_run(folder):
            continue
        files.make_folder(folder)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locks.held(folder))
            except locks.LockError:
                if resume == "never":
                    continue
                raise
            if resume == "never" and is_run(folder):
                continue
            yield Run(folder, manifest)
            return


def is_run(folder: Any) -> bool:
    """Returns whether a folder holds a run."""
    return (folder / "run.json").exists()


def _renamed(values: Mapping, names: Mapping[str, str], prefix: str = "") -> dict:
    """Returns `values` under other names, where `names` has one."""
    names = {prefix + was: prefix + now for was, now in names.items()}
    return {names.get(name, name): value for name, value in values.items()}


def _of_paths(record: Round, names: Mapping[str, str]) -> Round:
    density = _renamed(record.density_per_layer, names)
    return dataclasses.replace(record, density_per_layer=density)


def _with_paths(ticket: Ticket, names: Mapping[str, str]) -> Ticket:
    """Returns the ticket with other paths, where `names` has any."""
    if all(was == now for was, now in names.items()):
        return ticket
    parts = ("masks", *tickets.WEIGHTS)
    return dataclasses.replace(
        ticket,
        **{part: _renamed(getattr(ticket, part), names) for part in parts},
        rounds=tuple(_of_paths(record, names) for record in ticket.rounds),
    )


def _check_same(path: Any, old: Any, new: Any) -> None:
    differences = [
        f"  {name}: {was!r} there, {now!r} now"
        for name, was, now in _compare("", old, new)
        if name != "paths"
    ]
    if differences:
        raise RunError(
            f"`run_dir` {str(path)!r} holds another search. Choose another folder, or "
            "call with what it was made with:\n" + "\n".join(differences)
        )


def _compare(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in {**old, **new}
            for difference in _compare(
                f"{name}.{key}".lstrip("."), old.get(key), new.get(key)
            )
        ]
    return [] if old == new else [(name, old, new)]
