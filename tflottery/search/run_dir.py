"""Run directory: everything a search needs to resume. All its paths are made here.

RUN_DIR/
  run.json                what is searched: config, architecture, data, versions
  start.safetensors       θ0: all state before the first step
  rewind.safetensors      all state at step k
  current.safetensors     all state after the last finished epoch, with the masks
  rounds/003.ticket       each finished round, as a ticket
  rounds/003.json         its record, with the times
  ticket.safetensors      the ticket that the search found
  lock                    who is using the folder; see `locks`
"""

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tflottery import ticket as ticket_lib
from tflottery.core import checks, files
from tflottery.search import locks
from tflottery.ticket import Round, Ticket

RESUME = checks.one_of(("auto", "never"))
_OF_PATHS = ("weights/", "masks/", "drawn/")  # Prefixes of the arrays named by a path.
_STATES = r"run\.json|(start|rewind|current|ticket)\.safetensors"
_ROUND = r"(\d{3,})\.(json|ticket)"
_WHOLE = "Restore the right file from a copy, or choose another `run_dir`."


class RunError(ValueError):
    """The run directory is another search's, or a file needed to resume is missing."""


class Run:
    """A run directory.

    Args:
        path: A folder, or a URL such as `gs://bucket/run`.
        manifest: Plain data that identifies the search. Its `"paths"` lists the paths
            of all weights, in order; the numbers in Keras' names may differ.
        writes: Whether to write. Among several workers only the chief does.

    Raises:
        RunError: If `path` holds another search, with a list of the differences, or if
            its `run.json` is missing.
    """

    def __init__(self, path: Any, manifest: Mapping[str, Any], *, writes: bool = True):
        self.path, self.writes = files.path_of(path), writes
        plain = json.loads(json.dumps(manifest))
        self._here: dict[str, str] = {}
        if is_run(self.path):
            if not (self.path / "run.json").exists():
                raise self.lacks("run.json", "what was searched")
            there = files.read_json(self.path / "run.json")
            _check_same(self.path, there, plain)
            self._here = dict(
                zip(there.get("paths", ()), plain.get("paths", ()), strict=False)
            )
        elif writes:
            files.make_folder(self.path)
            files.write_json(self.path / "run.json", plain)
        if writes:
            files.make_folder(self.path / "rounds")

    def save(self, name: str, state: Mapping[str, np.ndarray], header: Any) -> None:
        """Writes the state `"start"`, `"rewind"` or `"current"` with its header."""
        if self.writes:
            state = _renamed(state, self._there, _OF_PATHS)
            files.write_arrays(self.path / f"{name}.safetensors", state, header)

    def load(
        self, name: str, wanted: Mapping[str, tuple[tuple[int, ...], str]] | None = None
    ) -> tuple[dict[str, np.ndarray], Any] | None:
        """Returns the state and header that `save` wrote, or `None`.

        Raises:
            RunError: If an array is missing, or not of the `wanted` shape and
                `dtype.kind`. Names the first such.
        """
        if not self._has(name):
            return None
        state, header = files.read_arrays(self.path / f"{name}.safetensors")
        state = _renamed(state, self._here, _OF_PATHS)
        for array, (shape, kind) in (wanted or {}).items():
            if array not in state:
                raise self.unfit(name, f"It lacks the array {array!r}.")
            found = state[array]
            if (found.shape, found.dtype.kind) != (shape, kind):
                raise self.unfit(
                    name,
                    f"Its array {array!r} is {found.dtype} of shape {found.shape}, "
                    f"where the shape {shape} and the kind {kind!r} are needed.",
                )
        return state, header

    def save_round(self, ticket: Ticket) -> None:
        """Writes a finished round: its ticket, then the record that completes it."""
        if self.writes:
            ticket = with_paths(ticket, self._there)
            ticket.save(self._of_round(ticket.round, "ticket"))
            record = dataclasses.asdict(ticket.rounds[ticket.round])
            files.write_json(self._of_round(ticket.round, "json"), record)

    def rounds(self) -> list[Round]:
        """Returns the records of the finished rounds, in order.

        Raises:
            FileError: If a record is damaged.
            RunError: If a record or a ticket is missing.
        """
        found: list[Round] = []
        numbers = _numbers(self.path)
        for number in range(max(numbers, default=-1) + 1):
            path = self._of_round(number, "json")
            if not path.exists():
                if number == max(numbers):
                    break  # Only its ticket, which comes first, was written.
                raise self.lacks(f"rounds/{path.name}", "the record of a round")
            try:
                record = _of_paths(Round.read(files.read_json(path)), self._here)
            except (TypeError, ValueError) as error:
                raise files.FileError(
                    f"{path} is not the record of a round. {error}"
                ) from error
            if record.round != len(found):
                raise files.FileError(
                    f"{path} is the record of round {record.round}. {_WHOLE}"
                )
            ticket = self._of_round(number, "ticket")
            if not ticket.exists():
                raise self.lacks(f"rounds/{ticket.name}", "the ticket of a round")
            found.append(record)
        return found

    def load_round(self, number: int) -> Ticket:
        """Returns the ticket of a finished round.

        Raises:
            FileError: If it is damaged, or belongs to another round.
        """
        path = self._of_round(number, "ticket")
        ticket = ticket_lib.load_ticket(path)
        if ticket.round != number:
            raise files.FileError(
                f"{path} is the ticket of round {ticket.round}. {_WHOLE}"
            )
        return with_paths(ticket, self._here)

    def found(self) -> Ticket | None:
        """Returns the ticket that the search found, or `None` if it goes on."""
        if not self._has("ticket"):
            return None
        ticket = ticket_lib.load_ticket(self.path / "ticket.safetensors")
        return with_paths(ticket, self._here)

    def check_whole(
        self, current: Mapping[str, Any] | None, *, rewinds: bool
    ) -> list[Round]:
        """Checks that everything a search needs to resume is there.

        Args:
            current: The header of the state `"current"`, or `None`.
            rewinds: Whether rounds start from the state `"rewind"`.

        Returns:
            The records of the finished rounds.
        """
        finished = self.rounds()
        records = len(finished)
        if current is None:
            if records or self._has("ticket"):
                raise self.lacks("current.safetensors", "the state to resume from")
            return finished
        if not self._has("start"):
            raise self.lacks("start.safetensors", "the weights it started with")
        if rewinds and current["rewound"] and not self._has("rewind"):
            raise self.lacks("rewind.safetensors", "the state to rewind to")
        if records < current["round"]:
            path = self._of_round(records, "json")
            raise self.lacks(f"rounds/{path.name}", "the record of a round")
        ahead = records > current["round"] + (current["record"] is not None)
        if ahead and not current.get("again"):
            raise RunError(
                f"`run_dir` {str(self.path)!r} mixes two states: its "
                f"current.safetensors is older than the finished round {records - 1}. "
                f"{_WHOLE}"
            )
        return finished

    def lacks(self, name: str, what: str) -> RunError:
        """Returns the error that the file `name`, which holds `what`, is missing."""
        return RunError(
            f"`run_dir` {str(self.path)!r} holds a search, but lacks {name}: {what}. "
            f"{_WHOLE}"
        )

    def unfit(self, name: str, why: str) -> RunError:
        """Returns the error that the state `name` does not fit this search."""
        return RunError(
            f"`run_dir` {str(self.path)!r} has an undamaged {name}.safetensors that "
            f"does not fit this search. {_WHOLE} {why}"
        )

    def finish(self, ticket: Ticket) -> None:
        """Writes the ticket that the search found."""
        if self.writes:
            ticket = with_paths(ticket, self._there)
            ticket.save(self.path / "ticket.safetensors")

    def _has(self, name: str) -> bool:
        return (self.path / f"{name}.safetensors").exists()

    def _of_round(self, number: int, kind: str) -> Any:
        return self.path / "rounds" / f"{number:03d}.{kind}"

    @property
    def _there(self) -> dict[str, str]:
        """The paths in the run's files, by the model's."""
        return {now: was for was, now in self._here.items()}


