"""Experiment: runs a design's searches and cells; finished parts are skipped.

RUN_DIR/
  experiment.json         the design
  log.txt                 a line for each finished part
  searches/seed0/         the run directory of each search
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
from collections.abc import Callable, Sequence
from typing import Any

from tflottery import load_ticket
from tflottery.core import files, masks
from tflottery.core.checks import whole
from tflottery.core.records import library_versions
from tflottery.lab.data import datasets
from tflottery.lab.experiment.designs import Design, Search, Trial
from tflottery.lab.experiment.executors import EXECUTORS, Executor, local
from tflottery.lab.experiment.progress import Progress
from tflottery.lab.models import unknown

_VERSIONS = ("tflottery", "keras", "tensorflow", "jax", "numpy")


def run(
    design: Design,
    *,
    run_dir: Any,
    seeds: int | None = None,
    data_dir: Any = None,
    executor: str | Executor = "local",
    verbose: str | int = "auto",
    command: str | None = None,
) -> Any:
    """Runs a published comparison or a design of your own, or resumes it.

    A second call with the same `run_dir` resumes; with more seeds, it adds them.
    An interruption loses at most the current round of a search or the current cell.

    Args:
        design: The experiment; see `designs.design`.
        run_dir: Folder for everything that the experiment makes.
        seeds: Number of seeds, at least 1; `None` is the design's own.
        data_dir: Where the datasets are; see `datasets.load`.
        executor: `"local"`, `"ray"` or a function; see `executors`.
        verbose: 0 shows nothing; `"auto"` bars in a terminal and lines elsewhere; 2
            lines.
        command: The command to record in the results; `None` is this program's.

    Returns:
        The path of `results.json` in `run_dir`.

    Raises:
        ValueError: If an argument is out of range, or `run_dir` holds another
            experiment.
    """
    count = whole("seeds", design.seeds if seeds is None else seeds, at_least=1)
    if isinstance(executor, str):
        if executor not in EXECUTORS:
            raise ValueError(unknown("executor", executor, EXECUTORS))
        executor = EXECUTORS[executor]
    folder = _absolute(run_dir)
    _open(folder, design)
    worker = _Worker(design, data_dir and _absolute(data_dir), folder)
    searches = [part for seed in range(count) for part in design.searches(seed)]
    cells = [trial for seed in range(count) for trial in design.trials(seed)]
    rounds_done = {part.name: worker.rounds_done(part) for part in searches}
    results = _Results(folder, design, count, command)
    progress = Progress(
        verbose,
        folder / "log.txt",
        total={"rounds": sum(p.prunings + 1 for p in searches), "cells": len(cells)},
        done={"rounds": sum(rounds_done.values()), "cells": results.count(cells)},
    )

    def add_round(name: str) -> None:
        progress.add("rounds", name)

    if executor is local:
        worker = dataclasses.replace(worker, on_round=add_round)
    try:
        with progress.shown():
            left = [part for part in searches if not worker.has_searched(part)]
            for part in executor(worker.search, left):
                if executor is not local:
                    for _ in range(part.prunings + 1 - rounds_done[part.name]):
                        add_round(part.name)
            if left:
                results.compare_masks()
            left = [t for t in cells if not _result_path(folder, t).exists()]
            for trial in executor(worker.train, left):
                row = results.add(trial)
                progress.add(
                    "cells",
                    f"seed {trial.seed}, {100 * row['density']:.2f} % left, "
                    f"{trial.arm} ({trial.weights}), {trial.regime}, {trial.head} "
                    f"head: {row['failure'] or format(row['metric'], '.4f')}",
                )
    except KeyboardInterrupt:
        progress.say(f"Stopped. Run the same command to resume: {folder}")
        raise
    finally:
        _CACHE.clear()
    return results.path


# The datasets and networks of this process, for its next cell.
_CACHE: dict[Any, Any] = {}


def _cached(key: Any, make: Callable[[], Any]) -> Any:
    if key not in _CACHE:
        _CACHE[key] = make()
    return _CACHE[key]


@dataclasses.dataclass(frozen=True)
class _Worker:
    """Runs one part of a design in any process, and writes the result to `folder`."""

    design: Design
    data_dir: Any
    folder: Any
    on_round: Callable[[str], None] = lambda name: None

    def has_searched(self, part: Search) -> bool:
        """Returns whether a search is finished."""
        return (self.folder / "searches" / part.name / "ticket.safetensors").exists()

    def rounds_done(self, part: Search) -> int:
        """Returns how many rounds of a search are finished."""
        rounds = self.folder / "searches" / part.name / "rounds"
        numbers = range(part.prunings + 1)
        return sum((rounds / f"{i:03d}.json").exists() for i in numbers)

    def search(self, part: Search) -> Search:
        """Runs one search."""
        from tflottery.lab.experiment import bench

        bench.search(
            self.design,
            self._images("source"),
            part.seed,
            prunings=part.prunings,
            sparsity=part.sparsity,
            run_dir=self.folder / "searches" / part.name,
            on_round=lambda: self.on_round(part.name),
        )
        return part

    def train(self, trial: Trial) -> Trial:
        """Trains one cell."""
        design = self.design
        row: dict[str, Any] = {"experiment": design.name}
        path = self.folder / "searches" / design.ticket(trial.seed, trial.round)
        if path.exists():
            ticket = load_ticket(path)
            row |= self._bench(trial, ticket).train(trial, ticket)
        else:  # Training diverged in an earlier round.
            density = design.density(trial.round)
            row |= dataclasses.asdict(trial) | {"density": density, "metric": None}
            row["failure"] = "the search ended before this round"
        path = _result_path(self.folder, trial)
        files.make_folder(path.parent)
        files.write_json(path, row)
        return trial

    def _bench(self, trial: Trial, ticket: Any) -> Any:
        from tflottery.lab.experiment import bench

        design = self.design
        return _cached(
            (self.folder, trial.regime, trial.head),
            lambda: bench.Bench(
                design,
                self._images("source").num_classes,
                self._images("source" if design.target is None else "target"),
                regime=trial.regime,
                head=trial.head,
                ticket=ticket,
            ),
        )

    def _images(self, task: str) -> datasets.Images:
        recipe: Any = getattr(self.design, task)
        classes = getattr(self.design, f"{task}_classes")
        return _cached(
            (self.folder, task),
            lambda: (
                datasets.load(recipe.dataset, data_dir=self.data_dir)
                .of_classes(classes)
                .limited(self.design.images)
            ),
        )


def _absolute(path: Any) -> Any:
    """Returns a path that holds in a process with another working directory."""
    path = files.path_of(path)
    return path.absolute() if isinstance(path, pathlib.Path) else path


def _result_path(folder: Any, trial: Trial) -> Any:
    return folder / "cells" / trial.name / "result.json"


def _open(folder: Any, design: Design) -> None:
    """Makes the folder, or checks that it belongs to this design."""
    files.make_folder(folder)
    path, plain = folder / "experiment.json", plain_design(design)
    if path.exists():
        there = files.read_json(path)
        # The prose of `shows` may change without making it another experiment.
        names = {**there, **plain}.keys() - {"shows"}
        different = [k for k in names if there.get(k) != plain.get(k)]
        if different:
            raise ValueError(
                f"`run_dir` holds another experiment: its {', '.join(different)} "
                f"differ. Choose another folder. Received: run_dir={str(folder)!r}"
            )
    else:
        files.write_json(path, plain)


def plain_design(design: Design) -> dict[str, Any]:
    """Returns a design as JSON holds it, without `seeds`, which may change."""
    plain = json.dumps(dataclasses.asdict(design), default=_plain)
    return json.loads(plain) | {"seeds": None}


def _plain(value: Any) -> Any:
    return getattr(value, "__name__", None) or repr(value)


class _Results:
    """Keeps `results.json`, which is written after every cell.

    It includes seeds beyond `seeds` that an earlier call finished.
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
        versions = library_versions(_VERSIONS)
        self._header = {
            "experiment": design.name,
            "shows": design.shows,
            "command": command or shlex.join(sys.argv),
            "versions": {"python": platform.python_version(), **versions},
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
        """Compares the masks of all finished searches, and writes the file."""
        overlap = _mask_overlap(self._folder, self._design, self._seeds)
        self._header["mask_overlap"] = overlap
        self._write()

    def add(self, trial: Trial) -> dict[str, Any]:
        """Adds a finished cell, writes the file, and returns the cell's row."""
        row = files.read_json(_result_path(self._folder, trial))
        self._rows[trial] = row
        self._write()
        return row

    def _write(self) -> None:
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
            (seed, load_ticket(path))
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
