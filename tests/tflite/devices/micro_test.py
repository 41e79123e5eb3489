import json

import keras
import numpy as np
import pytest
from making.tflite_files import one_layer, prune, sparse_array

from tflottery.tflite import (
    WrongFileError,
    benchmark_tflite,
    evaluate_tflite,
    export_tflite,
)
from tflottery.tflite.devices import micro, tflm
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.file.packing import schema
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.source import model as model_lib

layers = keras.layers
needs_micro = pytest.mark.skipif(
    not tflm.installed(), reason="TFLite Micro is not installed"
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense int8 file in which one layer is used twice and one is not pruned."""
    twice, x = layers.Conv2D(32, 3, padding="same"), layers.Input((8, 8, 32))
    y = layers.DepthwiseConv2D(3)(twice(twice(x)))
    model = keras.Model(x, layers.Dense(9)(layers.Flatten()(y)))
    prune(model)
    data = np.random.default_rng(5).normal(size=(16, 8, 8, 32)).astype(np.float32)
    path = tmp_path_factory.mktemp("micro") / "dense.tflite"
    path.write_bytes(model_lib.from_model(model, representative_data=data).dense)
    return path


@pytest.fixture(scope="module")
def exported(dense):
    path = dense.with_name("micro.tflite")
    return path, export_tflite(dense, path, target="micro")


def with_zero_points(dtype, axis, points):
    """Returns the graph of one layer whose weight has these zero points."""
    outs = len(points) if axis == 0 else 16
    shape = (outs, 16, 1, len(points) if axis == 3 else 16)
    graph = Graph(one_layer(sparse_array(shape))[0])
    values = np.rint(20 * sparse_array(shape)).astype(int)
    zeros = np.reshape(points, [-1 if d == axis else 1 for d in range(4)])
    values = np.clip(values + zeros, -128, 127).astype(dtype)
    tensor = graph.operators[0].inputs[1]
    graph.set_const(tensor, values)
    graph.tensors[0].type = graph.tensors[tensor].type  # as `weights` asks for
    quantization = schema().QuantizationParametersT()
    quantization.scale = np.ones(len(points), np.float32)
    quantization.zeroPoint = np.array(points, np.int64)
    quantization.quantizedDimension = axis
    graph.tensors[tensor].quantization = quantization
    return graph, values


def test_weights_are_pruned_where_that_is_smaller(exported):
    path, report = exported
    assert [stored.form for stored in report.weights] == ["pruned", "dense", "pruned"]
    graph = Graph(path.read_bytes())
    decodes = [op for op in graph.operators if graph.name(op) == "TFLM_DECODE"]
    assert len(decodes) == 3  # one for each use
    assert report.bytes < report.dense_int8_bytes / 2


def test_a_decode_stands_directly_before_its_reader(exported):
    graph = Graph(exported[0].read_bytes())
    for op, after in zip(graph.operators, graph.operators[1:], strict=False):
        if graph.name(op) == "TFLM_DECODE":
            assert op.outputs[0] == after.inputs[1]


def test_what_is_written_unpacks_to_the_dense_weights(dense, exported):
    unpacked = Graph(micro.unpack(exported[0].read_bytes()))
    before = Graph(dense.read_bytes())
    arrays = [
        sorted(graph.const(t).tobytes() for t in sparsify.weights(graph))
        for graph in (before, unpacked)
    ]
    assert set(arrays[0]) == set(arrays[1])


@needs_micro
def test_tflite_micro_computes_the_dense_file_bit_for_bit(exported):
    found = exported[1].devices["tflite-micro"]
    assert found.file.digest == found.against.digest
    assert found.file.flash < found.against.flash / 2
    assert found.file.arena > 0
    assert "outputs equal, bit for bit" in str(found)
    assert json.loads(exported[1].to_json())["devices"]["tflite-micro"]["tool"]


def test_other_runtimes_run_what_the_file_unpacks_to(exported):
    x = np.zeros((2, 8, 8, 32), np.float32)
    assert evaluate_tflite(exported[0], [(x, [0, 0])], progress=False)
    assert any("largest takes 10.4 KB" in note for note in exported[1].warnings)


@pytest.mark.parametrize("target", ["npu", "size"])
def test_a_packed_source_is_unpacked(target, exported, tmp_path):
    export_tflite(exported[0], tmp_path / "new.tflite", target=target)
    graph = Graph((tmp_path / "new.tflite").read_bytes())
    assert not any(graph.name(op) == micro.NAME for op in graph.operators)


def test_a_weight_that_another_tool_packed_is_an_error(exported):
    graph = Graph(exported[0].read_bytes())
    decode = next(op for op in graph.operators if graph.name(op) == micro.NAME)
    graph.set_const(decode.inputs[1], np.zeros(32, np.uint8))
    with pytest.raises(ValueError, match="not as a bitmap and values"):
        micro.unpack_weights(graph)


@needs_micro
def test_files_of_unlike_inputs_are_not_compared_in_tflite_micro(exported, tmp_path):
    (tmp_path / "other.tflite").write_bytes(one_layer(sparse_array((30, 20)))[0])
    with pytest.raises(ValueError, match=r"the same inputs.*float32 \(1, 20\)"):
        benchmark_tflite(
            exported[0], against=tmp_path / "other.tflite", on="tflite-micro"
        )


@needs_micro
def test_files_are_compared_in_tflite_micro(dense, exported, tmp_path):
    found = benchmark_tflite(exported[0], on="tflite-micro", against=dense)
    assert found.file.digest == found.against.digest
    assert found.speedup is None
    sparse = tmp_path / "sparse.tflite"
    export_tflite(dense, sparse, target="int8")
    with pytest.raises(
        ValueError,
        match=r"TFLite Micro does not run .*'DENSIFY'.*sparse.tflite\).*target=\"micro",
    ):
        benchmark_tflite(sparse, on="tflite-micro")


@needs_micro
def test_a_wrongly_packed_weight_is_noticed(dense, tmp_path, monkeypatch):
    def wrong(data):
        graph = Graph(right(data))
        tensor = next(t for t in sparsify.weights(graph) if graph.const(t).size > 999)
        graph.set_const(tensor, graph.const(tensor)[::-1].copy())
        return graph.to_bytes(keep_names=True)

    right = micro.unpack
    monkeypatch.setattr(micro, "unpack", wrong)
    with pytest.raises(WrongFileError, match="unpacks the weights of the file wrongly"):
        export_tflite(dense, tmp_path / "a.tflite", target="micro", tolerance=9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "axis", "points"),
    [
        (np.int8, 0, [3] * 16),
        (np.int8, 0, list(range(-8, 8))),
        (np.int8, 3, list(range(16))),
        (np.int16, 0, [0] * 16),
        (np.float32, 0, [0] * 16),
    ],
)
def test_every_kind_of_weight_that_the_runtime_unpacks_is_pruned(dtype, axis, points):
    graph, values = with_zero_points(dtype, axis, points)
    assert micro.store(graph)[0].form == "pruned"
    unpacked = Graph(micro.unpack(graph.to_bytes()))
    (tensor,) = sparsify.weights(unpacked)
    np.testing.assert_array_equal(unpacked.const(tensor), values)


@pytest.mark.parametrize(
    ("dtype", "axis", "points"),
    [
        (np.uint8, 0, [3] * 16),
        (np.int16, 0, [1] * 16),
        (np.int8, 2, [0]),
    ],
)
def test_what_the_runtime_does_not_unpack_stays_dense(dtype, axis, points):
    graph, _ = with_zero_points(dtype, axis, points)
    assert micro.store(graph)[0].form == "dense"


def test_without_tflite_micro_the_report_says_who_verified(
    dense, tmp_path, monkeypatch
):
    monkeypatch.setattr(tflm, "installed", lambda: False)
    monkeypatch.setattr(tflm, "tool", None)
    report = export_tflite(dense, tmp_path / "a.tflite", target="micro")
    assert "pip install 'tflottery[micro]'" in " ".join(str(report).split())
    assert not report.devices
    with pytest.raises(ModuleNotFoundError, match="TFLite Micro is not installed"):
        benchmark_tflite(tmp_path / "a.tflite", on="tflite-micro")