@contextlib.contextmanager
def opened(
    path: Any,
    manifest: Mapping[str, Any],
    *,
    resume: str = "auto",
    writes: bool = True,
) -> Iterator[Run | None]:
    """Opens a run directory for one search at a time.

    A finished search is only read, so it may be in a read-only place.

    Args:
        path, manifest, writes: As for `Run`.
        resume: `"auto"` resumes the run in `path`. `"never"` uses the first of `path`,
            `path-2`, `path-3`, ... that does not hold a run, and yields `None` to
            those workers that do not write.

    Raises:
        RunError, FileError: If `path` holds another search, or a damaged file.
        LockError: If another search is using it.
        OSError: If it is not writable.
    """
    if resume == "never" and not writes:
        yield None
        return
    first = files.path_of(path)
    ended = resume == "auto" and (first / "ticket.safetensors").exists()
    if not writes or ended:
        yield Run(first, manifest, writes=False)
        return
    for number in itertools.count(1):
        folder = first
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
            files.remove_scratch(folder, _STATES)
            files.remove_scratch(folder / "rounds", _ROUND)
            yield Run(folder, manifest)
            return


def existing(path: Any, name: str) -> Run:
    """Returns the run in the folder `path`, to read; errors call the argument `name`.

    Raises:
        TypeError, ValueError: If there is none, or `path` is not a path.
    """
    folder = files.path_of(path, name)
    if not (folder / "run.json").exists():
        raise RunError(
            f"`{name}` must be the run directory of a search, with its run.json. "
            f"Received: {name}={str(path)!r}, which "
            + ("holds none" if folder.exists() else "does not exist")
        )
    return Run(folder, files.read_json(folder / "run.json"), writes=False)


