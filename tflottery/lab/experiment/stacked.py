"""Stacked: an experiment's searches and cells, side by side on JAX; see `stack`.

The files are those of any other run, but for `stack.safetensors`: an interruption loses
at most the last minute of what trains now, or the epoch if that takes longer.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tflottery import Ticket, controls, load_ticket
from tflottery.core import criteria, files, plan, pruning
from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig, choose_monitor
from tflottery.core.records import Round, library_versions
from tflottery.engines import network
from tflottery.lab import training
from tflottery.lab.experiment import stack as stack_lib
from tflottery.lab.experiment.design import Design, Search, Trial
from tflottery.lab.experiment.stack import End, Stack, Start, Variables
from tflottery.search import run_dir

_SAVED = "stack.safetensors"


def check(design: Design) -> None:
    """Raises ValueError if a design cannot be run side by side.

    >>> from tflottery.lab.experiment import designs
    >>> check(designs.design("cost_accuracy", "smoke"))
    Traceback (most recent call last):
    ValueError: `executor` 'stacked' trains tickets and controls, not the methods of \
cost_accuracy. Leave it out.
    """
    if design.methods:
        raise ValueError(
            "`executor` 'stacked' trains tickets and controls, not the methods of "
            f"{design.name}. Leave it out."
        )
    if design.source.retrain == "fine_tune":
        raise ValueError(
            "`executor` 'stacked' begins the schedule of each round anew. Set "
            "retrain='learning_rate' or 'rewind', or leave it out. Received: "
            "retrain='fine_tune'"
        )
    for recipe in (design.source, *design.targets):
        stack_lib.check(recipe)


def search(worker: Any, parts: Sequence[Search]) -> Iterator[Search]:
    """Runs searches side by side, round by round, and yields each when it is done."""
    if not parts:
        return
    source = _Source(worker, [part.seed for part in parts])
    count = source.stack.at_once(source.start(parts[0].seed), len(parts))
    for some in _cut(parts, count):
        yield from _searched(source, some)


def train(worker: Any, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Trains cells side by side, and yields each when it is done."""
    longer = {trial.seed for trial in trials if trial.weights == "longer"}
    longer = [seed for seed in sorted(longer) if not worker.longer(seed).exists()]
    if longer:
        _train_longer(_Source(worker, longer), longer)
    kinds: dict[Any, list[Trial]] = {}
    for trial in trials:
        kind = trial.target, trial.regime, trial.head
        kinds.setdefault(kind, []).append(trial)
    for some in kinds.values():
        yield from _trained(worker, some)


class _Source:
    """The source task on the device, for some seeds."""

    def __init__(self, worker: Any, seeds: Sequence[int]):
        self.worker, self.recipe = worker, worker.design.source
        images = worker.images(None)
        arrays = {s: self.recipe.arrays(images, seed=s) for s in sorted(set(seeds))}
        self.settings = self.recipe.search_settings(len(arrays[seeds[0]].train[0]))
        self.build = functools.partial(self.recipe.build, images)
        model = training.compile_model(self.build(seed=seeds[0]), self.recipe)
        prunable = network.prunable(model, network.keras_of(model))
        skipped = self.recipe.skip, self.recipe.layer_fractions
        sizes = {path: prunable[path] for path in plan.choose(prunable, *skipped)}
        self.dense = masks_lib.ones(sizes)
        self.stack = Stack(model, self.recipe, arrays)
        self.fit = functools.partial(
            self.stack.fit,
            epochs=self.settings["epochs"],
            saved=worker.folder / _SAVED,
        )

    def load(self, path: Any) -> Ticket:
        """Returns a ticket of the source task, with the paths of the model here."""
        ticket = load_ticket(path)
        return run_dir.with_paths(
            ticket, dict(zip(ticket.trained, self.stack.paths, strict=True))
        )

    def start(self, seed: int, order: int = 0) -> Start:
        """Returns the dense network of a seed before its first step."""
        weights = controls.weights_of(self.build(seed=seed))
        names = dict(zip(weights, self.stack.paths, strict=True))
        weights = {names[path]: value for path, value in weights.items()}
        variables = self.stack.variables(self.dense, weights)
        return Start(f"seed {seed}", seed, variables, order)


