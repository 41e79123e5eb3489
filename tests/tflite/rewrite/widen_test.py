import numpy as np
import pytest
from making.tflite_files import one_layer, sparse_array

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.rewrite.widen import widen
from tflottery.tflite.run import verify


def names(graph):
    return [graph.name(op) for op in graph.operators]


@pytest.mark.parametrize("shape", [(300, 784), (300, 1, 1, 512)], ids=str)
@pytest.mark.parametrize("storage", ["keep", "int8"])
def test_a_wide_layer_becomes_smaller_and_answers_the_same(shape, storage, tmp_path):
    dense, samples = one_layer(sparse_array(shape, 0.95))
    plain, wide = Graph(dense), Graph(dense)
    assert widen(wide, quantize=storage == "int8") == 1
    sizes = []
    for graph in (plain, wide):
        sparsify.sparsify(graph, storage)
        sizes.append(len(graph.to_bytes()))
    assert sizes[1] < 0.95 * sizes[0]
    outputs = []
    for number, graph in enumerate((plain, wide)):
        path = tmp_path / f"{number}.tflite"
        path.write_bytes(graph.to_bytes())
        outputs.append(verify.run_everywhere(path, [samples])[0])
    for name, (expected,) in outputs[0].items():
        assert verify.difference(expected, outputs[1][name][0]) < 1e-6


@pytest.mark.parametrize(
    "shape", [(300, 256), (300, 257), (20, 200), (300, 3, 3, 512)], ids=str
)
def test_a_layer_that_would_not_get_smaller_is_left_alone(shape):
    graph = Graph(one_layer(sparse_array(shape, 0.95))[0])
    before = names(graph)
    assert widen(graph) == 0
    assert names(graph) == before


def test_a_layer_without_zeros_is_left_alone():
    graph = Graph(one_layer(sparse_array((300, 512), 0.0))[0])
    assert widen(graph) == widen(graph, always=True) == 0


def test_every_fully_connected_layer_becomes_a_convolution_if_asked(tmp_path):
    dense, samples = one_layer(sparse_array((30, 20), 0.5))
    graph = Graph(dense)
    assert widen(graph, always=True) == 1
    assert names(graph) == ["RESHAPE", "CONV_2D", "RESHAPE"]
    (tmp_path / "a.tflite").write_bytes(dense)
    (tmp_path / "b.tflite").write_bytes(graph.to_bytes())
    expected, got = (
        verify.run_everywhere(tmp_path / name, [samples])[0]["tensorflow"][0]
        for name in ("a.tflite", "b.tflite")
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["size", "int8"])
def test_a_dense_layer_without_a_bias_is_widened_too(target, tmp_path):
    import keras
    from making.tflite_files import prune

    from tflottery.tflite import export_tflite

    layers = keras.layers
    stack = [layers.Dense(units, use_bias=False) for units in (300, 64)]
    model = prune(keras.Sequential([layers.Input((520,)), *stack]), 0.9)
    x = np.random.default_rng(0).normal(size=(32, 520)).astype(np.float32)
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        target=target,
        representative_data=x if target == "int8" else None,
    )
    assert report.operators["CONV_2D"] == (2 if target == "int8" else 1)
    assert report.difference < (0.1 if target == "int8" else 1e-5)
