import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from making.tflite_files import (
    one_layer,
    one_uint8_layer,
    prune,
    sparse_array,
    stored_sparse,
)

from tflottery.tflite import WrongFileError, evaluate_tflite, export_tflite
from tflottery.tflite import export as export_lib
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.run import worker
from tflottery.tflite.source import model as model_lib

layers = keras.layers


def calibration(model, count=32):
    shape = model.inputs[0].shape[1:]
    return np.random.default_rng(5).normal(size=(count, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def exported(lenet, tmp_path_factory):
    """The file of `lenet` with all defaults, and its report."""
    path = tmp_path_factory.mktemp("lenet") / "model.tflite"
    return path, export_tflite(lenet, path)


@pytest.fixture(scope="module")
def dense_lenet(lenet):
    return model_lib.from_model(lenet).dense


@pytest.mark.parametrize("target", ["size", "float16", "int8", "sparse_speed"])
@pytest.mark.parametrize("name", ["lenet", "convnet"])
def test_every_target_is_small_and_right(name, target, request, tmp_path):
    model = request.getfixturevalue(name)
    data = calibration(model) if target == "int8" else None
    path = tmp_path / "model.tflite"
    report = export_tflite(
        model,
        path,
        target=target,
        representative_data=data,
        samples=calibration(model, 9),
    )
    assert path.stat().st_size == report.bytes
    assert report.bytes < report.dense_float32_bytes / (4 if name == "lenet" else 1)
    exact = target in ("size", "sparse_speed")
    assert report.difference < (
        1e-5 if exact else 0.005 if target == "float16" else 0.2
    )
    assert report.bound_ratio == pytest.approx(report.bytes / report.entropy_bound)
    runtimes = {"tensorflow", "tensorflow+xnnpack", "litert", "litert+xnnpack"}
    assert {"tensorflow", "tensorflow+xnnpack"} <= set(report.differences) <= runtimes
    assert all(plan.path != "wrong" for plan in report.plans.values())


def test_float32_values_are_kept_exactly(lenet, exported):
    graph = Graph(exported[0].read_bytes())
    values = np.concatenate([coded.values for coded in stored_sparse(graph)])
    kernels = [layer.kernel.numpy().reshape(-1) for layer in lenet.layers]
    kept = np.concatenate([k[k != 0] for k in kernels])
    assert np.isin(values, kept).all()
    assert len(values) > 0.2 * len(kept)  # the rest are units that change nothing


def test_weights_in_int8_are_smaller_than_float16_and_float32(
    lenet, exported, tmp_path
):
    sizes = [
        export_tflite(lenet, tmp_path / "model.tflite", **options).bytes
        for options in ({"quantize": "weights"}, {"target": "float16"})
    ]
    sizes.append(exported[1].bytes)
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.55 * sizes[2]


def test_the_report_prints_and_is_json(exported):
    _, report = exported
    assert f"{report.bytes / 1000:,.1f} KB" in str(report)
    assert "no faster than dense float32" in str(report)
    read = json.loads(report.to_json())
    assert read["bytes"] == report.bytes
    assert read["plans"]["arm"]["paths"][0] == ["CONV_2D", "dense"]
    assert report.sparsity == pytest.approx(0.95, abs=0.01)


def test_a_dense_file_takes_the_place_of_the_model(
    lenet, dense_lenet, tmp_path, monkeypatch
):
    # The dense file has a batch of 1, so the model's must keep it.
    monkeypatch.setattr(export_lib, "open_batch", lambda graph: None)
    dense = tmp_path / "dense.tflite"
    dense.write_bytes(dense_lenet)
    report = export_tflite(dense, tmp_path / "sparse.tflite", quantize="weights")
    assert report.bytes == (
        export_tflite(lenet, tmp_path / "model.tflite", quantize="weights").bytes
    )


@pytest.mark.parametrize("target", ["size", "sparse_speed"])
def test_a_sparse_file_is_unpacked_and_written_anew(target, dense_lenet, tmp_path):
    dense = tmp_path / "dense.tflite"
    dense.write_bytes(dense_lenet)
    first = export_tflite(dense, tmp_path / "first.tflite", target=target)
    again = export_tflite(tmp_path / "first.tflite", tmp_path / "again.tflite")
    assert again.difference < 1e-6
    assert again.bytes <= first.bytes


@pytest.mark.parametrize("shape", [(40, 300), (40, 3, 3, 30)], ids=["dense", "conv"])
def test_uint8_weights_pruned_to_their_zero_point_are_stored_sparse(shape, tmp_path):
    generator = np.random.default_rng(0)
    weight = generator.integers(0, 256, shape, np.uint8)
    weight[generator.random(shape) < 0.85] = 122
    weight[0] = 0  # far from zero, although the bytes are
    given, path = tmp_path / "given.tflite", tmp_path / "sparse.tflite"
    given.write_bytes(one_uint8_layer(weight, 122))
    report = export_tflite(given, path)
    assert report.bytes < given.stat().st_size * 0.6
    assert report.difference < 0.01  # a step of uint8: XNNPACK rounds in its own way
    assert report.bound_ratio > 1
    assert "unpacked in every call" in str(report)
    (stored,) = report.weights
    assert (stored.form, stored.dtype) == ("sparse", "uint8")
    assert stored.nonzeros == np.count_nonzero(weight != 122)
    again = export_tflite(path, tmp_path / "again.tflite")
    assert again.bytes == report.bytes
    assert again.difference == 0


def test_a_custom_operator_that_no_runtime_has_is_named(tmp_path):
    graph = Graph(one_layer(sparse_array((6, 9)))[0])
    code = graph.model.operatorCodes[graph.operators[0].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = 32  # CUSTOM
    code.customCode = b"PosenetDecoderOp"
    graph.operators[0].builtinOptions = None
    graph.operators[0].builtinOptionsType = 0
    given = tmp_path / "given.tflite"
    given.write_bytes(graph.to_bytes())
    with pytest.raises(ValueError, match="its custom operator PosenetDecoderOp"):
        export_tflite(given, tmp_path / "out.tflite")


def test_inputs_of_unlike_batch_sizes_are_named(tmp_path):
    graph = Graph(one_layer(sparse_array((6, 9)))[0])
    graph.subgraph.inputs = [*graph.inputs, graph.add_tensor((4,))]
    given = tmp_path / "given.tflite"
    given.write_bytes(graph.to_bytes())
    with pytest.raises(ValueError, match=r"Received: \(1, 9\) of .*, \(4,\) of"):
        export_tflite(given, tmp_path / "out.tflite")


def test_a_file_in_integers_is_told_which_targets_change_nothing(tmp_path):
    weight = np.random.default_rng(0).integers(0, 256, (8, 9), np.uint8)
    graph = Graph(one_uint8_layer(weight, 122))
    bias = graph.tensors[graph.operators[0].inputs[2]]
    bias.quantization.quantizedDimension = 3  # as TFLite Micro's person_detect has it
    given = tmp_path / "given.tflite"
    given.write_bytes(graph.to_bytes())
    report = export_tflite(given, tmp_path / "out.tflite", target="float16")
    assert "already: the file is that of" in str(report)
    assert "`quantized_dimension` was set to 0" in str(report)
    assert "no faster" not in str(report)
    with pytest.raises(ValueError, match=r"needs a \.tflite file in int8"):
        export_tflite(given, tmp_path / "out.tflite", target="micro")


def test_gzip_of_the_dense_file_is_named_where_it_is_smaller(tmp_path):
    given = tmp_path / "given.tflite"
    given.write_bytes(one_layer(sparse_array((64, 500), 0.8))[0])
    for options, named in (({}, True), ({"quantize": "weights"}, False)):
        report = export_tflite(given, tmp_path / "out.tflite", **options)
        assert ("KB of the dense file" in str(report)) == named


def test_a_dense_float16_file_is_taken_for_the_values_it_holds(dense_lenet, tmp_path):
    graph = Graph(dense_lenet)
    sparsify.sparsify(graph, "float16", dense=sparsify.weights(graph))
    dense = tmp_path / "dense.tflite"
    dense.write_bytes(graph.to_bytes())
    report = export_tflite(dense, tmp_path / "sparse.tflite", target="float16")
    assert {stored.form for stored in report.weights} == {"sparse"}
    assert report.bytes < dense.stat().st_size / 5
    assert report.difference < 1e-4
    exact = export_tflite(dense, tmp_path / "exact.tflite")
    assert exact.difference < 1e-6
    assert {stored.dtype for stored in exact.weights} == {"float16"}
    assert 1 <= exact.bound_ratio < 2


def sequence():
    return keras.Sequential(
        [layers.Input((7, 300)), layers.Dense(200), layers.Dense(40)]
    )


def shared():
    dense, x = layers.Dense(64, "relu"), layers.Input((64,))
    return keras.Model(x, layers.Dense(3)(dense(dense(x))))


@pytest.mark.parametrize("build", [sequence, shared])
@pytest.mark.parametrize("target", ["size", "float16", "sparse_speed", "int8"])
def test_int8_files_are_stored_so_that_litert_runs_them(build, target, tmp_path):
    # FULLY_CONNECTED on a sparse int8 weight does not load there.
    model = prune(build())
    data = calibration(model)
    dense = model_lib.from_model(model, representative_data=data).dense
    (tmp_path / "dense.tflite").write_bytes(dense)
    export_tflite(tmp_path / "dense.tflite", tmp_path / "a.tflite", target=target)
    graph = Graph((tmp_path / "a.tflite").read_bytes())
    produced = graph.producers()
    for op in graph.operators:
        if graph.name(op) == "FULLY_CONNECTED":
            assert op.inputs[1] not in produced


def test_the_layers_of_a_sequence_are_sparse_in_int8(tmp_path):
    model = prune(sequence())
    data = calibration(model)
    report = export_tflite(
        model, tmp_path / "a.tflite", target="int8", representative_data=data
    )
    assert {stored.form for stored in report.weights} == {"sparse"}
    assert report.difference < 0.2


def test_a_model_without_weights_is_exported_too(tmp_path):
    model = keras.Sequential([layers.Input((4, 4, 2)), layers.MaxPooling2D(2)])
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.bound_ratio is None
    assert "entropy bound" in str(report)
    assert json.loads(report.to_json())["bound_ratio"] is None


def test_a_model_of_zeros_is_exported_too(tmp_path):
    model = keras.Sequential([layers.Input((9,)), layers.Dense(5), layers.Dense(3)])
    for layer in model.layers:
        layer.set_weights([0 * weight for weight in layer.get_weights()])
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.difference == 0


def test_the_bound_is_that_of_the_units_that_are_left(exported, dense_lenet):
    _, report = exported
    assert report.removed_units > 0
    graph = Graph(dense_lenet)
    assert report.entropy_bound < sparsify.entropy_bound(graph, 4)


def test_a_file_over_the_tolerance_leaves_nothing(lenet, tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(WrongFileError, match="`tolerance` allows 1e-09"):
        export_tflite(lenet, path, quantize="weights", tolerance=1e-9)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_older_file(lenet, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"older")
    with pytest.raises(WrongFileError):
        export_tflite(lenet, path, quantize="weights", tolerance=0)
    assert path.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]


def test_a_wrongly_written_weight_is_noticed(lenet, tmp_path, monkeypatch):
    right = sparsify.quantize

    def wrong(array, axis):
        found = right(array, axis)
        return sparsify.Quantized(found.values[::-1].copy(), found.scale, found.axis)

    monkeypatch.setattr(sparsify, "quantize", wrong)
    with pytest.raises(WrongFileError, match="outputs differ"):
        export_tflite(lenet, tmp_path / "model.tflite", quantize="weights")


def test_names_are_kept_if_asked(lenet, exported, tmp_path):
    named = export_tflite(lenet, tmp_path / "model.tflite", keep_names=True)
    assert exported[1].bytes < named.bytes


def test_batches_are_static(convnet, tmp_path):
    report = export_tflite(convnet, tmp_path / "model.tflite", batch_size=3)
    assert Graph((tmp_path / "model.tflite").read_bytes()).shape(0)[0] == 3
    assert report.difference < 1e-5


def two_inputs():
    a, b = layers.Input((6,), name="b"), layers.Input((8,), name="a")
    hidden = [layers.Dense(16, "relu")(a), layers.Dense(12, "relu")(b)]
    return keras.Model([a, b], layers.Dense(4)(layers.Concatenate()(hidden)))


def two_outputs():
    image = layers.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(32, 3, activation="relu")(image))
    return keras.Model(image, {"z": layers.Dense(4)(x), "a": layers.Dense(2)(x)})


def recurrent():
    steps = layers.Input((5, 8))
    return keras.Model(steps, layers.Dense(3)(layers.LSTM(16)(steps)))


@pytest.mark.parametrize("build", [two_inputs, two_outputs, recurrent])
def test_other_kinds_of_models_are_right(build, tmp_path):
    model = prune(build())
    for target in ("size", "sparse_speed"):
        report = export_tflite(model, tmp_path / "model.tflite", target=target)
        assert report.difference < 1e-4
        assert report.bytes < report.dense_float32_bytes


def test_the_weights_within_a_loop_stay_dense_and_the_report_says_so(tmp_path):
    model = prune(
        keras.Sequential([layers.Input((6, 64)), layers.GRU(64), layers.Dense(4)])
    )
    report = export_tflite(model, tmp_path / "model.tflite", quantize="weights")
    assert any("unroll=True" in note for note in report.warnings)
    assert not any("target=" in note for note in report.warnings)
    assert any("`quantize` changes nothing" in note for note in report.warnings)
    assert 1 <= report.bound_ratio < 1.2


def test_a_file_is_not_written_over_its_own_source(dense_lenet, tmp_path):
    dense = tmp_path / "dense.tflite"
    dense.write_bytes(dense_lenet)
    (tmp_path / "link.tflite").symlink_to(dense)
    for path in (dense, tmp_path / "link.tflite"):
        with pytest.raises(ValueError, match="`path` is the file that `model` names"):
            export_tflite(dense, path)
    assert dense.read_bytes() == dense_lenet


def test_int8_weights_are_not_given_up_for_the_sparse_kernel(tmp_path):
    path = tmp_path / "model.tflite"
    dense = [layers.Input((600,)), layers.Dense(300), layers.Dense(300)]
    model = prune(keras.Sequential(dense), 0.98)
    exact = export_tflite(model, path, target="sparse_speed")
    small = export_tflite(model, path, target="sparse_speed", quantize="weights")
    assert {stored.form for stored in exact.weights} == {"kernel"}
    assert {stored.dtype for stored in small.weights} == {"int8"}
    assert any("sparse kernel takes float32" in note for note in small.warnings)


def test_a_recurrent_network_is_refused_as_int8(tmp_path):
    with pytest.raises(
        ValueError, match="The converter cannot quantize a network with loops"
    ):
        export_tflite(
            prune(recurrent()),
            tmp_path / "model.tflite",
            target="int8",
            representative_data=np.zeros((4, 5, 8), np.float32),
        )


def test_int8_files_with_dense_layers_run_everywhere_and_predict_alike(lenet, tmp_path):
    # The converter's own sparse int8 file with FULLY_CONNECTED does not load in LiteRT.
    data = calibration(lenet, 64)
    path = tmp_path / "model.tflite"
    report = export_tflite(lenet, path, target="int8", representative_data=data)
    assert "FULLY_CONNECTED" not in report.operators
    assert report.bytes < report.dense_int8_bytes / 2
    labels = lenet.predict(data, verbose=0).argmax(axis=-1)
    graph = Graph(path.read_bytes())
    assert graph.dtype(graph.inputs[0]) == graph.dtype(graph.outputs[0]) == np.int8
    batches = [(data[:40], labels[:40]), (data[40:], labels[40:])]
    assert evaluate_tflite(path, batches, progress=False)["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "fast"}, "`target` must be one of"),
        ({"quantize": "int4"}, "`quantize` must be one of .*, or None"),
        (
            {"quantize": "weights", "target": "float16"},
            "`quantize` is only for `target=",
        ),
        ({"representative_data": [1]}, "`representative_data` is only for `target="),
        ({"target": "int8"}, "needs `representative_data`"),
        ({"tolerance": -1.0}, "`tolerance` must be a number of at least 0"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"samples": np.zeros((4, 7))}, "`samples` of input"),
        ({"samples": np.full((4, 600), np.nan)}, "NaN or infinity in it"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(options, message, lenet, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_tflite(lenet, tmp_path / "model.tflite", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_answers_nan_is_an_error(tmp_path):
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    model.set_weights([np.full((3, 2), np.nan), np.zeros(2)])
    with pytest.raises(ValueError, match=r"^`model` returns NaN or infinity"):
        export_tflite(model, tmp_path / "model.tflite")


DATA = np.zeros((4, 600), "float32")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA[:0], r"hold 1 or more samples .* Received: float32 of shape \(0, 600\)$"),
        (DATA[:, :7], r"of shape \(600\), .* Received: float32 of shape \(4, 7\)$"),
        (DATA * np.nan, r"float32 of shape \(4, 600\), NaN or infinity in it$"),
        (DATA.astype(str), r"all finite numbers\. Received: <U32 of shape \(4, 600\)$"),
        ([], r"^`representative_data` holds no samples\.$"),
        ([0.5], r"iterable of batches of arrays\. Received as a batch: 0\.5$"),
        (5, r"must be an array, or an iterable of batches\. Received: 5 of type int$"),
        ("mnist", r"iterable of batches\. Received: 'mnist' of type str$"),
    ],
)
def test_data_that_cannot_calibrate_is_an_error(data, message, lenet, tmp_path):
    options = {"target": "int8", "representative_data": data}
    with pytest.raises((TypeError, ValueError), match=message):
        export_tflite(lenet, tmp_path / "model.tflite", **options)
    assert list(tmp_path.iterdir()) == []


def test_something_else_than_a_model_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="must be a Keras 3 or tf_keras model"):
        export_tflite(object(), tmp_path / "model.tflite")


def test_a_damaged_file_is_an_error_never_a_crash(tmp_path):
    whole, _ = one_layer(sparse_array((4, 6), 0.5))
    generator = np.random.default_rng(0)
    damaged = [b"", b"TFL3", whole[:100], whole[: len(whole) // 2], whole[:-1]]
    for _ in range(25):
        edited = bytearray(whole)
        start = int(generator.integers(0, len(whole) - 8))
        edited[start : start + 8] = generator.bytes(8)
        damaged.append(bytes(edited))
    path, out = tmp_path / "damaged.tflite", tmp_path / "out.tflite"
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        out.unlink(missing_ok=True)
        try:
            report = export_tflite(path, out)
        except (ValueError, worker.JobError):
            refused += 1
            assert not out.exists()
        else:  # what was edited did not matter, or is another good file
            assert report.difference <= 1e-4
    assert refused >= 10


def test_the_modules_of_the_export_load_neither_keras_nor_tensorflow():
    import subprocess
    import sys

    code = (
        "import sys, tflottery.tflite; "
        "sys.exit(bool({'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_inputs_and_outputs_keep_their_names(k, tmp_path):
    a, b = k.layers.Input((6,), name="image"), k.layers.Input((8,), name="mask")
    heads = [k.layers.Dense(4)(a), k.layers.Dense(2)(b)]
    named = {"z": heads[0], "boxes": heads, "a": heads[1]}
    model = k.Model({"image": a, "mask": b}, named)
    export_tflite(model, path := tmp_path / "a.tflite")
    (signature,) = Graph(path.read_bytes()).model.signatureDefs
    assert [e.name for e in signature.inputs] == [b"image", b"mask"]
    outputs = [b"a", b"boxes_0", b"boxes_1", b"z"]
    assert [e.name for e in signature.outputs] == outputs


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_subclassed_model_takes_and_gives_dicts(k, tmp_path):
    class Both(k.Model):
        def __init__(self):
            super().__init__()
            self.dense = k.layers.Dense(2)

        def call(self, x):
            return {"y": self.dense(x["p"]), "x": x["q"]}

    samples = {"q": np.ones((4, 3), np.float32), "p": np.eye(4, dtype=np.float32)}
    model = Both()
    model(samples)
    report = export_tflite(model, path := tmp_path / "a.tflite", samples=samples)
    assert report.checked_on == "4 of your `samples`"
    (signature,) = Graph(path.read_bytes()).model.signatureDefs
    assert [e.name for e in signature.inputs] == [b"p", b"q"]
    assert [e.name for e in signature.outputs] == [b"x", b"y"]


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory):
    """An int8 file, and the inputs in [0, 9] that it was calibrated on."""
    path = tmp_path_factory.mktemp("int8") / "model.tflite"
    data = 9 * np.random.default_rng(0).random((40, 6), np.float32)
    model = keras.Sequential([layers.Input((6,)), layers.Dense(8), layers.Dense(3)])
    options = {"target": "int8", "representative_data": data}
    report = export_tflite(model, path, **options)
    assert report.checked_on == "40 of your `representative_data`"
    assert "checked on" in str(report)
    return path, data


def test_what_is_drawn_for_an_int8_file_keeps_to_its_range(int8_file, tmp_path):
    path, data = int8_file
    samples = model_lib.from_file(path).samples
    assert 0 <= np.min(samples) < 1
    assert 8 < np.max(samples) < 9.1
    report = export_tflite(path, tmp_path / "a.tflite", target="int8")
    assert report.checked_on == "8 random inputs within the calibrated range"
    options = {"target": "int8", "representative_data": data}
    report = export_tflite(path, tmp_path / "a.tflite", **options)
    assert report.checked_on == "40 of your `representative_data`"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "float16"}, "`target` changes nothing"),
        ({"quantize": "weights"}, "`quantize` changes nothing"),
        ({"target": "npu", "clusters": 250}, "`clusters` changes nothing"),
    ],
)
def test_an_option_that_changes_nothing_is_noted(options, message, int8_file, tmp_path):
    report = export_tflite(int8_file[0], tmp_path / "a.tflite", **options)
    assert any(message in note for note in report.warnings)


def test_a_file_keeps_its_batch(int8_file, tmp_path):
    with pytest.raises(ValueError, match=r"`batch_size` is for a Keras model; .*=4"):
        export_tflite(int8_file[0], tmp_path / "a.tflite", batch_size=4)


class FakeQuantized(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")

    def call(self, x):
        options = {"min": -1.0, "max": 1.0, "narrow_range": True}
        kernel = tf.quantization.fake_quant_with_min_max_vars(self.kernel, **options)
        return tf.matmul(x, kernel)


@pytest.mark.parametrize("target", ["size", "sparse_speed", "float16"])
def test_fake_quantized_weights_are_stored_sparse(target, tmp_path):
    model = keras.Sequential([layers.Input((200,)), FakeQuantized(), layers.Dense(4)])
    model.layers[0].set_weights([sparse_array((200, 8), 0.95)])
    report = export_tflite(model, tmp_path / "a.tflite", target=target)
    assert "QUANTIZE" not in report.operators
    assert report.weights[0].form == "sparse"
