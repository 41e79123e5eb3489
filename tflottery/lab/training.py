"""Training: a recipe, and the compiled model and the data that it makes."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.core import checks
from tflottery.core.config import LotteryConfig
from tflottery.lab.data import pixels
from tflottery.lab.data.datasets import Images, Labelled
from tflottery.lab.data.pipelines import Augment
from tflottery.lab.models import MODELS, builder, unknown

Optimizer = Callable[[Any, int], Any]
"""Makes a Keras optimizer from the Keras module and the steps of a round."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam:
    """Makes a Keras Adam with a constant learning rate."""

    learning_rate: float

    def __call__(self, keras: Any, steps: int) -> Any:
        return keras.optimizers.Adam(self.learning_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD:
    """Makes a Keras SGD whose learning rate drops during a round.

    Attributes:
        learning_rate: The initial rate.
        momentum: Momentum, in [0, 1).
        weight_decay: Factor of the weights in the gradient, as in the papers. There,
            momentum accumulates it to weight_decay / (1 - momentum). Keras' own decay
            bypasses the momentum, so it gets that sum.
        drops: Pairs of a share of the round's steps, in (0, 1), and the learning rate
            from there on.
    """

    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    drops: tuple[tuple[float, float], ...] = ()

    def __call__(self, keras: Any, steps: int) -> Any:
        rate: Any = self.learning_rate
        # The first rate has the steps 0 to round(share * steps) - 1, including the
        # boundary. In a short round, a rate may have no step.
        bounds = [round(share * steps) - 1 for share, _ in self.drops]
        if bounds:
            rate = keras.optimizers.schedules.PiecewiseConstantDecay(
                bounds, [rate, *(after for _, after in self.drops)]
            )
        return keras.optimizers.SGD(
            rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay / (1 - self.momentum) or None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained and pruned, checked when it is made.

    To change one, use `dataclasses.replace(recipe, steps=...)`.

    Attributes:
        name: Its name, as in `tflottery find --recipe NAME`.
        source: Where the settings come from: paper, section or table.
        model: A name in `models.MODELS`.
        dataset: A name that `datasets.load` accepts.
        batch_size: Images in a batch.
        steps: Optimizer steps of a round.
        optimizer: Makes an optimizer from the Keras module and `steps`.
        validation: Share of the training images for validation, in (0, 1).
        standardized: Whether each channel gets mean 0 and deviation 1, instead of
            values in [0, 1].
        input_shape: Shape to adapt images to; `None` is the dataset's own.
        augment: Augments a batch of training images, or `None`.
        prune_fraction, target_sparsity, scope, layer_fractions, skip, rewind_step,
            retrain, tolerance: As in `LotteryConfig`.
    """

    name: str
    source: str
    model: str
    dataset: str
    batch_size: int
    steps: int
    optimizer: Optimizer
    validation: float = 0.1
    standardized: bool = False
    input_shape: tuple[int, int, int] | None = None
    augment: Augment | None = None
    prune_fraction: float = 0.2
    target_sparsity: float = 0.9
    scope: str = "global"
    layer_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    skip: tuple[str, ...] = ()
    rewind_step: int = 0
    retrain: str = "rewind"
    tolerance: float = 0.0

    def __post_init__(self):
        if self.model not in MODELS:
            raise ValueError(unknown("model", self.model, MODELS))
        checks.whole("batch_size", self.batch_size, at_least=1)
        checks.whole("steps", self.steps, at_least=1)
        checks.fraction("validation", self.validation, "a share of the training images")
        LotteryConfig(**self.search_settings(self.batch_size))

    def epochs(self, num_images: int) -> int:
        """Returns the epochs of a round on `num_images` training images, at least 1."""
        return max(1, round(self.steps / -(-num_images // self.batch_size)))

    def search_settings(self, num_images: int) -> dict[str, Any]:
        """Returns the keyword arguments of `find_ticket` that this recipe sets.

        >>> recipe = Recipe(
        ...     name="short", source="mine", model="lenet_small", dataset="digits",
        ...     batch_size=60, steps=100, optimizer=Adam(learning_rate=1e-3)
        ... )
        >>> settings = recipe.search_settings(num_images=1_150)
        >>> settings["epochs"], settings["prune_fraction"]
        (5, 0.2)
        """
        keys = ("prune_fraction", "target_sparsity", "scope", "layer_fractions")
        keys += ("skip", "rewind_step", "retrain", "tolerance")
        return {"epochs": self.epochs(num_images)} | {k: getattr(self, k) for k in keys}

    def build(
        self, images: Images, *, keras: Any = None, seed: int | None = None
    ) -> Any:
        """Returns the model for a dataset, not compiled; see `models`."""
        shape = self.input_shape or images.input_shape
        return builder(self.model)(shape, images.num_classes, keras=keras, seed=seed)

    def arrays(self, images: Images, *, seed: int) -> "Arrays":
        """Returns a dataset prepared for this recipe.

        Images are adapted to `input_shape`, then scaled, or standardized by the
        statistics of the training images. Validation images are taken from the
        training images.

        Args:
            images: A dataset from `datasets.load`.
            seed: Seed of the choice of validation images.
        """
        if self.input_shape is not None:
            images = images.adapted(self.input_shape)
        (x, y), (x_val, y_val) = images.split_validation(self.validation, seed)
        channels = images.input_shape[2]
        statistics = np.zeros(channels), np.full(channels, 255.0)
        if self.standardized:
            statistics = pixels.channel_statistics(x)
        return Arrays(
            train=(pixels.standardize(x, statistics), y),
            validation=(pixels.standardize(x_val, statistics), y_val),
            test=(pixels.standardize(images.x_test, statistics), images.y_test),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays:
    """Images [N, H, W, C], float32, with labels [N]: to train, choose and report."""

    train: Labelled
    validation: Labelled
    test: Labelled


def compile_model(
    model: Any,
    recipe: Recipe,
    *,
    steps_per_execution: int = 1,
    jit_compile: bool | str | None = None,
) -> Any:
    """Compiles a Keras 3 or tf_keras model for a recipe, and returns it.

    The loss is the cross-entropy of whole-number labels, the metric is the accuracy.

    Args:
        model: A model that ends in a softmax, as those of `models` do.
        recipe: The recipe with the optimizer.
        steps_per_execution: As in `compile`.
        jit_compile: As in `compile`. `None` turns XLA off for TensorFlow on a CPU,
            where it doubles the time of ResNet-20, and otherwise lets Keras choose.
    """
    keras = _keras_of(model)
    if jit_compile is None:
        jit_compile = _jit_compile(keras)
    model.compile(
        optimizer=recipe.optimizer(keras, recipe.steps),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile,
    )
    return model


def _keras_of(model: Any) -> Any:
    """Returns the Keras module that a model belongs to."""
    roots = {cls.__module__.split(".")[0] for cls in type(model).__mro__}
    for name in ("tf_keras", "keras"):
        if name in roots:
            return sys.modules[name]
    raise ValueError(
        "`model` must be a Keras 3 or a tf_keras model. "
        f"Received: {type(model).__module__}.{type(model).__name__}"
    )


def _jit_compile(keras: Any) -> bool | str | None:
    legacy = keras.__name__ == "tf_keras"
    if not legacy and keras.backend.backend() != "tensorflow":
        return "auto"
    tf = importlib.import_module("tensorflow")
    if not tf.config.list_physical_devices("GPU"):
        return False
    return None if legacy else "auto"
