"""Experiment: a design's searches and cells, run and kept; what is finished is skipped.

RUN_DIR/
  experiment.json         the design
  log.txt                 a line for each part done
  searches/seed0/         the run directory of each search, see `tflottery.runs`
  cells/seed0/round03-ticket-trained-fine_tuned-linear/result.json
  results.json            all cells, and how they were made
"""

import dataclasses
import itertools
import json
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from tflottery import ticket as ticket_lib
from tflottery.core import files, masks
from tflottery.core.checks import is_whole
from tflottery.core.records import library_versions
from tflottery.lab.data import datasets
from tflottery.lab.experiment.designs import Design, Trial
from tflottery.lab.experiment.designs import design as find_design
from tflottery.lab.experiment.executors import EXECUTORS, Executor, local
from tflottery.lab.models import unknown
from tflottery.lab.report.board import Board
from tflottery.search import run_dir as run_dir_lib

_VERSIONS = ("tflottery", "keras", "tensorflow", "jax", "numpy")


def reproduce(
    name: str,
    *,
    preset: str = "cpu",
    seeds: int | None = None,
    data_dir: Any = None,
    run_dir: Any = None,
    executor: str | Executor = "local",
    verbose: str | int = "auto",
    command: str | None = None,
) -> Any:
    """Runs a published comparison, or what is left of it.

    Called again with the same `run_dir` it goes on where it stopped; with more seeds,
    it adds them. A stop loses at most the round of a search or the cell under way.

    Args:
        name: a name of `designs.DESIGNS`.
        preset: `"smoke"` (minutes, on data that comes with the installation), `"cpu"`
            or `"paper"`.
        seeds: how many seeds, at least 1: 0 and up. `None` is the design's own number.
        data_dir: where the datasets are; see `datasets.load`.
        run_dir: where everything is kept; `None` is `runs/NAME-PRESET`.
        executor: `"local"`, `"ray"`, or a function; see `executors`.
        verbose: `"auto"` shows a table in a terminal and lines elsewhere; 0 nothing; 2
            lines.
        command: what to record as the command that made the results; `None` records
            this program's own.

    Returns:
        The path of `results.json` in `run_dir`.

    Raises:
        ValueError: for a name, a preset or a number that there is not, and where
            `run_dir` holds another experiment.
    """
    design = find_design(name, preset)
    return run(
        design,
        seeds=seeds,
        data_dir=data_dir,
        run_dir=f"runs/{name}-{preset}" if run_dir is None else run_dir,
        executor=executor,
        verbose=verbose,
        command=command,
    )


def run(
    design: Design,
    *,
    seeds: int | None = None,
    data_dir: Any = None,
    run_dir: Any,
    executor: str | Executor = "local",
    verbose: str | int = "auto",
    command: str | None = None,
) -> Any:
    """Runs a design of your own; arguments and result are those of `reproduce`."""
    count = design.seeds if seeds is None else seeds
    if not is_whole(count) or count < 1:
        raise ValueError(
            f"`seeds` must be a whole number of at least 1. Received: seeds={seeds!r}"
        )
    if isinstance(executor, str):
        if executor not in EXECUTORS:
            raise ValueError(unknown("executor", executor, EXECUTORS))
        executor = EXECUTORS[executor]
    folder = _absolute(run_dir)
    data_dir = data_dir and _absolute(data_dir)
    _open(folder, design)
    lines = _Log(folder / "log.txt")
    board = Board(verbose, lines.add)
    worker = _Worker(design, data_dir, folder)
    searches = [part for seed in range(count) for part in _searches(design, seed)]
    cells = [trial for seed in range(count) for trial in design.trials(seed)]
    left = [part for part in searches if not _searched(folder, part)]
    if executor is local:
        worker = dataclasses.replace(worker, board=board)
    rounds_done = {part.name: _rounds_done(folder, part) for part in searches}
    results = _Results(folder, design, count, command)
    done = {"rounds": sum(rounds_done.values()), "cells": results.count(cells)}
    total = {"rounds": sum(p.prunings + 1 for p in searches), "cells": len(cells)}
    board.start(total, done)
    try:
        with board.shown():
            for part in executor(worker, left):
                if worker.board is None:
                    for _ in range(part.prunings + 1 - rounds_done[part.name]):
                        board.add("rounds", part.name)
            if left:
                results.compare_masks()
            left = [t for t in cells if not _result_path(folder, t).exists()]
            for trial in executor(worker, left):
                row = results.add(trial)
                board.add(
                    "cells",
                    f"seed {trial.seed}, {100 * row['density']:.2f} % left, "
                    f"{trial.arm} ({trial.weights}), {trial.regime}, {trial.head} "
                    f"head: {row['failure'] or format(row['metric'], '.4f')}",
                )
    except KeyboardInterrupt:
        board.say(f"Stopped. The same command goes on from here: {folder}")
        raise
    finally:
        _BENCHES.clear()
    return results.path


