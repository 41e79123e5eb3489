"""Bench: one compiled network, on which the cells of a design are trained in turn.

A network is built, compiled and traced once; each cell puts its weights, its masks and
the optimizer's first state in place.
"""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np

from tflottery import engines
from tflottery.core import masks as masks_lib
from tflottery.core.masks import Weights
from tflottery.engines import network
from tflottery.lab import models, training
from tflottery.lab.data import pipelines
from tflottery.lab.data.datasets import Images
from tflottery.lab.experiment.designs import TICKETS, Design, Trial
from tflottery.lab.training import Arrays, Recipe
from tflottery.search.loop import find_ticket
from tflottery.ticket import Ticket
from tflottery.transfer import controls
from tflottery.transfer import student as student_lib

_EVALUATION_BATCH = 1_000
# About 50,000 more weights on ResNet-18's 512 features, as in Mehta 2019, section 3.
_HIDDEN = 100
_OTHER_SEEDS = 1_000


def limited(images: Images, count: int | None) -> Images:
    """Returns the dataset with at most `count` training images, classes in proportion.

    Which ones is always the same.
    """
    if count is None or count >= len(images.x_train):
        return images
    _, (x, y) = images.split_validation(count / len(images.x_train), seed=0)
    return dataclasses.replace(images, x_train=x, y_train=y)


def with_classes(images: Images, classes: Collection[int] | None) -> Images:
    """Returns the images of some classes alone, which are counted anew from 0."""
    if classes is None:
        return images
    new = np.full(images.num_classes, -1)
    new[list(classes)] = range(len(classes))
    parts = {}
    for part in ("train", "test"):
        y = new[getattr(images, f"y_{part}")]
        parts[f"x_{part}"] = getattr(images, f"x_{part}")[y >= 0]
        parts[f"y_{part}"] = y[y >= 0]
    return dataclasses.replace(images, **parts, num_classes=len(classes))


def search(
    design: Design,
    images: Images,
    seed: int,
    *,
    prunings: int,
    sparsity: float,
    run_dir: Any,
    on_round: Callable[[], Any] | None = None,
) -> None:
    """Searches for the tickets of a seed in `run_dir`, or for what is left of them."""
    recipe = design.source
    arrays = recipe.arrays(images, seed=seed)
    train, validation, _ = _pipelines(recipe, arrays, seed)
    model = recipe.build(images, seed=seed)
    training.compile_model(model, recipe)
    settings = recipe.search_settings(len(arrays.train[0]))
    settings |= {"rounds": prunings, "target_sparsity": sparsity}
    find_ticket(
        model,
        train,
        validation_data=validation,
        **settings,
        select="last",
        seed=seed,
        run_dir=run_dir,
        callbacks=[_at_end(on_round or (lambda: None))],
        verbose=0,
    )


