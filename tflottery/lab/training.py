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
from tflottery.lab.models import builder, unknown

_KEEP = ("best", "last")
_PRECISIONS = ("float32", "mixed_bfloat16")

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
    """Makes a Keras SGD whose learning rate changes during a round.

    It drops in steps, or with a `warmup` rises to `learning_rate` and then falls to 0
    as a half cosine.

    `weight_decay` is the factor of the weights in the gradient, as in the papers, where
    momentum accumulates it to weight_decay / (1 - momentum). Keras' own decay bypasses
    the momentum, so it gets that sum.
    """

    learning_rate: float  # The initial rate.
    momentum: float = 0.9  # In [0, 1).
    weight_decay: float = 0.0
    # Pairs of a share of the round's steps, in (0, 1), and the rate from there on.
    drops: tuple[tuple[float, float], ...] = ()
    warmup: float = 0.0  # Share of the round's steps, in [0, 1).

    def __call__(self, keras: Any, steps: int) -> Any:
        rate: Any = self.learning_rate
        # The first rate has the steps 0 to round(share * steps) - 1, including the
        # boundary. In a short round, a rate may have no step.
        bounds = [round(share * steps) - 1 for share, _ in self.drops]
        if bounds:
            rate = keras.optimizers.schedules.PiecewiseConstantDecay(
                bounds, [rate, *(after for _, after in self.drops)]
            )
        if self.warmup:
            rise = round(self.warmup * steps)
            rate = keras.optimizers.schedules.CosineDecay(
                0.0, steps - rise, warmup_target=rate, warmup_steps=rise
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
    """

    name: str  # As in `tflottery find --recipe NAME`.
    source: str = ""  # Where the settings come from: paper, section or table.
    # A name in `models.MODELS`, or a function `(input_shape, num_classes) -> model`.
    model: str | Callable[[tuple[int, ...], int], Any]
    dataset: str | Images  # A name that `datasets.load` accepts, or the images.
    batch_size: int  # Images in a batch.
    steps: int  # Optimizer steps of a round.
    optimizer: Optimizer
    validation: float = 0.1  # Share of the training images, in (0, 1).
    images_per_class: int | None = None  # Training images; `None` is all.
    precision: str = "float32"  # Keras' dtype policy, in which the network is built.
    standardized: bool = (
        False  # Channels get mean 0, deviation 1; else values in [0, 1].
    )
    input_shape: tuple[int, int, int] | None = None  # To adapt images to.
    augment: Augment | None = None  # Augments a batch of training images.
    # The epoch whose weights an experiment reports: "best" on validation, or "last",
    # for a rate that ends at 0 and validation images too few to choose by.
    keep: str = "best"
    # As in `LotteryConfig`.
    prune_fraction: float = 0.2
    target_sparsity: float = 0.9
    scope: str = "global"
    layer_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    skip: tuple[str, ...] = ()
    rewind_step: int = 0
    retrain: str = "rewind"
    tolerance: float = 0.0

    def __post_init__(self):
        builder(self.model)
        checks.whole("batch_size", self.batch_size, at_least=1)
        checks.whole("steps", self.steps, at_least=1)
        checks.fraction("validation", self.validation, "a share of the training images")
        for name, known in (("keep", _KEEP), ("precision", _PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(unknown(name, getattr(self, name), known))
        LotteryConfig(**self.search_settings(self.batch_size))

    @property
    def dataset_name(self) -> str:
        """The name of the dataset, also of images of your own."""
        return self.dataset.name if isinstance(self.dataset, Images) else self.dataset

    def epochs(self, num_images: int) -> int:
        """Returns the epochs of a round on `num_images` training images, at least 1."""
        return max(1, round(self.steps / -(-num_images // self.batch_size)))

    def search_settings(self, num_images: int) -> dict[str, Any]:
        """Returns the keyword arguments of `find_ticket` that this recipe sets."""
        keys = ("prune_fraction", "target_sparsity", "scope", "layer_fractions")
        keys += ("skip", "rewind_step", "retrain", "tolerance")
        return {"epochs": self.epochs(num_images)} | {k: getattr(self, k) for k in keys}

    def build(self, images: Images, **options: Any) -> Any:
        """Returns the model for a dataset, not compiled; `options` as in `models`."""
        shape = self.input_shape or images.input_shape
        return self.network(shape, images.num_classes, **options)

    def network(
        self, input_shape: tuple[int, ...], num_classes: int, **options: Any
    ) -> Any:
        """Returns the model for images of a shape, in this recipe's precision."""
        keras = options.get("keras") or importlib.import_module("keras")
        before = keras.mixed_precision.global_policy()
        keras.mixed_precision.set_global_policy(self.precision)
        try:
            return builder(self.model)(input_shape, num_classes, **options)
        finally:
            keras.mixed_precision.set_global_policy(before)

    def arrays(self, images: Images, *, seed: int) -> "Arrays":
        """Returns a dataset prepared for this recipe.

        Images are adapted to `input_shape`, then scaled, or standardized by the
        statistics of the training images. Validation images are taken from the
        training images; `seed` chooses them, and the `images_per_class`.
        """
        images = images.per_class(self.images_per_class, seed)
        shape = self.input_shape or images.input_shape
        adapted = {
            k: pixels.adapt(getattr(images, k), shape) for k in ("x_train", "x_test")
        }
        images = dataclasses.replace(images, **adapted)
        (x, y), (x_val, y_val) = images.split_validation(self.validation, seed)
        channels = images.input_shape[2]
        statistics = np.zeros(channels), np.full(channels, 255.0)
        if self.standardized:
            statistics = pixels.channel_statistics(x)
        parts = (x, y), (x_val, y_val), (images.x_test, images.y_test)
        return Arrays(*((pixels.standardize(x, statistics), y) for x, y in parts))


@dataclasses.dataclass(frozen=True)
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

    The model ends in a softmax, as those of `models` do. The loss is the cross-entropy
    of whole-number labels, the metric is the accuracy. `jit_compile=None` turns XLA off
    for TensorFlow on a CPU, where it doubles the time of ResNet-20, and otherwise lets
    Keras choose.

    Raises:
        ValueError: If `model` is not a Keras model.
    """
    roots = {cls.__module__.split(".")[0] for cls in type(model).__mro__}
    if not roots & {"tf_keras", "keras"}:
        raise ValueError(
            "`model` must be a Keras 3 or a tf_keras model. "
            f"Received: {type(model).__module__}.{type(model).__name__}"
        )
    keras = sys.modules["tf_keras" if "tf_keras" in roots else "keras"]
    if jit_compile is None:
        jit_compile = None if keras.__name__ == "tf_keras" else "auto"
        if keras.backend.backend() == "tensorflow":
            tf = importlib.import_module("tensorflow")
            if not tf.config.list_physical_devices("GPU"):
                jit_compile = False
    model.compile(
        optimizer=recipe.optimizer(keras, recipe.steps),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile,
    )
    return model
