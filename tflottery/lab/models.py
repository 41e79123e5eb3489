"""Models: the networks of the published experiments, for Keras 3 and tf_keras.

A builder is `(input_shape, num_classes, *, keras=None, seed=None) -> model`, with the
arguments and errors of `layers.Network`. The model is functional and not compiled.
"""

import difflib
import importlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tflottery.lab.layers import Network

Builder = Callable[..., Any]

MODELS: dict[str, Builder] = {}


def _model(layers: Callable[[Network], None]) -> Builder:
    """Makes a builder of a function that adds the layers, and lists it in `MODELS`."""

    def build(
        input_shape: Sequence[int],
        num_classes: int,
        *,
        keras: Any = None,
        seed: int | None = None,
    ) -> Any:
        net = Network(input_shape, num_classes, keras, seed)
        layers(net)
        return net.finish(layers.__name__)

    build.__name__ = build.__qualname__ = layers.__name__
    build.__doc__ = layers.__doc__
    MODELS[layers.__name__] = build
    return build


@_model
def lenet_small(net: Network) -> None:
    """LeNet-300-100 at a third of its width: 10,400 kernel weights on 8x8 digits."""
    net.add("Flatten", name="flatten")
    net.dense(100, "fc1")
    net.dense(30, "fc2")


@_model
def lenet_300_100(net: Network) -> None:
    """LeNet-300-100: 266,200 kernel weights on MNIST ("266K").

    Source: Frankle & Carbin 2019, figure 2.
    """
    net.add("Flatten", name="flatten")
    net.dense(300, "fc1")
    net.dense(100, "fc2")


@_model
def conv2(net: Network) -> None:
    """Conv-2 of the same table: 4,300,992 kernel weights on CIFAR-10 ("4.3M")."""
    _conv(net, (64,))


@_model
def conv4(net: Network) -> None:
    """Conv-4 of the same table: 2,425,024 kernel weights on CIFAR-10 ("2.4M")."""
    _conv(net, (64, 128))


@_model
def conv4_narrow(net: Network) -> None:
    """Conv-4 at a quarter of its filters: 215,728 kernel weights on 16x16 images."""
    _conv(net, (16, 32))


@_model
def conv6(net: Network) -> None:
    """Conv-6 of the same table: 2,261,184 kernel weights on CIFAR-10.

    The table gives 1.7M. Its layers do have the 1.1M weights that it gives for the
    convolutions, but three poolings of a 32x32 image leave 4x4x256 = 4,096 inputs to
    the first fully-connected layer, which alone has 1,048,576 weights.
    """
    _conv(net, (64, 128, 256))


@_model
def resnet18(net: Network) -> None:
    """The CIFAR form of ResNet-18: 11,164,352 weights in its kernels.

    The ImageNet network with a 3x3 first convolution and no pooling before the four
    stages of two blocks with 64, 128, 256 and 512 channels, as Mehta used it.
    Frankle & Carbin's "Resnet-18" is another network: `resnet20`.

    Source: He et al. 2016, table 1; Mehta 2019, section 3.
    """
    _resnet(net, (64, 128, 256, 512), blocks=2)


@_model
def resnet20(net: Network) -> None:
    """The 20-layer CIFAR ResNet: 274,042 weights, 270,896 of them in kernels ("274K").

    Frankle & Carbin call this network "Resnet-18": three stages of three blocks with
    16, 32 and 64 channels, and 1x1 convolutions (2,560 weights, named
    `stage*_block1_shortcut`) where a stage halves the image.

    Source: He et al. 2016, section 4.2; Frankle & Carbin 2019, figure 2.
    """
    _resnet(net, (16, 32, 64), blocks=3)


