import keras
import numpy as np
import pytest
from making.tflite_files import prune

from tflottery.tflite import export_tflite
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import dead_units
from tflottery.tflite.run import verify
from tflottery.tflite.source import model as model_lib

layers = keras.layers


def kill(model, *, outgoing=(), incoming=()):
    """Prunes all weights out of, or into, the units given as (layer, unit)."""
    dense = [layer for layer in model.layers if layer.get_weights()]
    for number, unit in outgoing:
        kernel, *rest = dense[number + 1].get_weights()
        places = kernel.reshape(
            -1, dense[number].get_weights()[0].shape[-1], kernel.shape[-1]
        )
        if kernel.ndim == 4:
            kernel[:, :, unit] = 0
        else:
            places[:, unit] = 0
        dense[number + 1].set_weights([kernel, *rest])
    for number, unit in incoming:
        kernel, *rest = dense[number].get_weights()
        kernel[..., unit] = 0
        dense[number].set_weights([kernel, *rest])
    return model


def cleaned(model, path):
    """Returns how many units are removed, and the graph, after checking it."""
    source = model_lib.from_model(model)
    graph = Graph(source.dense)
    graph.make_static()
    removed = dead_units.remove_dead_units(graph)
    path.write_bytes(graph.to_bytes())
    verify.verify(path, source.samples, source.expected, 2e-6)
    return removed, Graph(path.read_bytes())


def dense_net():
    return prune(
        keras.Sequential(
            [
                layers.Input((6,)),
                layers.Dense(8, activation="relu"),
                layers.Dense(7, activation="relu"),
                layers.Dense(3),
            ]
        ),
        0.0,
    )


def conv_net(padding="same", pool=True):
    image = x = layers.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(2)(x) if pool else x
    x = layers.Conv2D(5, 3, padding=padding, activation="relu")(x)
    return prune(keras.Model(image, layers.Dense(3)(layers.Flatten()(x))), 0.0)


def shapes(graph):
    return [
        graph.shape(op.inputs[1])
        for op in graph.operators
        if graph.name(op) in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
    ]


def test_nothing_is_removed_where_every_unit_is_used(tmp_path):
    removed, graph = cleaned(dense_net(), tmp_path / "a.tflite")
    assert removed == 0
    assert shapes(graph) == [(8, 6), (7, 8), (3, 7)]


def test_a_unit_that_is_read_by_nobody_is_removed(tmp_path):
    model = kill(dense_net(), outgoing=[(0, 2), (1, 0), (1, 6)])
    removed, graph = cleaned(model, tmp_path / "a.tflite")
    assert removed == 3
    assert shapes(graph) == [(7, 6), (5, 7), (3, 5)]


def test_a_unit_that_reads_nothing_goes_into_the_next_bias(tmp_path):
    model = kill(dense_net(), incoming=[(0, 1), (0, 5)])
    assert (model.layers[0].bias.numpy()[[1, 5]] > 0).any()
    removed, graph = cleaned(model, tmp_path / "a.tflite")
    assert removed == 2
    assert shapes(graph) == [(6, 6), (7, 6), (3, 7)]


def test_removing_a_unit_frees_the_one_that_only_it_read(tmp_path):
    model = kill(dense_net(), outgoing=[(1, 3)])
    kernel, bias = model.layers[1].get_weights()
    kernel[4] = 0
    kernel[4, 3] = 1  # unit 4 of the first layer is read by unit 3 alone
    model.layers[1].set_weights([kernel, bias])
    removed, _ = cleaned(model, tmp_path / "a.tflite")
    assert removed == 2


def test_channels_are_removed_through_pooling_and_flattening(tmp_path):
    model = kill(conv_net(), outgoing=[(0, 1), (1, 0), (1, 4)])
    removed, graph = cleaned(model, tmp_path / "a.tflite")
    assert removed == 3
    assert shapes(graph) == [(5, 3, 3, 3), (3, 3, 3, 5), (3, 3 * 16)]


