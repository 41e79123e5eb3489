"""Costs: what a ticket costs, and what else the same training buys.

A method is a search with settings of its own, or a function in `_RUNS` that trains one
network to the density of the search's ticket in every layer. The weights at the end of
training count, and all steps that were spent to reach them.
"""

import dataclasses
import functools
import importlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

import tflottery
from tflottery import controls
from tflottery.core import masks as masks_lib
from tflottery.core import pruning
from tflottery.lab import training
from tflottery.lab.data.datasets import Images
from tflottery.lab.experiment import bench
from tflottery.lab.experiment.design import SEARCHES, Design, Trial


class Methods:
    """Runs the methods of a design, whose searches are in the folder `searches`."""

    def __init__(self, design: Design, images: Images, searches: Any):
        self.recipe, self.images = design.source, images
        self._design, self._searches = design, searches
        self._seed: int | None = None
        self._model: Any = None

    def train(self, trial: Trial, ticket: tflottery.Ticket) -> dict[str, Any]:
        """Returns the results of one method at the density of `ticket`."""
        began = time.monotonic()
        if trial.seed != self._seed:
            self._seed = trial.seed
            self.arrays = self.recipe.arrays(self.images, seed=trial.seed)
            self.epochs = self.recipe.epochs(len(self.arrays.train[0]))
        model, steps = _RUNS.get(trial.arm, _searched)(self, trial, ticket)
        test, validation = (
            model.evaluate(*data, bench.EVALUATION_BATCH, return_dict=True, verbose=0)
            for data in (self.arrays.test, self.arrays.validation)
        )
        weights = controls.weights_of(model)
        masks = {path: weights[path] != 0 for path in ticket.masks}
        return {
            "density": masks_lib.density(masks),
            "sparsity": masks_lib.sparsity(masks),
            "dataset": self.images.name,
            "metric": float(test["accuracy"]),
            "val_metric": float(validation["accuracy"]),
            "steps": steps,
            "cost": steps / (self.epochs * len(self.batches(trial.seed))),
            "seconds": time.monotonic() - began,
            "density_per_layer": masks_lib.density_per_layer(masks),
            "failure": None if math.isfinite(test["loss"]) else "diverged",
        }

    def found(self, trial: Trial) -> tflottery.Ticket:
        """Returns what a method that is a search found; for others, round 0."""
        method, number = "ticket", 0
        if trial.arm in SEARCHES:
            method, number = trial.arm, trial.round
        path = self._design.ticket_of(method, trial.seed, number)
        return tflottery.load_ticket(self._searches / path)

    def batches(self, seed: int, keras: Any = None) -> Any:
        """Returns the training data of a seed."""
        return bench.train_pipeline(self.recipe, self.arrays, seed, keras)

    def model(self, ticket: tflottery.Ticket) -> Any:
        """Returns the network with a ticket's initial weights, ready to train.

        It is the same one each time, as compiling and tracing it takes long.
        """
        if self._model is None:
            model = self.recipe.build(self.images)
            self._model = training.compile_model(
                model, self.recipe, steps_per_execution=bench.STEPS_PER_EXECUTION
            )
            model.optimizer.build(model.trainable_variables)
            variables = model.optimizer.variables
            self._first = [keras.ops.convert_to_numpy(v) for v in variables]
        for variable, value in zip(
            self._model.optimizer.variables, self._first, strict=True
        ):
            variable.assign(value)
        return ticket.apply(self._model, weights="initial")


def _searched(place: Methods, trial: Trial, _: Any) -> tuple[Any, int]:
    """A search, or the dense network that it begins with."""
    ticket = place.found(trial)
    steps = sum(record.steps for record in ticket.rounds[: ticket.round + 1])
    return ticket.apply(place.model(ticket)), steps


def _randomly_masked(place: Methods, trial: Trial, ticket: Any) -> tuple[Any, int]:
    """The dense network's initial weights under random masks, trained once."""
    batches, fresh = place.batches(trial.seed), place.found(trial).initial
    model = place.model(controls.randomly_masked(ticket, fresh, trial.seed))
    model.fit(batches, epochs=place.epochs, shuffle=False, verbose=0)
    return model, place.epochs * len(batches)


def _ac_dc(place: Methods, trial: Trial, ticket: Any) -> tuple[Any, int]:
    """Dense and sparse epochs in turn, the last third sparse.

    Peste et al. 2021, "AC/DC: Alternating Compressed/DeCompressed Training of Deep
    Neural Networks".
    """
    model, batches = place.model(place.found(trial)), place.batches(trial.seed)
    for epoch in range(place.epochs):
        weights = controls.weights_of(model)
        masks = masks_lib.ones(ticket.masks)
        if epoch % 2 or epoch >= place.epochs * 2 / 3:
            masks = _largest(weights, ticket)
        tflottery.hold(model, masks)
        model.fit(batches, epochs=1, shuffle=False, verbose=0)
    return model, place.epochs * len(batches)


def _largest(
    weights: Mapping[str, np.ndarray], ticket: tflottery.Ticket
) -> dict[str, np.ndarray]:
    """Returns masks of the largest weights, with the ticket's density in each layer."""
    densities = masks_lib.density_per_layer(ticket.masks)
    return pruning.prune(
        {path: np.abs(weights[path]) for path in densities},
        masks_lib.ones(ticket.masks),
        ticket.sparsity,
        layer_fractions={path: 1 - density for path, density in densities.items()},
    )


def _gradual(
    place: Methods, trial: Trial, ticket: Any, *, trainings: int
) -> tuple[Any, int]:
    """A tfmot program: PolynomialDecay from a fifth to three quarters of the steps.

    Zhu & Gupta 2017, "To prune, or not to prune". The rates of learning drop at the
    same shares of the run, however long it is.
    """
    _ = tflottery.LotterySchedule  # Imports tfmot, and leaves `tf.keras` what it was.
    tf_keras: Any = importlib.import_module("tf_keras")
    tfmot: Any = importlib.import_module("tensorflow_model_optimization")
    sparsity, batches = tfmot.sparsity.keras, place.batches(trial.seed, tf_keras)
    epochs = trainings * place.epochs
    steps = epochs * len(batches)
    densities = masks_lib.density_per_layer(ticket.masks)

    def wrapped(layer: Any) -> Any:
        density = densities.get(f"{layer.name}/kernel")
        if density is None:
            return layer
        schedule = sparsity.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=1 - density,
            begin_step=steps // 5,
            end_step=steps * 3 // 4,
            frequency=max(1, steps // 100),
        )
        return sparsity.prune_low_magnitude(layer, pruning_schedule=schedule)

    dense = place.recipe.build(place.images, keras=tf_keras, seed=trial.seed)
    model = tf_keras.models.clone_model(dense, clone_function=wrapped)
    recipe = dataclasses.replace(place.recipe, steps=steps)
    training.compile_model(model, recipe).fit(
        batches,
        epochs=epochs,
        callbacks=[sparsity.UpdatePruningStep()],
        shuffle=False,
        verbose=0,
    )
    sparse = training.compile_model(sparsity.strip_pruning(model), recipe)
    return sparse, steps


_RUNS: dict[str, Callable[[Methods, Trial, Any], tuple[Any, int]]] = {
    "randomly_masked": _randomly_masked,
    "ac_dc": _ac_dc,
    "gradual": functools.partial(_gradual, trainings=1),
    "gradual_twice": functools.partial(_gradual, trainings=2),
}