@_model
def resnet6(net: Network) -> None:
    """A ResNet for two cores: 278,624 kernel weights on CIFAR-10, 7.5M multiply-adds.

    Three convolutions of stride 2 (32, 64 and 128 channels) go down to 4x4 places,
    where weights are cheap; the last two are followed by a residual convolution each.

    Source: made for the study in docs/results/transfer.md.
    """
    for stage, filters in enumerate((32, 64, 128), start=1):
        net.conv_bn(filters, f"stage{stage}_conv", strides=2)
        net.add("ReLU", name=f"stage{stage}_relu")
        if stage > 1:
            start = net.x
            net.conv_bn(filters, f"stage{stage}_residual")
            net.add("ReLU", name=f"stage{stage}_residual_relu")
            layer = net.keras.layers.Add(name=f"stage{stage}_add")
            net.x = layer([start, net.x])
    net.add("GlobalAveragePooling2D", name="average_pool")


@_model
def vgg19(net: Network) -> None:
    """VGG-19 for CIFAR: 20,024,000 weights in its kernels ("20.0M").

    Sixteen 3x3 convolutions with batch normalization, max pooling after the first
    four groups, global average pooling, and one fully-connected layer. Images must be
    at least 16 pixels high and wide.

    Source: Simonyan & Zisserman 2015; Frankle & Carbin 2019, figure 2.
    """
    groups = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
    for group, (filters, convolutions) in enumerate(groups, start=1):
        if group > 1:
            net.max_pool(f"pool{group - 1}")
        for index in range(1, convolutions + 1):
            net.conv_bn(filters, f"block{group}_conv{index}")
            net.add("ReLU", name=f"block{group}_relu{index}")
    net.add("GlobalAveragePooling2D", name="average_pool")


def builder(name: str | Callable[[tuple[int, ...], int], Any]) -> Builder:
    """Returns the builder of that name in `MODELS`; ValueError if there is none.

    A function of your own `(input_shape, num_classes) -> model` becomes a builder: its
    seed is set for all of Keras' generators.
    """
    if callable(name):
        own = name

        def build(input_shape: Any, num_classes: int, **options: Any) -> Any:
            if options.get("seed") is not None:
                importlib.import_module("keras").utils.set_random_seed(options["seed"])
            return own(tuple(input_shape), num_classes)

        return build
    if name not in MODELS:
        raise ValueError(unknown("model", name, MODELS))
    return MODELS[name]


def unknown(argument: str, name: str, known: Collection[str]) -> str:
    """Returns the message for an unknown name: the known names, and the nearest.

    >>> unknown("dataset", "minst", ["digits", "mnist"])
    "`dataset` must be one of digits, mnist. Received: dataset='minst'. Did you mean \
'mnist'?"
    """
    message = f"`{argument}` must be one of {', '.join(known)}. "
    message += f"Received: {argument}={name!r}"
    near = [other for other in known if name and other.startswith(str(name))]
    near = near or difflib.get_close_matches(str(name), list(known), n=1)
    return f"{message}. Did you mean {near[0]!r}?" if near else message


def _conv(net: Network, widths: Sequence[int]) -> None:
    for pair, filters in enumerate(widths, start=1):
        net.conv(filters, f"conv{2 * pair - 1}")
        net.conv(filters, f"conv{2 * pair}")
        net.max_pool(f"pool{pair}")
    net.add("Flatten", name="flatten")
    net.dense(256, "fc1")
    net.dense(256, "fc2")


def _resnet(net: Network, widths: Sequence[int], blocks: int) -> None:
    net.conv_bn(widths[0], "stem_conv")
    net.add("ReLU", name="stem_relu")
    for stage, filters in enumerate(widths, start=1):
        for block in range(1, blocks + 1):
            prefix = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            start = net.x
            net.conv_bn(filters, f"{prefix}_conv1", strides=strides)
            net.add("ReLU", name=f"{prefix}_relu1")
            net.conv_bn(filters, f"{prefix}_conv2")
            residual = net.x
            net.x = start
            if strides == 2:
                net.conv_bn(filters, f"{prefix}_shortcut", size=1, strides=strides)
            net.x = net.keras.layers.Add(name=f"{prefix}_add")([net.x, residual])
            net.add("ReLU", name=f"{prefix}_relu2")
    net.add("GlobalAveragePooling2D", name="average_pool")