def _searched(source: _Source, parts: Sequence[Search]) -> Iterator[Search]:
    found = {part.name: _Rounds(source, part) for part in parts}
    while waiting := [f for f in found.values() if not f.done]:
        # After an interruption, some may be a round ahead of the others.
        number = min(f.number for f in waiting)
        now = [f for f in waiting if f.number == number]
        began = time.monotonic()
        starts = [f.next_start() for f in now]
        k, first = source.recipe.rewind_step, 0
        if number and source.recipe.retrain == "rewind":
            first = k // source.stack.steps_per_epoch
        ends = source.fit(starts, first=first, at_step=k if number == 0 and k else None)
        seconds = (time.monotonic() - began) / len(now)
        for f, end in zip(now, ends, strict=True):
            f.add(end, seconds)
            source.worker.on_round(f.part.name)
        for f in now:
            if f.done:
                f.finish()
                yield f.part


class _Rounds:
    """The rounds of one search, as tickets in its folder.

    Attributes:
        number: The number of the next round.
    """

    def __init__(self, source: _Source, part: Search):
        self.part, self._source = part, source
        self._folder = source.worker.folder / "searches" / part.name
        files.make_folder(self._folder / "rounds")
        settings = {"rounds": part.prunings, "target_sparsity": part.sparsity}
        settings |= {"seed": part.seed, "select": "last"}
        self._config = LotteryConfig(**source.settings | settings)
        self.number = source.worker.rounds_done(part)
        self._masks = source.dense
        self._ticket: Any = None
        self._optimizer: Variables | None = None
        if self.number:
            self._ticket = source.load(self._path(self.number - 1))
        if self.number and self._config.rewind_step:
            self._optimizer = _read(self._folder / "step_k.safetensors")

    @property
    def done(self) -> bool:
        """Whether the last round is finished, or training diverged."""
        if self._ticket is None:
            return False
        failed = self._ticket.rounds[-1].failure is not None
        return failed or self.number > self.part.prunings

    def next_start(self) -> Start:
        """Prunes, and returns where the next round starts."""
        part, config, ticket = self.part, self._config, self._ticket
        order = self.number * config.epochs
        if ticket is None:
            start = self._source.start(part.seed, order)
        else:
            self._masks = pruning.prune(
                criteria.magnitude(ticket.trained, ticket.rewind),
                ticket.masks,
                plan.fraction(ticket.masks, config, done=self.number - 1),
                scope=config.scope,
                layer_fractions=config.layer_fractions,
                target_density=1 - config.target_sparsity,
            )
            rewinds = config.retrain == "rewind"
            weights = ticket.rewind if rewinds else ticket.trained
            variables = self._source.stack.variables(
                self._masks, weights, self._optimizer
            )
            start = Start("", part.seed, variables, order)
        return dataclasses.replace(start, name=f"{part.name}, round {self.number}")

    def add(self, end: End, seconds: float) -> None:
        """Adds a trained round, and writes it."""
        stack, config, masks = self._source.stack, self._config, self._masks
        trained = stack.weights(end.variables)
        if self._ticket is None:
            initial = stack.weights(self._source.start(self.part.seed).variables)
            rewind = stack.weights(end.at_step) if end.at_step else initial
            records: tuple[Round, ...] = ()
            if end.at_step:
                self._optimizer = end.at_step
                _write(self._folder / "step_k.safetensors", end.at_step)
        else:
            initial, rewind = self._ticket.initial, self._ticket.rewind
            records = self._ticket.rounds
        metrics = {name: values[-1] for name, values in end.history.items()}
        sums = [np.sum(w, dtype=np.float64) for w in trained.values()]
        finite = np.all(np.isfinite([metrics["loss"], *sums]))
        record = Round(
            round=self.number,
            sparsity=masks_lib.sparsity(masks),
            density_per_layer=masks_lib.density_per_layer(masks),
            metrics=metrics,
            history=end.history,
            steps=len(end.history["loss"]) * stack.steps_per_epoch,
            seconds=seconds,
            failure=None if finite else "diverged",
        )
        self._ticket = Ticket(
            masks=masks,
            initial=initial,
            rewind=rewind,
            trained=trained,
            config=config,
            monitor=choose_monitor(metrics),
            rounds=(*records, record),
            round=self.number,
            versions=library_versions(),
        )
        path = self._path(self.number)
        self._ticket.save(path)
        files.write_json(path.with_suffix(".json"), dataclasses.asdict(record))
        self.number += 1

    def finish(self) -> None:
        """Writes the ticket that the search found: that of the last good round."""
        ticket = self._ticket
        if ticket.rounds[-1].failure is not None and ticket.round:
            ticket = self._source.load(self._path(ticket.round - 1))
        ticket.save(self._folder / "ticket.safetensors")

    def _path(self, number: int) -> Any:
        return self._folder / "rounds" / f"{number:03d}.ticket"


