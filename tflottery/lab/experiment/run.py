"""Experiment: runs a design's searches and cells; finished parts are skipped.

RUN_DIR/
  experiment.json         the design
  log.txt                 a line for each finished part
  searches/seed0/         the run directory of each search
  cells/seed0/round03-ticket-trained-fine_tuned-linear/result.json
  results.json            all cells, and how they were made
"""

import dataclasses
import functools
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
from tflottery.lab.experiment.design import Design, Search, Trial
from tflottery.lab.experiment.executors import (
    EXECUTORS,
    Executor,
    check_stacked,
    local,
)
from tflottery.lab.experiment.progress import Progress
from tflottery.lab.models import unknown
from tflottery.lab.training import Recipe

_VERSIONS = ("tflottery", "keras", "tensorflow", "jax", "numpy")


def run(
    design: Design,
    *,
    run_dir: Any,
    seeds: int | None = None,
    data_dir: Any = None,
    executor: str | Executor | None = None,
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
        executor: `"local"`, `"ray"`, `"stacked"` or a function; see `executors` and
            `stacked`. `None` is `"stacked"` for the preset "gpu", else `"local"`.
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
    executor = executor or ("stacked" if design.preset == "gpu" else "local")
    if executor == "stacked":
        check_stacked(design)
    elif isinstance(executor, str):
        if executor not in EXECUTORS:
            raise ValueError(unknown("executor", executor, (*EXECUTORS, "stacked")))
        executor = EXECUTORS[executor]
    folder = _absolute(run_dir)
    _open(folder, design)
    worker = Worker(design, data_dir and _absolute(data_dir), folder)
    # A cluster searches with all seeds at once; one process finishes seed by seed.
    every = list(range(count))
    groups = [[seed] for seed in every] if executor is local else [every]
    searches = [part for seed in every for part in design.searches(seed)]
    cells = [trial for seed in every for trial in design.trials(seed)]
    rounds_done = {part.name: worker.rounds_done(part) for part in searches}
    results = _Results(folder, design, count, command)
    progress = Progress(
        verbose,
        folder / "log.txt",
        total={"rounds": sum(p.prunings + 1 for p in searches), "cells": len(cells)},
        done={"rounds": sum(rounds_done.values()), "cells": results.count(cells)},
    )
    add_round = functools.partial(progress.add, "rounds")
    here = executor in (local, "stacked")
    if here:
        worker = dataclasses.replace(worker, on_round=add_round)
    if executor == "stacked":
        from tflottery.lab.experiment import stacked

        search = functools.partial(stacked.search, worker)
        train = functools.partial(stacked.train, worker)
    else:
        search = functools.partial(executor, worker.search)
        train = functools.partial(executor, worker.train)
    try:
        with progress.bars:
            for group in groups:
                left = [
                    part
                    for part in searches
                    if part.seed in group
                    and not (
                        folder / "searches" / part.name / "ticket.safetensors"
                    ).exists()
                ]
                for part in search(left):
                    if not here:
                        for _ in range(part.prunings + 1 - rounds_done[part.name]):
                            add_round(part.name)
                if left:
                    results.compare_masks()
                left = [
                    trial
                    for trial in cells
                    if trial.seed in group and not _result_path(folder, trial).exists()
                ]
                for trial in train(left):
                    row = results.add(trial)
                    where = f"{trial.target}, " if len(design.targets) > 1 else ""
                    progress.add(
                        "cells",
                        f"seed {trial.seed}, {where}{100 * row['density']:.2f} % left, "
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


@dataclasses.dataclass(frozen=True)
class Worker:
    """Runs one part of a design in any process, and writes the result to `folder`."""

    design: Design
    data_dir: Any
    folder: Any
    on_round: Callable[[str], None] = lambda name: None

    def rounds_done(self, part: Search) -> int:
        """Returns how many rounds of a search are finished."""
        rounds = self.folder / "searches" / part.name / "rounds"
        numbers = range(part.prunings + 1)
        return sum((rounds / f"{i:03d}.json").exists() for i in numbers)

    def search(self, part: Search) -> Search:
        """Runs one search."""
        from tflottery.lab.experiment import bench

        on_round = functools.partial(self.on_round, part.name)
        run_dir, images = self.folder / "searches" / part.name, self.images(None)
        bench.search(self.design.source, images, part, run_dir, on_round)
        return part

    def train(self, trial: Trial) -> Trial:
        """Trains one cell."""
        ticket = self.ticket(trial)
        found = self.bench(trial, ticket).train(trial, ticket) if ticket else None
        return self.save(trial, found)

    def ticket(self, trial: Trial) -> Any:
        """Returns the ticket of a cell's round; `None` if training diverged before."""
        if not self.has_ticket(trial):
            return None
        ticket = load_ticket(self._path(trial))
        if trial.weights == "longer":
            return self._trained_longer(ticket, trial.seed)
        return ticket

    def has_ticket(self, trial: Trial) -> bool:
        """Returns whether the search got as far as a cell's round."""
        return self._path(trial).exists()

    def _path(self, trial: Trial) -> Any:
        return self.folder / "searches" / self.design.ticket(trial.seed, trial.round)

    def save(self, trial: Trial, found: Any) -> Trial:
        """Writes what a cell `found`; `None` if it has no ticket."""
        row = {"experiment": self.design.name, **dataclasses.asdict(trial)}
        row["source_round"] = row.pop("round")
        if found is None:
            failure = "the search ended before this round"
            density = self.design.density(trial.round)
            found = {"density": density, "metric": None, "failure": failure}
        path = _result_path(self.folder, trial)
        files.make_folder(path.parent)
        files.write_json(path, row | found)
        return trial

    def _trained_longer(self, dense: Any, seed: int) -> Any:
        """Returns the dense network, trained as long as the ticket of the last round.

        It serves all targets of its seed, and waits for them in a file.
        """
        from tflottery.lab.experiment import bench

        path = self.longer(seed)
        if not path.exists():
            rounds = self.design.searches(seed)[-1].prunings
            source, images = self.design.source, self.images(None)
            bench.train_longer(source, images, dense, rounds, seed).save(path)
        return load_ticket(path)

    def longer(self, seed: int) -> Any:
        """Returns the path of the dense network that was trained longer."""
        return self.folder / "searches" / f"seed{seed}-longer.ticket"

    def bench(self, trial: Trial, ticket: Any) -> Any:
        """Returns the bench of a cell, which serves all of its kind."""
        from tflottery.lab.experiment import bench, costs

        key = self.folder, trial.target, trial.regime, trial.head
        if key not in _CACHE and self.design.methods:
            folder = self.folder / "searches"
            _CACHE[key] = costs.Methods(self.design, self.images(None), folder)
        if key not in _CACHE:
            # One at a time: each holds the images of its target.
            for other in [k for k, v in _CACHE.items() if isinstance(v, bench.Bench)]:
                del _CACHE[other]
            target = self.design.target(trial.target)
            _CACHE[key] = bench.Bench(
                self.design,
                target,
                self.images(None).num_classes,
                self.images(target),
                regime=trial.regime,
                head=trial.head,
                ticket=ticket,
            )
        return _CACHE[key]

    def images(self, target: Recipe | None) -> datasets.Images:
        """Returns the images of a target or, without one, of the source."""
        recipe = target or self.design.source
        key = self.folder, recipe.dataset_name, target is None
        if key not in _CACHE:
            _CACHE[key] = self.design.images_of(target, self.data_dir)
        return _CACHE[key]


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
    if not path.exists():
        files.write_json(path, plain)
    there = files.read_json(path)
    # The prose of `shows` may change without making it another experiment.
    names = {**there, **plain}.keys() - {"shows"}
    different = [k for k in names if there.get(k) != plain.get(k)]
    if different:
        raise ValueError(
            f"`run_dir` holds another experiment: its {', '.join(different)} differ. "
            f"Choose another folder. Received: run_dir={str(folder)!r}"
        )


def plain_design(design: Design) -> dict[str, Any]:
    """Returns a design as JSON holds it, without `seeds`, which may change."""

    def named(value: Any) -> str:
        return getattr(value, "__name__", None) or repr(value)

    def without_arrays(recipe: Recipe) -> Recipe:
        return dataclasses.replace(recipe, dataset=recipe.dataset_name)

    design = dataclasses.replace(
        design,
        source=without_arrays(design.source),
        targets=tuple(map(without_arrays, design.targets)),
    )
    plain = json.loads(json.dumps(dataclasses.asdict(design), default=named))
    for recipe in (plain["source"], *plain["targets"]):
        if recipe["precision"] == "float32":
            del recipe["precision"]  # Run directories of before have none.
    return plain | {"seeds": None}


class _Results:
    """Keeps `results.json`, which is written after every cell.

    It includes seeds beyond `seeds` that an earlier call finished.
    """

    def __init__(self, folder: Any, design: Design, seeds: int, command: str | None):
        self.path = folder / "results.json"
        self._folder, self._searches = folder, folder / "searches"
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
        import keras

        versions = library_versions(_VERSIONS)
        self._header = {
            "experiment": design.name,
            "shows": design.shows,
            "command": command or shlex.join(sys.argv),
            "versions": {"python": platform.python_version(), **versions},
            "backend": keras.backend.backend(),
            "preset": design.preset,
            "seeds": self._seeds,
            "finished": False,
            "recipe": plain_design(design),
        }
        self.compare_masks()

    def count(self, trials: Sequence[Trial]) -> int:
        """Returns how many of the trials are finished."""
        return sum(self._rows[trial] is not None for trial in trials)

    def compare_masks(self) -> None:
        """Adds the Jaccard index of the masks of each two seeds, round by round."""
        overlaps = self._header["mask_overlap"] = []
        for number in self._design.rounds:
            found = [
                (seed, load_ticket(path))
                for seed in self._seeds
                if (path := self._searches / self._design.ticket(seed, number)).exists()
            ]
            for (a, one), (b, other) in itertools.combinations(found, 2):
                # Keras may number the layers of the same network anew.
                same = dict(zip(one.masks, other.masks.values(), strict=True))
                overlaps.append([a, b, one.density, masks.overlap(one.masks, same)])
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
