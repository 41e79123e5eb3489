"""Stacked: an experiment's searches and cells, side by side on JAX.

The files are those of any other run, but for `stack.safetensors`: an interruption loses
at most the last minute of what trains now, or the epoch if that takes longer.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
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
from tflottery.lab.experiment.design import Design, Search, Trial
from tflottery.lab.training import Arrays, Recipe

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
    backend = keras.backend.backend()
    if backend != "jax":
        raise ValueError(
            "`executor` 'stacked' needs Keras on JAX: set KERAS_BACKEND=jax, and "
            f"install tflottery[jax]. Received: the backend {backend!r}"
        )
    for recipe in (design.source, *design.targets):
        if recipe.augment not in (None, pipelines.flip_and_crop):
            raise ValueError(
                "`executor` 'stacked' takes images as they are, or augmented by "
                f"`flip_and_crop`. Received: augment={recipe.augment!r}"
            )


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
        self.stack = _stack(model, self.recipe, arrays)
        sizes, skipped = self.stack.prunable, self.recipe.skip
        paths = plan.choose(sizes, skipped, self.recipe.layer_fractions)
        self.dense = masks_lib.ones({path: sizes[path] for path in paths})
        self.fit = functools.partial(
            self.stack.fit,
            epochs=self.settings["epochs"],
            saved=worker.folder / _SAVED,
        )

    def start(self, seed: int, order: int = 0) -> Start:
        """Returns the dense network of a seed before its first step."""
        # Keras may number the layers of the same network anew.
        fresh = controls.weights_of(self.build(seed=seed)).values()
        weights = dict(zip(self.stack.paths, fresh, strict=True))
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
    """Trains dense networks for as many more rounds as their searches had."""
    worker, stack, epochs = source.worker, source.stack, source.settings["epochs"]
    prunings = worker.design.searches(seeds[0])[-1].prunings
    paths = {s: worker.folder / "searches" / worker.design.ticket(s, 0) for s in seeds}
    dense = {seed: load_ticket(path) for seed, path in paths.items()}
    weights = {seed: ticket.trained for seed, ticket in dense.items()}
    count = stack.at_once(source.start(seeds[0]), len(seeds))
    for some in _cut(seeds, count):
        for number in range(prunings):
            starts = [
                Start(
                    f"seed {seed}, training {number} of the dense network",
                    seed,
                    stack.variables(dense[seed].masks, weights[seed]),
                    number * epochs,
                )
                for seed in some
            ]
            for seed, end in zip(some, source.fit(starts), strict=True):
                weights[seed] = stack.weights(end.variables, weights[seed])
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
    stack = _stack(bench.model, recipe, arrays)

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
            best="val_accuracy" if recipe.keep == "best" else None,
            saved=worker.folder / _SAVED,
        )
        metrics = stack.evaluate(starts, ends)
        seconds = (time.monotonic() - began) / len(some)
        for trial, ticket, end, row in zip(some, found, ends, metrics, strict=True):
            steps = stack.steps_per_epoch
            result = bench.result(ticket, end.history, row, steps, seconds)
            yield worker.save(trial, result)


def _stack(model: Any, recipe: Recipe, arrays: Mapping[int, Arrays]) -> Stack:
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