def _train_longer(source: _Source, seeds: Sequence[int]) -> None:
    """Trains dense networks for as many more rounds as their searches had."""
    worker, stack, epochs = source.worker, source.stack, source.settings["epochs"]
    prunings = worker.design.searches(seeds[0])[-1].prunings
    paths = {s: worker.folder / "searches" / worker.design.ticket(s, 0) for s in seeds}
    dense = {seed: source.load(path) for seed, path in paths.items()}
    weights = {seed: ticket.trained for seed, ticket in dense.items()}
    count = stack.at_once(source.start(seeds[0]), len(seeds))
    for some in _cut(seeds, count):
        for number in range(prunings):
            starts = [
                Start(
                    f"seed {seed}, training {number} of the dense network",
                    seed,
                    stack.variables(source.dense, weights[seed]),
                    number * epochs,
                )
                for seed in some
            ]
            for seed, end in zip(some, source.fit(starts), strict=True):
                weights[seed] = stack.weights(end.variables)
        for seed in some:
            ticket = dataclasses.replace(dense[seed], trained=weights[seed])
            ticket.save(worker.longer(seed))


def _trained(worker: Any, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Trains cells of one target, regime and head."""
    tickets = {trial: worker.ticket(trial) for trial in trials}
    for trial in [trial for trial, ticket in tickets.items() if ticket is None]:
        del tickets[trial]
        yield worker.save(trial, None)
    if not tickets:
        return
    cell, ticket = next(iter(tickets.items()))
    bench = worker.bench(cell, ticket)
    target = worker.design.target(cell.target)
    recipe, images = target or worker.design.source, worker.images(target)
    seeds = sorted({trial.seed for trial in tickets})
    arrays = {seed: recipe.arrays(images, seed=seed) for seed in seeds}
    epochs = recipe.epochs(len(arrays[cell.seed].train[0]))
    stack = Stack(bench.model, recipe, arrays)

    def prepared(trial: Trial) -> tuple[Ticket, Start]:
        found = bench.ticket_of(trial, tickets[trial])
        weights = getattr(found, trial.start)
        variables = stack.variables(found.masks, weights)
        return found, Start(trial.name, trial.seed, variables)

    for some in _cut(list(tickets), stack.at_once(prepared(cell)[1], len(tickets))):
        began = time.monotonic()
        found, starts = zip(*map(prepared, some), strict=True)
        ends = stack.fit(
            starts,
            epochs=epochs,
            keep_best=recipe.keep == "best",
            saved=worker.folder / _SAVED,
        )
        metrics = stack.evaluate(starts, ends)
        seconds = (time.monotonic() - began) / len(some)
        for trial, ticket, end, row in zip(some, found, ends, metrics, strict=True):
            steps = stack.steps_per_epoch
            result = bench.result(ticket, end.history, row, steps, seconds)
            yield worker.save(trial, result)


def _cut(parts: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Returns the parts, so many at a time.

    >>> _cut([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    return [parts[i : i + count] for i in range(0, len(parts), count)]


def _write(path: Any, variables: Variables) -> None:
    arrays = {
        f"{part}/{i:05d}": value
        for part, values in enumerate(variables)
        for i, value in enumerate(values)
    }
    files.write_arrays(path, arrays, {})


def _read(path: Any) -> Variables:
    arrays, _ = files.read_arrays(path)
    found: Variables = [[], [], []]
    for name in sorted(arrays):
        found[int(name[0])].append(arrays[name])
    return found