@pytest.mark.parametrize(("bias", "removed"), [(0.5, 0), (-0.5, 1)])
def test_a_constant_is_kept_where_padding_shows(bias, removed, tmp_path):
    # Padding is 0, so a channel of 0.5 differs at the border; relu(-0.5) is 0 too.
    model = kill(conv_net(), incoming=[(0, 1)])
    kernel, biases = model.layers[1].get_weights()
    biases[1] = bias
    model.layers[1].set_weights([kernel, biases])
    assert cleaned(model, tmp_path / "a.tflite")[0] == removed


def test_a_constant_is_folded_where_nothing_is_padded(tmp_path):
    model = kill(conv_net("valid"), incoming=[(0, 1)])
    kernel, biases = model.layers[1].get_weights()
    biases[1] = 0.5
    model.layers[1].set_weights([kernel, biases])
    assert cleaned(model, tmp_path / "a.tflite")[0] == 1


def residual():
    image = x = layers.Input((8, 8, 3))
    x = layers.Conv2D(6, 1, activation="relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    y = layers.Conv2D(6, 1)(layers.ReLU()(y))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return prune(keras.Model(image, layers.Dense(3)(x)), 0.0)


def test_added_channels_stay_while_one_of_their_readers_needs_them(tmp_path):
    model = residual()
    head, inner = model.layers[-1], model.layers[-4]
    kernel, bias = head.get_weights()
    kernel[2] = 0
    head.set_weights([kernel, bias])
    assert cleaned(model, tmp_path / "a.tflite")[0] == 0
    kernel, bias = inner.get_weights()
    kernel[:, :, 2] = 0
    inner.set_weights([kernel, bias])
    removed, graph = cleaned(model, tmp_path / "b.tflite")
    assert removed == 1
    assert shapes(graph) == [(5, 1, 1, 3), (1, 3, 3, 5), (5, 1, 1, 5), (3, 5)]


def test_grouped_convolutions_keep_their_channels(tmp_path):
    image = x = layers.Input((8, 8, 8))
    x = layers.Conv2D(16, 3, groups=4, activation="relu")(x)
    x = layers.Conv2D(12, 3, groups=2)(x)
    x = layers.Conv2D(6, 1)(x)
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    model = prune(model, 0.0)
    kill(model, outgoing=[(1, 2), (2, 3)], incoming=[(0, 0), (1, 5)])
    removed, graph = cleaned(model, tmp_path / "a.tflite")
    assert removed == 1
    assert shapes(graph)[:3] == [(16, 3, 3, 2), (12, 3, 3, 8), (5, 1, 1, 12)]


def channels_first():
    """Means over the last dimension, where another one is as long."""
    model = keras.Sequential(
        [
            layers.Input((4, 8)),
            layers.Dense(4, activation="relu"),
            layers.GlobalAveragePooling1D("channels_first"),
            layers.Dense(3),
        ]
    )
    return prune(model, 0.0)


def channels_last():
    model = keras.Sequential(
        [
            layers.Input((4, 8)),
            layers.Dense(4, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )
    return prune(model, 0.0)


def test_a_mean_passes_constants_on_only_where_it_keeps_the_channels(tmp_path):
    for build, removed in ((channels_first, 0), (channels_last, 1)):
        model = build()
        kernel, bias = model.layers[0].get_weights()
        kernel[:, 1], bias[1] = 0, 2
        model.layers[0].set_weights([kernel, bias])
        assert cleaned(model, tmp_path / "a.tflite")[0] == removed


def test_a_layer_keeps_one_unit(tmp_path):
    model = kill(dense_net(), outgoing=[(0, unit) for unit in range(8)])
    _, graph = cleaned(model, tmp_path / "a.tflite")
    assert shapes(graph)[0] == (1, 6)


def test_units_of_int8_files_are_removed_with_their_scales(tmp_path):
    model = kill(conv_net(), outgoing=[(0, 1), (1, 0)])
    data = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    report = export_tflite(
        model, tmp_path / "a.tflite", target="int8", representative_data=data
    )
    assert report.removed_units == 2
    assert report.difference < 0.1
