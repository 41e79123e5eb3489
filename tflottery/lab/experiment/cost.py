"""Cost: what an experiment will take, told before it runs."""

import dataclasses
import datetime
import time
from typing import Any

import numpy as np

from tflottery.lab import training
from tflottery.lab.data import pipelines, pixels
from tflottery.lab.data.datasets import Images
from tflottery.lab.experiment.design import SEARCHES, Design, Trial
from tflottery.lab.training import Recipe

_MEASURED = 10  # Steps.


@dataclasses.dataclass(frozen=True)
class Cost:
    """The parts of an experiment, and the time that they take on this machine."""

    searches: int
    rounds: int  # Of all searches.
    cells: int
    steps: int  # Optimizer steps, in searches and cells.
    seconds: float  # Of all steps; evaluations come on top.

    def __str__(self) -> str:
        took = datetime.timedelta(seconds=round(self.seconds))
        return (
            f"{self.searches} searches of {self.rounds} rounds in all, {self.cells} "
            f"cells, {self.steps:,} steps: about {took} of training here, without the "
            "evaluations."
        )


def cost(design: Design, *, seeds: int | None = None, data_dir: Any = None) -> Cost:
    """Returns what `run` will take with the same arguments.

    The time is that of a few steps of each recipe on its own images.
    """
    chosen = range(design.seeds if seeds is None else seeds)
    known: dict[str | None, tuple[int, float]] = {}
    loaded: dict[tuple[str, bool], Images] = {}
    for target in (None, *design.targets):
        recipe = target or design.source
        key = recipe.dataset_name, target is None
        if key not in loaded:
            loaded[key] = design.images_of(target, data_dir)
        images = loaded[key]
        steps = _steps(recipe, images)
        known[target and target.name] = steps, steps * _seconds(recipe, images)
    searches = [search for seed in chosen for search in design.searches(seed)]
    trials = [trial for seed in chosen for trial in design.trials(seed)]
    rounds = sum(search.prunings + 1 for search in searches)
    parts = [known[None]] * rounds
    longer = {trial.seed for trial in trials if trial.weights == "longer"}
    parts += [known[None]] * (len(longer) * searches[-1].prunings)
    for trial in trials:
        parts += [known[trial.target]] * _trainings(design, trial)
    steps, seconds = (sum(values) for values in zip(*parts, strict=True))
    return Cost(len(searches), rounds, len(trials), int(steps), seconds)


def _trainings(design: Design, trial: Trial) -> int:
    """Returns how often a cell trains; what a search found is only evaluated."""
    if not design.methods:
        return 1
    found = trial.arm == "dense" or trial.arm in SEARCHES
    return 0 if found else 2 if trial.arm == "gradual_twice" else 1


def _steps(recipe: Recipe, images: Images) -> int:
    """Returns the steps of a round or a cell."""
    count = len(images.per_class(recipe.images_per_class, seed=0).x_train)
    count -= round(recipe.validation * count)
    return recipe.epochs(count) * -(-count // recipe.batch_size)


def _seconds(recipe: Recipe, images: Images) -> float:
    """Returns the time of a step, without the first, which compiles."""
    x = np.resize(images.x_train, (_MEASURED * recipe.batch_size, *images.input_shape))
    x = pixels.adapt(x, recipe.input_shape or images.input_shape) / np.float32(255)
    y = np.resize(images.y_train, len(x))
    model = training.compile_model(recipe.build(images, seed=0), recipe)
    batches = pipelines.train_pipeline(
        x, y, batch_size=recipe.batch_size, seed=0, augment=recipe.augment
    )
    model.fit(batches, shuffle=False, verbose=0)
    began = time.monotonic()
    model.fit(batches, shuffle=False, verbose=0)
    return (time.monotonic() - began) / _MEASURED