def is_run(folder: Any) -> bool:
    """Returns whether a folder holds a run, or part of one."""
    states = (f"{name}.safetensors" for name in ("start", "current", "ticket"))
    named = any((folder / name).exists() for name in ("run.json", *states))
    return named or bool(_numbers(folder))


def _numbers(folder: Any) -> list[int]:
    """Returns the numbers of the rounds that have a file."""
    rounds = folder / "rounds"
    names = [path.name for path in rounds.iterdir()] if rounds.exists() else []
    found = (re.fullmatch(_ROUND, name) for name in names)
    return [int(match[1]) for match in found if match]


def _renamed(
    values: Mapping, names: Mapping[str, str], prefixes: tuple[str, ...] = ("",)
) -> dict:
    """Returns `values` renamed by `names`; others keep their name."""
    names = {p + was: p + now for was, now in names.items() for p in prefixes}
    return {names.get(name, name): value for name, value in values.items()}


def _of_paths(record: Round, names: Mapping[str, str]) -> Round:
    density = _renamed(record.density_per_layer, names)
    return dataclasses.replace(record, density_per_layer=density)


def with_paths(ticket: Ticket, names: Mapping[str, str]) -> Ticket:
    """Returns the ticket with its paths renamed by `names`."""
    if all(was == now for was, now in names.items()):
        return ticket
    parts = ("masks", *ticket_lib.WEIGHTS)
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
            "call with the values it was made with:\n" + "\n".join(differences)
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
    lists = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    if lists and any(isinstance(each, dict) for each in (*old, *new)):
        return [  # Too long to show in a line.
            difference
            for index, (was, now) in enumerate(zip(old, new, strict=True))
            for difference in _compare(f"{name}.{index}", was, now)
        ]
    return [] if old == new else [(name, old, new)]
