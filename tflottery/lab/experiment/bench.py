"""Bench: one compiled network on which the cells of a design are trained in turn.

Building, compiling and tracing happen once; each cell sets the weights, the masks and
the optimizer's initial state.
"""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

import tflottery
from tflottery import controls
from tflottery.core import masks as masks_lib
from tflottery.lab import training
from tflottery.lab.data import pipelines
from tflottery.lab.data.datasets import Images
from tflottery.lab.experiment.design import CONTROLS, Design, Search, Trial
from tflottery.lab.training import Arrays, Recipe

EVALUATION_BATCH = 1_000
STEPS_PER_EXECUTION = 20
# About 50,000 more weights on ResNet-18's 512 features, as in Mehta 2019, section 3.
_HIDDEN = 100
# Added to a cell's seed, for weights that its search did not start from.
_OTHER_SEEDS = 1_000


def search(
    recipe: Recipe, images: Images, part: Search, run_dir: Any, on_round: Callable
) -> None:
    """Runs one search, or resumes it, and calls `on_round` after each round."""
    arrays = recipe.arrays(images, seed=part.seed)
    settings = recipe.search_settings(len(arrays.train[0]))
    settings |= {"rounds": part.prunings, "target_sparsity": part.sparsity}
    settings |= part.settings
    tflottery.find_ticket(
        training.compile_model(recipe.build(images, seed=part.seed), recipe),
        train_pipeline(recipe, arrays, part.seed),
        validation_data=arrays.validation,
        validation_batch_size=EVALUATION_BATCH,
        **settings,
        select="last",
        seed=part.seed,
        run_dir=run_dir,
        callbacks=[
            keras.callbacks.LambdaCallback(on_train_end=lambda logs=None: on_round())
        ],
        verbose=0,
    )


def train_longer(
    recipe: Recipe, images: Images, dense: tflottery.Ticket, rounds: int, seed: int
) -> tflottery.Ticket:
    """Trains the dense network of a search on, for as many more rounds.

    Like a round of the search, each goes on from the last weights, and begins the
    optimizer and its learning rate anew.
    """
    arrays = recipe.arrays(images, seed=seed)
    train = train_pipeline(recipe, arrays, seed)
    model = dense.apply(recipe.build(images, seed=seed))
    epochs = recipe.epochs(len(arrays.train[0]))
    for _ in range(rounds):
        training.compile_model(model, recipe)
        model.fit(train, epochs=epochs, shuffle=False, verbose=0)
    # Keras may number the layers of the same network anew.
    weights = zip(dense.trained, controls.weights_of(model).values(), strict=True)
    return dataclasses.replace(dense, trained=dict(weights))


