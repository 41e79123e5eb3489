"""Models: the networks of the published experiments, for Keras 3 and tf_keras."""

import difflib
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tflottery.lab.layers import Network

Builder = Callable[..., Any]


def lenet_300_100(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds LeNet-300-100: two hidden layers of 300 and 100 units.

    266,200 weights in its kernels on 28x28x1 images with 10 classes ("266K").

    Source: Frankle & Carbin 2019, figure 2.

    Args:
        input_shape: height, width and channels of an image.
        num_classes: the number of units of the softmax layer `output`.
        keras: the Keras module to build with, `keras` (the default) or `tf_keras`.
        seed: makes the Glorot normal initial weights the same each time, at least 0;
            `None` draws them from Keras' global generator.

    Returns:
        A functional model that is built and not compiled.

    Raises:
        ValueError: `input_shape` is not height, width, channels, or `num_classes`
            is below 2.
    """
    net = Network(input_shape, num_classes, keras, seed)
    net.flatten()
    net.dense(300, "fc1")
    net.dense(100, "fc2")
    return net.finish("lenet_300_100")


def lenet_small(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds LeNet-300-100 at a third of its width, for the 8x8 digits.

    10,400 weights in its kernels on 8x8x1 images with 10 classes. Arguments, result
    and errors are those of `lenet_300_100`.
    """
    net = Network(input_shape, num_classes, keras, seed)
    net.flatten()
    net.dense(100, "fc1")
    net.dense(30, "fc2")
    return net.finish("lenet_small")


def conv2(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds Conv-2: 4,300,992 kernel weights on CIFAR-10 ("4.3M").

    Source: Frankle & Carbin 2019, figure 2. Arguments, result and errors are those
    of `lenet_300_100`.
    """
    return _conv("conv2", (64,), input_shape, num_classes, keras, seed)


def conv4(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds Conv-4: 2,425,024 kernel weights on CIFAR-10 ("2.4M").

    Source: Frankle & Carbin 2019, figure 2. Arguments, result and errors are those
    of `lenet_300_100`.
    """
    return _conv("conv4", (64, 128), input_shape, num_classes, keras, seed)


def conv6(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds Conv-6: 2,261,184 kernel weights on CIFAR-10, 1,144,512 in convolutions.

    The paper's table gives 1.7M and 1.1M. The layers that it lists have the 1.1M in
    convolutions, but three poolings of a 32x32 image leave 4x4x256 = 4,096 inputs to
    the first of the fully-connected layers, which then has 1,048,576 weights alone.
    The layers are taken from the paper, not the sum.

    Source: Frankle & Carbin 2019, figure 2. Arguments, result and errors are those
    of `lenet_300_100`.
    """
    return _conv("conv6", (64, 128, 256), input_shape, num_classes, keras, seed)


def resnet20(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds the 20-layer CIFAR ResNet: 274,042 weights in all ("274K").

    This is what Frankle & Carbin call "Resnet-18": three stages of three blocks with
    16, 32 and 64 channels, and 1x1 convolutions (2,560 weights, named
    `stage*_block1_shortcut`) where a stage halves the image. 270,896 weights are in
    kernels, 1,568 are the moving statistics of batch normalization. `resnet18` is
    the 11-million-weight network.

    Source: He et al. 2016, section 4.2; Frankle & Carbin 2019, figure 2. Arguments,
    result and errors are those of `lenet_300_100`.
    """
    widths = (16, 32, 64)
    return _resnet("resnet20", widths, 3, input_shape, num_classes, keras, seed)


def resnet20_narrow(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds `resnet20` at half its width, 8, 16 and 32 channels, for small computers.

    67,912 weights in its kernels on CIFAR-10. Arguments, result and errors are those
    of `lenet_300_100`.
    """
    widths = (8, 16, 32)
    return _resnet("resnet20_narrow", widths, 3, input_shape, num_classes, keras, seed)


def resnet18(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds the CIFAR form of ResNet-18: 11,164,352 weights in its kernels.

    The ImageNet network with a 3x3 first convolution and no pooling before the four
    stages of two blocks with 64, 128, 256 and 512 channels, as Mehta used it.
    Frankle & Carbin's "Resnet-18" is another network: `resnet20`.

    Source: He et al. 2016, table 1; Mehta 2019, section 3. Arguments, result and
    errors are those of `lenet_300_100`.
    """
    widths = (64, 128, 256, 512)
    return _resnet("resnet18", widths, 2, input_shape, num_classes, keras, seed)


def vgg19(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    keras: Any = None,
    seed: int | None = None,
) -> Any:
    """Builds VGG-19 for CIFAR: 20,024,000 weights in its kernels ("20.0M").

    Sixteen 3x3 convolutions with batch normalization, max pooling after the first
    four groups, global average pooling, and one fully-connected layer. Images must be
    at least 16 pixels high and wide.

    Source: Simonyan & Zisserman 2015; Frankle & Carbin 2019, figure 2. Arguments,
    result and errors are those of `lenet_300_100`.
    """
    net = Network(input_shape, num_classes, keras, seed)
    groups = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
    for group, (filters, convolutions) in enumerate(groups, start=1):
        if group > 1:
            net.max_pool(f"pool{group - 1}")
        for index in range(1, convolutions + 1):
            net.conv_bn(filters, f"block{group}_conv{index}")
            net.relu(f"block{group}_relu{index}")
    net.average_pool()
    return net.finish("vgg19")


MODELS: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        lenet_small,
        lenet_300_100,
        conv2,
        conv4,
        conv6,
        resnet18,
        resnet20,
        resnet20_narrow,
        vgg19,
    )
}


def builder(name: str) -> Builder:
    """Returns the builder of a name of `MODELS`.

    >>> builder("lenet_300_10")
    Traceback (most recent call last):
    ...
    ValueError: `model` must be one of lenet_small, lenet_300_100, conv2, conv4, \
conv6, resnet18, resnet20, resnet20_narrow, vgg19. Received: model='lenet_300_10'. \
Did you mean \
'lenet_300_100'?
    """
    if name not in MODELS:
        raise ValueError(unknown("model", name, MODELS))
    return MODELS[name]


def unknown(argument: str, name: str, known: Collection[str]) -> str:
    """Returns the message for a name that is not known: the names, and the nearest.

    >>> unknown("dataset", "minst", ["digits", "mnist"])
    "`dataset` must be one of digits, mnist. Received: dataset='minst'. Did you mean \
'mnist'?"
    """
    message = f"`{argument}` must be one of {', '.join(known)}. "
    message += f"Received: {argument}={name!r}"
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"{message}. Did you mean {near[0]!r}?" if near else message


def _conv(
    name: str,
    widths: Sequence[int],
    input_shape: Sequence[int],
    num_classes: int,
    keras: Any,
    seed: int | None,
) -> Any:
    net = Network(input_shape, num_classes, keras, seed)
    for pair, filters in enumerate(widths, start=1):
        net.conv(filters, f"conv{2 * pair - 1}")
        net.conv(filters, f"conv{2 * pair}")
        net.max_pool(f"pool{pair}")
    net.flatten()
    net.dense(256, "fc1")
    net.dense(256, "fc2")
    return net.finish(name)


def _resnet(
    name: str,
    widths: Sequence[int],
    blocks: int,
    input_shape: Sequence[int],
    num_classes: int,
    keras: Any,
    seed: int | None,
) -> Any:
    net = Network(input_shape, num_classes, keras, seed)
    net.conv_bn(widths[0], "stem_conv")
    net.relu("stem_relu")
    for stage, filters in enumerate(widths, start=1):
        for block in range(1, blocks + 1):
            prefix = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            start = net.x
            net.conv_bn(filters, f"{prefix}_conv1", strides=strides)
            net.relu(f"{prefix}_relu1")
            net.conv_bn(filters, f"{prefix}_conv2")
            residual = net.x
            if strides == 2:
                net.x = start
                net.conv_bn(filters, f"{prefix}_shortcut", size=1, strides=strides)
                start = net.x
            net.x = net.layers.Add(name=f"{prefix}_add")([start, residual])
            net.relu(f"{prefix}_relu2")
    net.average_pool()
    return net.finish(name)