@dataclasses.dataclass(frozen=True)
class _Search:
    """One search of a design: a part to run before the cells."""

    seed: int
    name: str
    prunings: int
    sparsity: float


def _searches(design: Design, seed: int) -> list[_Search]:
    return [_Search(seed, *search) for search in design.searches(seed)]


# Of this process: the dataset and the networks that its next cell may use again.
_BENCHES: dict[Any, Any] = {}


@dataclasses.dataclass(frozen=True)
class _Worker:
    """Runs one part of a design, in whatever process, and keeps it in `folder`."""

    design: Design
    data_dir: Any
    folder: Any
    board: Board | None = None

    def __call__(self, part: Any) -> Any:
        if isinstance(part, _Search):
            self._search(part)
        else:
            self._train(part)
        return part

    def _search(self, part: _Search) -> None:
        from tflottery.lab.experiment import bench

        board = self.board
        bench.search(
            self.design,
            self._images("source"),
            part.seed,
            prunings=part.prunings,
            sparsity=part.sparsity,
            run_dir=self.folder / "searches" / part.name,
            on_round=board and (lambda: board.add("rounds", part.name)),
        )

    def _train(self, trial: Trial) -> None:
        from tflottery.lab.experiment import bench

        design = self.design
        row: dict[str, Any] = {"experiment": design.name}
        path = self.folder / "searches" / design.ticket(trial.seed, trial.round)
        if not path.exists():
            # Training diverged in an earlier round.
            density = design.density(trial.round)
            row |= dataclasses.asdict(trial) | {"density": density, "metric": None}
            self._keep(trial, row | {"failure": "the search ended before this round"})
            return
        ticket = ticket_lib.load_ticket(path)
        key = (str(self.folder), trial.regime, trial.head)
        if key not in _BENCHES:
            _BENCHES[key] = bench.Bench(
                design,
                len(design.source_classes or ()) or self._images("source").num_classes,
                self._images("source" if design.target is None else "target"),
                regime=trial.regime,
                head=trial.head,
                ticket=ticket,
            )
        self._keep(trial, row | _BENCHES[key].train(trial, ticket))

    def _keep(self, trial: Trial, row: dict[str, Any]) -> None:
        path = _result_path(self.folder, trial)
        files.make_folder(path.parent)
        files.write_json(path, row)

    def _images(self, task: str) -> datasets.Images:
        from tflottery.lab.experiment import bench

        design = self.design
        recipe = design.source if task == "source" else design.target
        assert recipe is not None
        key = (str(self.folder), task)
        if key not in _BENCHES:
            images = datasets.load(recipe.dataset, data_dir=self.data_dir)
            images = bench.with_classes(images, getattr(design, f"{task}_classes"))
            _BENCHES[key] = bench.limited(images, design.images)
        return _BENCHES[key]


def _absolute(path: Any) -> Any:
    """Returns a path that is the same from every process's own folder."""
    path = files.path_of(path)
    return path.absolute() if isinstance(path, pathlib.Path) else path


def _result_path(folder: Any, trial: Trial) -> Any:
    return folder / "cells" / trial.name / "result.json"


