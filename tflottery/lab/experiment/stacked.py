"""Stacked: an experiment's searches and cells, side by side on JAX.

The files are those of any other run, but for `stack.safetensors`: an interruption loses
at most the last minute of what trains now, or the epoch if that takes longer.
"""

import dataclasses
import functools
import gc
import itertools
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tflottery import Ticket, controls, load_ticket
from tflottery.core import criteria, files, plan, pruning
from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig, choose_monitor
from tflottery.core.records import Round, library_versions
from tflottery.engines.stack import Augment, End, Stack, Start, Variables
from tflottery.lab import training
from tflottery.lab.data import pipelines
from tflottery.lab.experiment.bench import EVALUATION_BATCH
from tflottery.lab.experiment.design import Search, Trial
from tflottery.lab.training import Arrays, Recipe

_SAVED = "stack.safetensors"


def search(worker: Any, parts: Sequence[Search]) -> Iterator[Search]:
    """Runs searches side by side, round by round, and yields each when it is done."""
    if not parts:
        return
    _prepare(worker.folder)
    source = _Source(worker, [part.seed for part in parts])
    for some in _cut(parts, source.at_once(len(parts))):
        yield from _searched(source, some)
    (worker.folder / _SAVED).unlink(missing_ok=True)


def train(worker: Any, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Trains cells side by side, and yields each when it is done."""
    _prepare(worker.folder)
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
    (worker.folder / _SAVED).unlink(missing_ok=True)


def _prepare(folder: Any) -> None:
    """Removes what a killed run was writing, and keeps compiled steps for the next."""
    files.remove_scratch(folder, re.escape(_SAVED))
    name = "jax_compilation_cache_dir"
    if isinstance(folder, pathlib.Path) and not getattr(jax.config, name, None):
        jax.config.update(name, str(folder / "compiled"))


class _Source:
    """The source task on the device, for some seeds."""

    def __init__(self, worker: Any, seeds: Sequence[int]):
        self.worker, self.recipe, self.seeds = worker, worker.design.source, seeds
        images = worker.images(None)
        arrays = {s: self.recipe.arrays(images, seed=s) for s in sorted(set(seeds))}
        self.settings = self.recipe.search_settings(len(arrays[seeds[0]].train[0]))
        self.build = functools.partial(self.recipe.build, images)
        model = training.compile_model(self.build(seed=seeds[0]), self.recipe)
        self.stack = _stack(model, self.recipe, arrays)
        sizes, skipped = self.stack.prunable, self.recipe.skip
        paths = plan.choose(sizes, skipped, self.recipe.layer_fractions)
        self.dense = masks_lib.ones({path: sizes[path] for path in paths})
        self.fit = functools.partial(
            self.stack.fit,
            epochs=self.settings["epochs"],
            saved=worker.folder / _SAVED,
        )

    def at_once(self, most: int) -> int:
        """Returns how many of so many networks to train at once."""
        start = self.start(self.seeds[0])
        return _at_once(self.worker, "source", self.stack, start, most)

    def start(self, seed: int, order: int = 0) -> Start:
        """Returns the dense network of a seed before its first step."""
        # Keras may number the layers of the same network anew.
        fresh = controls.weights_of(self.build(seed=seed)).values()
        weights = dict(zip(self.stack.paths, fresh, strict=True))
        variables = self.stack.variables(self.dense, weights)
        return Start(f"seed {seed}", seed, variables, order)


def _searched(source: _Source, parts: Sequence[Search]) -> Iterator[Search]:
    found = [_Rounds(source, part) for part in parts]
    while found:
        for search in [search for search in found if search.done]:
            found.remove(search)
            search.finish()
            yield search.part
        if not found:
            return
        # After an interruption, some may be a round ahead of the others.
        number = min(search.number for search in found)
        now = [search for search in found if search.number == number]
        began = time.monotonic()
        starts = [search.next_start() for search in now]
        k, first = source.recipe.rewind_step, 0
        if number and source.recipe.retrain == "rewind":
            first = k // source.stack.steps_per_epoch
        ends = source.fit(starts, first=first, at_step=k if number == 0 and k else None)
        seconds = (time.monotonic() - began) / len(now)
        for search, end in zip(now, ends, strict=True):
            search.add(end, seconds)
            source.worker.on_round(search.part.name)


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
            self._ticket = load_ticket(self._path(self.number - 1))
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
        names = None if self._ticket is None else list(self._ticket.trained)
        trained = stack.weights(end.variables, names)
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
            ticket = load_ticket(self._path(ticket.round - 1))
        ticket.save(self._folder / "ticket.safetensors")

    def _path(self, number: int) -> Any:
        return self._folder / "rounds" / f"{number:03d}.ticket"


def _train_longer(source: _Source, seeds: Sequence[int]) -> None:
    """Trains dense networks for as many more rounds as their searches had.

    Each training is a ticket in a folder of its seed, so that it need not run again.
    """
    worker, stack, epochs = source.worker, source.stack, source.settings["epochs"]
    prunings = worker.design.searches(seeds[0])[-1].prunings
    searches = worker.folder / "searches"
    for some in _cut(seeds, source.at_once(len(seeds))):
        tickets = {s: load_ticket(searches / worker.design.ticket(s, 0)) for s in some}
        for number in range(prunings):
            paths = {
                s: searches / f"seed{s}-longer" / f"{number:03d}.ticket" for s in some
            }
            left = [seed for seed in some if not paths[seed].exists()]
            starts = [
                Start(
                    f"seed {seed}, training {number} of the dense network",
                    seed,
                    stack.variables(tickets[seed].masks, tickets[seed].trained),
                    number * epochs,
                )
                for seed in left
            ]
            ends = source.fit(starts) if left else []
            for seed, end in zip(left, ends, strict=True):
                weights = stack.weights(end.variables, tickets[seed].trained)
                files.make_folder(paths[seed].parent)
                dataclasses.replace(tickets[seed], trained=weights).save(paths[seed])
            tickets = {seed: load_ticket(path) for seed, path in paths.items()}
        for seed, ticket in tickets.items():
            ticket.save(worker.longer(seed))


def _trained(worker: Any, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Trains cells of one target, regime and head."""
    able = [trial for trial in trials if worker.has_ticket(trial)]
    for trial in trials:
        if trial not in able:
            yield worker.save(trial, None)
    if not able:
        return
    cell = able[0]
    bench = worker.bench(cell, worker.ticket(cell))
    target = worker.design.target(cell.target)
    recipe, images = target or worker.design.source, worker.images(target)
    seeds = sorted({trial.seed for trial in able})
    arrays = {seed: recipe.arrays(images, seed=seed) for seed in seeds}
    epochs = recipe.epochs(len(arrays[cell.seed].train[0]))
    stack = _stack(bench.model, recipe, arrays)

    def prepared(trial: Trial) -> tuple[Ticket, Start]:
        found = bench.ticket_of(trial, worker.ticket(trial))
        weights = getattr(found, trial.start)
        variables = stack.variables(found.masks, weights)
        return found, Start(trial.name, trial.seed, variables)

    kind = f"{cell.target}, {cell.regime}, {cell.head}"
    for some in _cut(able, _at_once(worker, kind, stack, prepared(cell)[1], len(able))):
        began = time.monotonic()
        found, starts = zip(*map(prepared, some), strict=True)
        ends = stack.fit(
            starts,
            epochs=epochs,
            best="val_accuracy" if recipe.keep == "best" else None,
            saved=worker.folder / _SAVED,
        )
        metrics = stack.evaluate(starts, ends)
        seconds = (time.monotonic() - began) / len(some)
        for trial, ticket, end, row in zip(some, found, ends, metrics, strict=True):
            steps = stack.steps_per_epoch
            result = bench.result(ticket, end.history, row, steps, seconds)
            yield worker.save(trial, result)


def _at_once(worker: Any, kind: str, stack: Stack, start: Start, most: int) -> int:
    """Returns how many networks of a kind to train at once, measured the first time.

    What was measured is kept, so that a resumed run cuts its networks alike.
    """
    path = worker.folder / "at_once.json"
    known = files.read_json(path) if path.exists() else {}
    kind = f"{kind}, up to {most}, {jax.devices()[0].device_kind}"
    if kind not in known:
        known[kind] = stack.at_once(start, most)
        files.write_json(path, known)
    return known[kind]


def _stack(model: Any, recipe: Recipe, arrays: Mapping[int, Arrays]) -> Stack:
    gc.collect()  # The last one's images are still on the device.
    augment = Augment(pipelines.flips_and_crops, _flip_and_crop)
    return Stack(
        model,
        {seed: vars(each) for seed, each in arrays.items()},
        batch_size=recipe.batch_size,
        evaluation_batch=EVALUATION_BATCH,
        augment=augment if recipe.augment else None,
    )


def _flip_and_crop(images: Any, top: Any, left: Any, mirrored: Any) -> Any:
    """Augments images [N, H, W, C] as `pipelines.flip_and_crop` does."""
    pad, shape = pipelines.PAD, images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def one(image: Any, top: Any, left: Any, mirrored: Any) -> Any:
        cut = jax.lax.dynamic_slice(image, (top, left, 0), shape)
        return jnp.where(mirrored, cut[:, ::-1], cut)

    return jax.vmap(one)(padded, top, left, mirrored)


def _cut(parts: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Returns the parts, so many at a time or evenly less.

    >>> _cut([1, 2, 3, 4], 3)
    [[1, 2], [3, 4]]
    """
    pieces = -(-len(parts) // count)
    ends = [len(parts) * piece // pieces for piece in range(pieces + 1)]
    return [parts[a:b] for a, b in itertools.pairwise(ends)]


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
