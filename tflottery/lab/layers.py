"""Layers: builds a functional model of either Keras, layer by layer."""

import importlib
import zlib
from collections.abc import Sequence
from typing import Any

from tflottery.core import checks


class Network:
    """Adds one named layer per call; `finish` returns the model.

    Args:
        input_shape: Height, width and channels of an image.
        num_classes: Number of units of the softmax layer `output`, at least 2.
        keras: The Keras module to build with; `None` is Keras 3.
        seed: Seed of the Glorot normal initial weights; `None` is Keras' own.

    Raises:
        ValueError: If `input_shape` is not height, width and channels, or is too small
            for the network, or `num_classes` is below 2.
    """

    def __init__(
        self, input_shape: Sequence[int], num_classes: int, keras: Any, seed: int | None
    ):
        shape = tuple(input_shape)
        if len(shape) != 3 or not all(isinstance(d, int) and d > 0 for d in shape):
            raise ValueError(
                "`input_shape` must be the height, width and channels of an image, "
                f"such as (28, 28, 1). Received: input_shape={input_shape!r}"
            )
        checks.whole("num_classes", num_classes, at_least=2)
        self.keras = importlib.import_module("keras") if keras is None else keras
        self.num_classes = num_classes
        self.seed = seed
        self.input = self.keras.Input(shape=shape, name="image")
        self.x = self.input

    def add(self, kind: str, *arguments: Any, name: str, **options: Any) -> None:
        """Adds a layer of Keras' class `kind`."""
        if kind in ("Conv2D", "Dense"):
            # Each has its own seed, or layers of the same shape would start equal.
            seed = self.seed
            if seed is not None:
                seed = zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
            initializer = self.keras.initializers.GlorotNormal(seed=seed)
            options["kernel_initializer"] = initializer
        layer = getattr(self.keras.layers, kind)(*arguments, name=name, **options)
        self.x = layer(self.x)

    def dense(self, units: int, name: str) -> None:
        """Adds a fully-connected layer with ReLU."""
        self.add("Dense", units, activation="relu", name=name)

    def conv(self, filters: int, name: str) -> None:
        """Adds a 3x3 convolution with biases and ReLU."""
        self.add("Conv2D", filters, 3, padding="same", activation="relu", name=name)

    def conv_bn(self, filters: int, name: str, size: int = 3, strides: int = 1) -> None:
        """Adds a convolution without biases, then batch normalization."""
        options = {"strides": strides, "padding": "same", "use_bias": False}
        self.add("Conv2D", filters, size, name=name, **options)
        # The momentum and epsilon of PyTorch and the papers, not Keras' 0.99 and 1e-3.
        batch_norm = {"momentum": 0.9, "epsilon": 1e-5}
        self.add("BatchNormalization", name=f"{name}_bn", **batch_norm)

    def max_pool(self, name: str) -> None:
        """Halves the image, or raises ValueError if it is too small."""
        _, height, width, _ = self.x.shape
        if min(height, width) < 2:
            raise ValueError(
                "`input_shape` is too small for this model: nothing is left to pool "
                f"at {name!r}. Use larger images, or a model with fewer poolings. "
                f"Received: input_shape={tuple(self.input.shape[1:])}"
            )
        self.add("MaxPooling2D", 2, name=name)

    def finish(self, name: str) -> Any:
        """Returns the model, which ends in a softmax."""
        # A softmax needs float32's range, even with a mixed-precision policy.
        options = {"activation": "softmax", "dtype": "float32"}
        self.add("Dense", self.num_classes, name="output", **options)
        return self.keras.Model(self.input, self.x, name=name)