def _searched(folder: Any, part: _Search) -> bool:
    return (folder / "searches" / part.name / "ticket.safetensors").exists()


def _rounds_done(folder: Any, part: _Search) -> int:
    rounds = folder / "searches" / part.name / "rounds"
    return sum((rounds / f"{i:03d}.json").exists() for i in range(part.prunings + 1))


def _open(folder: Any, design: Design) -> None:
    """Makes the folder, or checks that it is this design's."""
    files.make_folder(folder)
    path, plain = folder / "experiment.json", plain_design(design)
    if path.exists():
        there = files.read_json(path)
        different = [k for k in {**there, **plain} if there.get(k) != plain.get(k)]
        if different:
            raise run_dir_lib.RunError(
                f"`run_dir` {str(folder)!r} holds another experiment: its "
                f"{', '.join(different)} differ. Choose another folder."
            )
    else:
        files.write_json(path, plain)


def plain_design(design: Design) -> dict[str, Any]:
    """Returns a design as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(design), default=_plain)) | {
        # Not what a folder depends on: seeds can be added.
        "seeds": None
    }


def _plain(value: Any) -> Any:
    return getattr(value, "__name__", None) or repr(value)


class _Results:
    """Keeps `results.json`, written anew after every cell: what there is so far.

    Seeds beyond `seeds` that an earlier call finished stay in it.
    """

    def __init__(self, folder: Any, design: Design, seeds: int, command: str | None):
        self.path = folder / "results.json"
        self._folder = folder
        self._design = design
        self._seeds = list(range(seeds))
        for seed in itertools.count(seeds):
            if not all(map(self._done, design.trials(seed))):
                break
            self._seeds.append(seed)
        trials = [trial for seed in self._seeds for trial in design.trials(seed)]
        self._rows: dict[Trial, Any] = dict.fromkeys(trials)
        for trial in filter(self._done, trials):
            self._rows[trial] = files.read_json(_result_path(folder, trial))
        self._header = {
            "experiment": design.name,
            "shows": design.shows,
            "command": command or shlex.join(sys.argv),
            "versions": {
                "python": platform.python_version(),
                **library_versions(_VERSIONS),
            },
            "backend": _backend(),
            "preset": design.preset,
            "seeds": self._seeds,
            "finished": False,
            "recipe": plain_design(design),
            "mask_overlap": [],
        }
        self.compare_masks()

    def count(self, trials: Sequence[Trial]) -> int:
        """Returns how many of the trials are finished."""
        return sum(self._rows[trial] is not None for trial in trials)

    def compare_masks(self) -> None:
        """Compares the masks of the searches that are there."""
        overlap = _mask_overlap(self._folder, self._design, self._seeds)
        self._header["mask_overlap"] = overlap
        self.write()

    def add(self, trial: Trial) -> dict[str, Any]:
        """Takes up a cell that has ended, and returns its row."""
        row = files.read_json(_result_path(self._folder, trial))
        self._rows[trial] = row
        self.write()
        return row

    def write(self) -> None:
        rows = [row for row in self._rows.values() if row is not None]
        header = self._header | {"finished": len(rows) == len(self._rows)}
        files.write_json(self.path, {"header": header, "rows": rows})

    def _done(self, trial: Trial) -> bool:
        return _result_path(self._folder, trial).exists()


def _mask_overlap(folder: Any, design: Design, seeds: Sequence[int]) -> list[list[Any]]:
    """Returns the Jaccard index of the masks of each two seeds, round by round."""
    overlaps = []
    for number in design.rounds:
        found = [
            (seed, ticket_lib.load_ticket(path))
            for seed in seeds
            if (path := folder / "searches" / design.ticket(seed, number)).exists()
        ]
        overlaps += [
            [a, b, one.density, masks.overlap(one.masks, other.masks)]
            for (a, one), (b, other) in itertools.combinations(found, 2)
        ]
    return overlaps


def _backend() -> str:
    import keras

    return keras.backend.backend()


class _Log:
    """Adds lines to a text file, each with its time."""

    def __init__(self, path: Any):
        self.path = path

    def add(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
