"""The networks have the papers' layers, counts and names on both Keras generations."""

import re

import numpy as np
import pytest

from tflottery.lab import models

CIFAR = (32, 32, 3)


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request):
    return pytest.importorskip(request.param)


def kernels(model):
    """Returns the sizes of all kernels by layer name."""
    return {
        layer.name: int(np.prod(layer.kernel.shape))
        for layer in model.layers
        if hasattr(layer, "kernel")
    }


def test_a_function_of_ones_own_builds_the_same_weights_from_a_seed():
    keras = pytest.importorskip("keras")

    def network(input_shape, num_classes):
        layers = [keras.layers.Flatten(), keras.layers.Dense(num_classes)]
        return keras.Sequential([keras.Input(input_shape), *layers])

    def kernel(seed):
        model = models.builder(network)([2, 2, 1], 3, seed=seed)
        return np.asarray(model.layers[-1].kernel).tolist()

    assert kernel(1) == kernel(1) != kernel(2)


@pytest.mark.parametrize(
    ("name", "shape", "total", "in_convolutions"),
    [
        ("lenet_small", (8, 8, 1), 64 * 100 + 100 * 30 + 30 * 10, 0),
        ("lenet_300_100", (28, 28, 1), 266_200, 0),
        ("conv2", CIFAR, 4_300_992, 38_592),
        ("conv4", CIFAR, 2_425_024, 259_776),
        ("conv6", CIFAR, 2_261_184, 1_144_512),
        ("resnet20", CIFAR, 270_896, 270_256),
        ("resnet6", CIFAR, 278_624, 277_344),
        ("resnet18", CIFAR, 11_164_352, 11_159_232),
        ("vgg19", CIFAR, 20_024_000, 20_018_880),
    ],
)
def test_kernels_have_as_many_weights_as_documented(
    keras, name, shape, total, in_convolutions
):
    model = models.builder(name)(shape, 10, keras=keras)
    sizes = kernels(model)
    assert sum(sizes.values()) == total
    convolutions = [model.get_layer(n) for n in sizes]
    convolutions = [n.name for n in convolutions if len(n.kernel.shape) == 4]
    assert sum(sizes[n] for n in convolutions) == in_convolutions
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 10)
    assert "output" in sizes


def test_resnet20_has_274k_weights_of_which_2560_are_in_shortcuts(keras):
    model = models.resnet20(CIFAR, 10, keras=keras)
    assert model.count_params() == 274_042
    sizes = kernels(model)
    assert sum(size for name, size in sizes.items() if "shortcut" in name) == 2_560


def test_layer_names_are_the_same_each_time_and_on_both_kerases():
    expected = ["image", "flatten", "fc1", "fc2", "output"]
    keras, tf_keras = pytest.importorskip("keras"), pytest.importorskip("tf_keras")
    for _ in range(2):
        for module in (keras, tf_keras):
            model = models.lenet_300_100((28, 28, 1), 10, keras=module)
            assert [layer.name for layer in model.layers] == expected
    a, b = (models.resnet20(CIFAR, 10, keras=k) for k in (keras, tf_keras))
    assert [n.name for n in a.layers] == [n.name for n in b.layers]


def test_output_is_a_probability(keras):
    model = models.lenet_small((8, 8, 1), 10, keras=keras)
    p = np.asarray(model(np.random.default_rng(0).random((4, 8, 8, 1), "float32")))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


def test_the_initial_weights_are_glorot_normal(keras):
    w = np.asarray(
        models.lenet_300_100((28, 28, 1), 10, keras=keras, seed=1)
        .get_layer("fc1")
        .kernel
    )
    assert w.std() == pytest.approx(np.sqrt(2 / (784 + 300)), rel=0.02)
    # A normal cut off at two standard deviations, not a uniform distribution.
    assert np.abs(w).max() > 1.9 * w.std()


def test_one_seed_gives_the_same_weights_and_every_layer_its_own(keras):
    def build(seed):
        return models.conv4((8, 8, 3), 10, keras=keras, seed=seed)

    a, b, c = build(0), build(0), build(1)
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(a.get_weights()[0], c.get_weights()[0])

    twins = models.lenet_300_100((10, 10, 3), 100, keras=keras, seed=0)
    w = [np.asarray(twins.get_layer(n).kernel) for n in ("fc1", "fc2", "output")]
    assert not np.array_equal(w[2], w[1][:100])
    same_shape = models.resnet20((8, 8, 16), 10, keras=keras, seed=0)
    u, v = (
        np.asarray(same_shape.get_layer(f"stage1_block{i}_conv1").kernel)
        for i in (1, 2)
    )
    assert not np.array_equal(u, v)


def test_images_too_small_to_pool_are_an_error(keras):
    with pytest.raises(ValueError, match=r"too small.*'pool4'.*\(8, 8, 1\)"):
        models.vgg19((8, 8, 1), 10, keras=keras)


def test_a_shape_without_channels_is_an_error():
    with pytest.raises(ValueError, match="`input_shape` must be the height, width"):
        models.lenet_300_100((28, 28), 10)


def test_one_class_is_an_error():
    with pytest.raises(
        ValueError, match="`num_classes` must be a whole number of at least 2"
    ):
        models.lenet_300_100((28, 28, 1), 1)


def test_an_unknown_name_lists_the_names_and_suggests_the_nearest():
    names = re.escape(", ".join(models.MODELS))
    with pytest.raises(ValueError, match=f"{names}.*'resnet1'.*Did you mean 'resnet1"):
        models.builder("resnet1")
    with pytest.raises(ValueError, match=r"'zzz'$"):
        models.builder("zzz")