class Bench:
    """Trains the cells of one target, one regime and one head.

    The source task has `num_classes`; `target` and `images` are the target task's or,
    without one, `None` and the source task's. The `ticket` may be any of the design.
    After `train`, `model` has the weights of the epoch that the recipe keeps.
    """

    def __init__(
        self,
        design: Design,
        target: Recipe | None,
        num_classes: int,
        images: Images,
        *,
        regime: str,
        head: str,
        ticket: tflottery.Ticket,
    ):
        self._recipe = target or design.source
        self._images = images
        self._network = functools.partial(
            design.source.network,
            self._recipe.input_shape or images.input_shape,
            num_classes,
        )
        self._transfers = target is not None
        self._regime, self._head = regime, head
        self.model = self._student(ticket, 0) if self._transfers else self._network()
        training.compile_model(
            self.model, self._recipe, steps_per_execution=STEPS_PER_EXECUTION
        )
        self._optimizer = self.model.optimizer
        self._optimizer.build(self.model.trainable_variables)
        self._first = [keras.ops.convert_to_numpy(v) for v in self._optimizer.variables]
        self._seed: int | None = None

    def train(self, trial: Trial, ticket: tflottery.Ticket) -> dict[str, Any]:
        """Trains one cell from its round's ticket, and returns its results."""
        began = time.monotonic()
        if trial.seed != self._seed:
            self._seed = trial.seed
            self._arrays = self._recipe.arrays(self._images, seed=trial.seed)
            self._train = train_pipeline(self._recipe, self._arrays, trial.seed)
        arrays, train = self._arrays, self._train
        found = self.ticket_of(trial, ticket)
        for variable, value in zip(self._optimizer.variables, self._first, strict=True):
            variable.assign(value)
        found.apply(self.model, weights=trial.start)
        epochs = self._recipe.epochs(len(arrays.train[0]))
        callbacks: list[Any] = [
            keras.callbacks.LambdaCallback(on_epoch_end=self._check)
        ]
        if self._recipe.keep == "best":
            callbacks.append(
                keras.callbacks.EarlyStopping(
                    "val_accuracy",
                    mode="max",
                    patience=epochs,
                    restore_best_weights=True,
                )
            )
        train.epoch = 0
        history = self.model.fit(
            train,
            validation_data=arrays.validation,
            validation_batch_size=EVALUATION_BATCH,
            epochs=epochs,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
        metrics = self.model.evaluate(
            *arrays.test, EVALUATION_BATCH, return_dict=True, verbose=0
        )
        seconds = time.monotonic() - began
        return self.result(found, history.history, metrics, len(train), seconds)

    def result(
        self,
        found: tflottery.Ticket,
        history: Mapping[str, Sequence[float]],
        metrics: Mapping[str, float],
        steps: int,
        seconds: float,
    ) -> dict[str, Any]:
        """Returns the results of a cell.

        `history` holds the logs of its epochs by name, each of so many `steps`, and
        `metrics` those on the test images.
        """
        values = history["val_accuracy"]
        best = values.index(max(values))
        return {
            "density": found.density,
            "sparsity": found.sparsity,
            "dataset": self._images.name,
            "images_per_class": self._recipe.images_per_class,
            "metric": float(metrics["accuracy"]),
            "val_metric": values[best if self._recipe.keep == "best" else -1],
            "val_metrics": values,
            "steps": len(values) * steps,
            "steps_to_best": (best + 1) * steps,
            "seconds": seconds,
            "density_per_layer": masks_lib.density_per_layer(found.masks),
            "failure": None if math.isfinite(history["loss"][-1]) else "diverged",
        }

    def _check(self, epoch: int, logs: Any) -> None:
        if not math.isfinite(logs["loss"]):
            self.model.stop_training = True

    def ticket_of(self, trial: Trial, ticket: tflottery.Ticket) -> tflottery.Ticket:
        """Returns the ticket that a cell trains, derived from its round's."""
        if trial.weights == "fresh" or trial.arm in CONTROLS:
            fresh = controls.weights_of(self._network(seed=_OTHER_SEEDS + trial.seed))
            ticket = controls.ARMS[trial.arm](ticket, fresh, trial.seed)
        return self._student(ticket, trial.seed).ticket if self._transfers else ticket

    def _student(self, ticket: tflottery.Ticket, seed: int) -> Any:
        """Returns the network with a new head, for the target task."""
        classes, dense = self._images.num_classes, keras.layers.Dense
        head: dict[str, Any] = {"num_classes": classes}
        if self._head == "two_layer":
            hidden = dense(_HIDDEN, activation="relu", name="head_1")
            head = {
                "head": [hidden, dense(classes, activation="softmax", name="head_2")]
            }
        with warnings.catch_warnings():
            # The loss from freezing sparse features is what this experiment measures.
            warnings.filterwarnings("ignore", "`freeze_backbone=True`")
            return tflottery.transfer_ticket(
                ticket,
                **head,
                backbone=self._network(),
                freeze_backbone=self._regime == "frozen",
                seed=seed,
            )


def train_pipeline(recipe: Recipe, arrays: Arrays, seed: int, keras: Any = None) -> Any:
    """Returns the shuffled batches of a recipe, for Keras 3 or `keras`."""
    options = {"seed": seed, "augment": recipe.augment, "keras": keras}
    return pipelines.train_pipeline(
        *arrays.train, batch_size=recipe.batch_size, **options
    )
