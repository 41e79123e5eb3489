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
        keras: The Keras module to build with, `tf_keras` or `keras` (the default).
        seed: Seed of the Glorot normal initial weights, at least 0; `None` draws them
            from Keras' global generator.

    Raises:
        ValueError: If `input_shape` is not height, width and channels, or is too small
            for the network, or `num_classes` is below 2.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        keras: Any,
        seed: int | None,
    ):
        shape = tuple(input_shape)
        if len(shape) != 3 or not all(isinstance(d, int) and d > 0 for d in shape):
            raise ValueError(
                "`input_shape` must be the height, width and channels of an image, "
                f"such as (28, 28, 1). Received: input_shape={input_shape!r}"
            )
        checks.whole("num_classes", num_classes, at_least=2)
        self.keras = importlib.import_module("keras") if keras is None else keras
        self.layers = self.keras.layers
        self.num_classes = num_classes
        self.seed = seed
        self.input = self.keras.Input(shape=shape, name="image")
        self.x = self.input

    def glorot(self, name: str) -> Any:
        # Each layer has its own seed, or layers of the same shape would start equal.
        seed = self.seed
        if seed is not None:
            seed = zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
        return self.keras.initializers.GlorotNormal(seed=seed)

    def flatten(self) -> None:
        self.x = self.layers.Flatten(name="flatten")(self.x)

    def dense(self, units: int, name: str, activation: str = "relu") -> None:
        self.x = self.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=self.glorot(name),
            name=name,
        )(self.x)

    def conv(self, filters: int, name: str) -> None:
        """Adds a 3x3 convolution with biases and ReLU."""
        self.x = self.layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="relu",
            kernel_initializer=self.glorot(name),
            name=name,
        )(self.x)

    def conv_bn(self, filters: int, name: str, size: int = 3, strides: int = 1) -> None:
        """Adds a convolution without biases, then batch normalization."""
        self.x = self.layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=self.glorot(name),
            name=name,
        )(self.x)
        # The momentum and epsilon of PyTorch and the papers, not Keras' 0.99 and 1e-3.
        self.x = self.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, name=f"{name}_bn"
        )(self.x)

    def relu(self, name: str) -> None:
        self.x = self.layers.ReLU(name=name)(self.x)

    def max_pool(self, name: str) -> None:
        _, height, width, _ = self.x.shape
        if min(height, width) < 2:
            raise ValueError(
                "`input_shape` is too small for this model: nothing is left to pool "
                f"at {name!r}. Use larger images, or a model with fewer poolings. "
                f"Received: input_shape={tuple(self.input.shape[1:])}"
            )
        self.x = self.layers.MaxPooling2D(2, name=name)(self.x)

    def average_pool(self) -> None:
        self.x = self.layers.GlobalAveragePooling2D(name="average_pool")(self.x)

    def finish(self, name: str) -> Any:
        # A softmax needs float32's range, even with a mixed-precision policy.
        self.x = self.layers.Dense(
            self.num_classes,
            activation="softmax",
            kernel_initializer=self.glorot("output"),
            dtype="float32",
            name="output",
        )(self.x)
        return self.keras.Model(self.input, self.x, name=name)
