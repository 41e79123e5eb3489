import keras
import numpy as np
import pytest
from making.tflite_files import one_layer, prune

from tflottery.tflite import export_tflite
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.source import model as model_lib
from tflottery.tflite.xnnpack import outlook, planner

layers = keras.layers


def stem(size=32):
    image = layers.Input((size, size, 3))
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(32, 3, strides=2, activation="relu")(x)
    return image, layers.Conv2D(64, 1, activation="relu")(x)


def plain():
    image, x = stem()
    return keras.Model(image, layers.GlobalAveragePooling2D()(x))


def class_a():
    """The cluster runs into an operator of the other layout."""
    image, x = stem()
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(64, 1, activation="relu")(x)
    return keras.Model(image, layers.GlobalAveragePooling2D()(x))


def class_b():
    """The mean keeps its dimensions, and a convolution follows."""
    image, x = stem()
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(image, layers.Flatten()(layers.Conv2D(64, 1)(x)))


def class_c():
    """A tensor inside the cluster is an output of the model."""
    image, x = stem()
    y = layers.Conv2D(64, 1, activation="relu")(x)
    return keras.Model(image, [x, layers.GlobalAveragePooling2D()(y)])


WRONG = [class_a, class_b, class_c]


def dense_and_naive(model):
    """Returns the dense file, and the sparse one that knows nothing of XNNPACK."""
    dense = model_lib.from_model(model).dense
    graph = Graph(dense)
    graph.make_static()
    sparsify.sparsify(graph)
    return dense, graph


def test_a_network_of_the_right_kind_is_predicted_sparse_and_is_right(wasm, tmp_path):
    dense, graph = dense_and_naive(prune(plain()))
    found = outlook.outlook(graph)
    assert [graph.name(op) for op in found.sparse] == ["CONV_2D"]
    assert not found.wrong
    (tmp_path / "dense.tflite").write_bytes(dense)
    (tmp_path / "sparse.tflite").write_bytes(graph.to_bytes())
    (difference,) = wasm(tmp_path / "dense.tflite", tmp_path / "sparse.tflite")
    assert difference < 1e-5


@pytest.mark.parametrize("sparsity", [0.6, 0.66])
def test_a_network_with_too_few_zeros_is_predicted_dense(sparsity):
    _, graph = dense_and_naive(prune(plain(), sparsity))
    found = outlook.outlook(graph)
    assert not found.sparse
    assert not found.wrong


@pytest.mark.slow
@pytest.mark.parametrize("build", WRONG)
def test_what_xnnpack_computes_wrongly_is_predicted_and_written_right(
    build, wasm, tmp_path
):
    dense, graph = dense_and_naive(prune(build()))
    assert outlook.outlook(graph).wrong
    assert planner.plan(graph)["arm"].path == "wrong"
    assert planner.plan(graph)["x86"].path == "dense"
    targets = ["size", "sparse_speed", "float16"]
    files = [tmp_path / f"{name}.tflite" for name in ("dense", "naive", *targets)]
    files[0].write_bytes(dense)
    files[1].write_bytes(graph.to_bytes())
    for target, path in zip(targets, files[2:], strict=True):
        report = export_tflite(files[0], path, target=target)
        assert report.plans["arm"].path != "wrong"
    naive, size, fast, half = wasm(*files)
    assert naive > 1e-4  # else XNNPACK was mended, and the planner can be too
    assert max(size, fast) < 1e-5
    assert half < 0.005


def test_a_wrong_network_that_cannot_be_rewired_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "_close_entries", lambda graph: None)
    with pytest.raises(ValueError, match="XNNPACK would compute this file wrongly"):
        export_tflite(prune(class_b()), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_an_entry_is_closed_by_zeros(tmp_path):
    report = export_tflite(prune(class_a()), tmp_path / "model.tflite")
    assert report.weights[0].shape == (32, 4, 4, 3)
    assert any("widened so that it runs dense" in w for w in report.warnings)


def test_an_operator_without_outputs_is_no_obstacle():
    graph = Graph(one_layer(np.eye(3, 4, dtype=np.float32))[0])
    graph.operators.append(graph.op("ASSIGN_VARIABLE", [0, 1], []))
    assert not outlook.outlook(graph).wrong