class Bench:
    """Trains cells of one regime and one head.

    Args:
        design: what the cells are of.
        num_classes: how many classes the source task has.
        target: the target task's images; without a target, the source's.
        regime: of `designs.REGIMES`.
        head: of `designs.HEADS`.
        ticket: any ticket of the design.
    """

    def __init__(
        self,
        design: Design,
        num_classes: int,
        target: Images,
        *,
        regime: str,
        head: str,
        ticket: Ticket,
    ):
        self.recipe = design.target or design.source
        self._images = target
        self._network = functools.partial(
            models.builder(design.source.model),
            self.recipe.input_shape or target.input_shape,
            num_classes,
        )
        self._same_task = design.target is None
        self._head, self._regime = head, regime
        student = self._network(seed=0)
        if not self._same_task:
            student = self._student(ticket, seed=0)
        heads = {"output", *(f"head_{i}" for i in (1, 2))}
        self._mapping = {
            path: path
            for path in network.variables(student)
            if path.split("/")[0] not in heads
        }
        training.compile_model(student, self.recipe)
        self._engine: Any = engines.engine_for(student)
        self._first: dict[str, Any] = {}
        self._data: tuple[int, Any] | None = None
        self._fresh: tuple[int, Weights, Weights] | None = None

    def train(self, trial: Trial, ticket: Ticket) -> dict[str, Any]:
        """Trains a cell from its round's ticket, and returns its row of the results."""
        began = time.monotonic()
        train, validation, test = self._data_of(trial.seed)
        engine = self._engine
        if not self._first:
            engine.prepare(train, rewind_step=0, callbacks=[])
            self._first = engine.state()
        start, masks = self._weights_and_masks(trial, ticket)
        state = self._first | {f"weights/{path}": w for path, w in start.items()}
        engine.restore(state, parts=("weights", "optimizer", "seeds"))
        engine.hold(masks)
        best: dict[str, Any] = {"val_accuracy": -1.0, "failure": None}

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            if logs["val_accuracy"] > best["val_accuracy"]:
                best["val_accuracy"] = logs["val_accuracy"]
                best["step"] = engine.step()
                best["weights"] = engine.weights()
            if not math.isfinite(logs["loss"]):
                best["failure"] = "diverged"
                engine.stop()

        train.epoch = 0
        engine.fit(
            train,
            validation_data=validation,
            epochs=self.recipe.epochs(self._train_size),
            initial_epoch=0,
            callbacks=[engine.callback(on_epoch=on_epoch)],
            verbose=0,
        )
        steps = engine.step()
        engine.restore(
            {f"weights/{path}": w for path, w in best["weights"].items()},
            parts=("weights",),
        )
        return {
            "arm": trial.arm,
            "weights": trial.weights,
            "density": masks_lib.density(masks),
            "sparsity": masks_lib.sparsity(masks),
            "seed": trial.seed,
            "regime": trial.regime,
            "head": trial.head,
            "dataset": self._images.name,
            "metric": engine.evaluate(test)["accuracy"],
            "val_metric": best["val_accuracy"],
            "steps": steps,
            "steps_to_best": best["step"],
            "seconds": time.monotonic() - began,
            "source_round": trial.round,
            "density_per_layer": masks_lib.density_per_layer(masks),
            "failure": best["failure"],
        }

    def weights(self) -> Weights:
        """Returns the weights that the last cell was judged by, by path."""
        return self._engine.weights()

    def _weights_and_masks(self, trial: Trial, ticket: Ticket) -> tuple[Any, Any]:
        """Returns what a cell starts from, and what it holds."""
        weights = trial.weights if trial.weights in TICKETS else "trained"
        of_student, of_network = self._fresh_of(trial.seed, ticket)
        if trial.arm not in ("ticket", "dense"):
            ticket = controls.ARMS[trial.arm](ticket, of_network, trial.seed)
        if not self._same_task:
            origin = {"weights": weights}
            ticket = student_lib.grafted(ticket, of_student, self._mapping, origin)
        return getattr(ticket, weights), ticket.masks

    def _fresh_of(self, seed: int, ticket: Ticket) -> tuple[Weights, Weights]:
        """Returns the weights of a student with a new head, and of a new network."""
        if self._fresh is None or self._fresh[0] != seed:
            # Other weights than the search's, which `seed` made.
            other = controls.weights_of(self._network(seed=_OTHER_SEEDS + seed))
            student = {} if self._same_task else self._student(ticket, seed)
            self._fresh = (seed, student and controls.weights_of(student), other)
        return self._fresh[1:]

    def _student(self, ticket: Ticket, seed: int) -> Any:
        classes = self._images.num_classes
        layers = keras.layers
        kinds: dict[str, Callable[[], dict[str, Any]]] = {
            "linear": lambda: {"num_classes": classes},
            "two_layer": lambda: {
                "head": [
                    layers.Dense(_HIDDEN, activation="relu", name="head_1"),
                    layers.Dense(classes, activation="softmax", name="head_2"),
                ]
            },
        }
        with warnings.catch_warnings():
            # What frozen sparse features lose is what is measured here.
            warnings.filterwarnings("ignore", "`freeze_backbone=True`")
            return student_lib.transfer_ticket(
                ticket,
                **kinds[self._head](),
                backbone=self._network(seed=0),
                freeze_backbone=self._regime == "frozen",
                seed=seed,
            )

    def _data_of(self, seed: int) -> Any:
        if self._data is None or self._data[0] != seed:
            arrays = self.recipe.arrays(self._images, seed=seed)
            self._train_size = len(arrays.train[0])
            self._data = (seed, _pipelines(self.recipe, arrays, seed))
        return self._data[1]


def _pipelines(recipe: Recipe, arrays: Arrays, seed: int) -> tuple[Any, Any, Any]:
    """Returns the batches to train on, to choose with, and to report on."""
    train = pipelines.train_pipeline(
        *arrays.train, batch_size=recipe.batch_size, seed=seed, augment=recipe.augment
    )
    validation, test = (
        pipelines.eval_pipeline(*part, batch_size=_EVALUATION_BATCH)
        for part in (arrays.validation, arrays.test)
    )
    return train, validation, test


def _at_end(call: Callable[[], Any]) -> Any:
    return keras.callbacks.LambdaCallback(on_train_end=lambda logs=None: call())
