import contextlib
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from making.tflite_files import one_layer, prune, sparse_array, without_inputs

from tflottery.tflite import export_tflite
from tflottery.tflite.file import inputs as inputs_lib
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.run import verify
from tflottery.tflite.source import model as model_lib

layers = keras.layers


def test_a_tf_keras_model_is_exported(tmp_path):
    import tf_keras

    old = tf_keras.layers
    model = tf_keras.Sequential(
        [
            old.Input((8, 8, 3)),
            old.Conv2D(16, 3, padding="same"),
            old.BatchNormalization(),
            old.ReLU(),
            old.GlobalAveragePooling2D(),
            old.Dense(4),
        ]
    )
    report = export_tflite(prune(model), tmp_path / "model.tflite")
    assert report.difference < 1e-5
    assert [stored.form for stored in report.weights] == ["sparse", "dense"]


JAX_CLASS = """
import keras
@keras.saving.register_keras_serializable()
class Own(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(3)
    def call(self, x):
        return self.dense(x)
"""
JAX_EXPORTS = """
import json
import numpy as np, keras, own
from tflottery.tflite import export_tflite
results = {"backend": keras.backend.backend()}
for name, head in (("module", own.Own()), ("script", Own())):
    layers = [keras.layers.Input((40,)), keras.layers.Dense(60), head]
    model = keras.Sequential(layers)
    weights = model.get_weights()
    kernel = abs(weights[0])
    weights[0] *= kernel > np.quantile(kernel, 0.9)
    model.set_weights([weights[0], weights[1] + 1, *weights[2:]])
    try:
        report = export_tflite(model, name + ".tflite")
        results[name] = [report.difference, report.bytes, report.dense_float32_bytes]
    except ValueError as error:
        results[name] = str(error)
print(json.dumps(results))
"""


@pytest.mark.slow
def test_a_model_on_jax_is_exported_if_another_process_can_import_its_classes(tmp_path):
    pytest.importorskip("jax")
    (tmp_path / "own.py").write_text(JAX_CLASS)
    (tmp_path / "main.py").write_text(JAX_CLASS + JAX_EXPORTS)
    root = str(pathlib.Path(model_lib.__file__).parents[3])
    environment = dict(os.environ, KERAS_BACKEND="jax", PYTHONPATH=root)
    done = subprocess.run(
        [sys.executable, "main.py"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["backend"] == "jax"
    difference, size, dense = results["module"]
    assert difference < 1e-5
    assert size < dense
    message = "Own is defined in __main__, which another process cannot"
    assert results["script"].startswith(message)
    assert not (tmp_path / "script.tflite").exists()


@pytest.mark.slow
def test_a_model_still_wrapped_for_pruning_is_refused():
    import tf_keras

    from tflottery.engines.tfmot.imported import sparsity

    old = tf_keras.layers
    model = tf_keras.Sequential([old.Input((4,)), old.Dense(2)])
    wrapped = sparsity.prune_low_magnitude(model)
    with pytest.raises(ValueError, match=r"Give tfmot\.sparsity\.keras\.strip_pruning"):
        model_lib.from_model(wrapped)


def test_an_operator_that_tflite_lacks_is_an_error_that_names_it():
    x = layers.Input((4, 4))
    model = keras.Model(x, keras.ops.linalg.det(x))
    message = "TFLite has no operator for MatrixDeterminant. Build the model without it"
    with pytest.raises(ValueError, match=message):
        model_lib.from_model(model)


def test_a_model_that_does_not_know_its_inputs_needs_samples():
    model = without_inputs()
    model(np.zeros((1, 5), np.float32))
    with pytest.raises(ValueError, match="does not define its inputs"):
        model_lib.from_model(model)
    source = model_lib.from_model(model, samples=np.ones((2, 5), np.float32))
    assert source.expected[0].shape == (2, 3)


def test_a_dynamic_range_file_keeps_its_weights_dense():
    # Sparse ones do not load: XNNPACK reads them before they are unpacked.
    graph = Graph(one_layer(sparse_array((20, 80)))[0])
    (weight,) = sparsify.weights(graph)
    quantized = sparsify.quantize(graph.const(weight), 0)
    graph.set_const(weight, quantized.values)
    assert not sparsify.weights(graph)
    assert sparsify.sparsify(graph) == ()


def spec(*shape, dtype="float32", name="x"):
    return inputs_lib.Spec((1, *shape), np.dtype(dtype), name)


def test_drawn_inputs_fit_the_model():
    inputs = [spec(3, 2), spec(5, dtype="int32")]
    real, whole = inputs_lib.as_samples(None, inputs)
    assert real.shape[1:] == (3, 2)
    assert abs(float(real.std()) - 1) < 0.5
    assert set(whole.reshape(-1).tolist()) == {0, 1}


def test_samples_are_one_array_or_one_per_input():
    one = np.zeros((4, 3))
    assert inputs_lib.as_samples(one, [spec(3)])[0].dtype == np.float32
    with pytest.raises(ValueError, match="one array for each of the 2 inputs"):
        inputs_lib.as_samples([one], [spec(3), spec(3, name="y")])
    with pytest.raises(ValueError, match="input 'x' must hold 1 or more samples"):
        inputs_lib.as_samples(one[:0], [spec(3)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.zeros((9, 3)), np.zeros(9)), r"A batch of .* shape \(3\), .*shape \(9,\)"),
        ([np.zeros((9, 3)), np.zeros((9, 4))], r"A batch of .* of shape \(9, 4\)"),
    ],
    ids=["inputs and labels", "another width"],
)
def test_a_batch_that_does_not_fit_is_an_error(data, message):
    with pytest.raises(ValueError, match=message):
        inputs_lib.take(data, [spec(3)], 99)


def test_batches_of_unlike_open_sizes_are_an_error():
    with pytest.raises(ValueError, match=r"shape \(3\), .* of shape \(2, 5\)"):
        inputs_lib.take([np.zeros((2, 3)), np.zeros((2, 5))], [spec(None)], 99)


def test_inputs_of_unlike_numbers_of_samples_are_an_error():
    both = [spec(3), spec(3, name="y")]
    with pytest.raises(ValueError, match="must hold as many samples of each"):
        inputs_lib.as_samples([np.zeros((5, 3)), np.zeros((2, 3))], both)


def test_inputs_in_a_dict_are_told_apart_by_name():
    inputs = [spec(2, name="x"), spec(2, name="a_b")]
    x, y = np.zeros((4, 2)), np.ones((4, 2))
    for given in ({"x": x, "a-b": y}, {"a-b": y, "x": x}):
        for found in (
            inputs_lib.as_samples(given, inputs),
            inputs_lib.take(given, inputs, 9),
            inputs_lib.take([given], inputs, 9),
            inputs_lib.take([(given, np.zeros(4))], inputs, 9),
        ):
            assert [array.sum() for array in found] == [0, 8]
    message = r"`samples` must be a dict of the inputs \['x', 'a_b'\]. Received: .* 'c'"
    with pytest.raises(ValueError, match=message):
        inputs_lib.as_samples({"x": x, "c": y}, inputs)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((9, 3)),
        [np.zeros((9, 3))],
        [np.zeros((4, 3)), np.zeros((5, 3))],
        [(np.zeros((4, 3)), np.zeros(4)), (np.zeros((5, 3)), np.zeros(5))],
        lambda: iter([np.zeros((4, 3)), np.zeros((5, 3))]),
    ],
    ids=["array", "list of one", "batches", "batches with labels", "function"],
)
def test_representative_data_may_come_in_many_ways(data):
    (taken,) = inputs_lib.take(data, [spec(3)], 7)
    assert taken.shape == (7, 3)


def test_representative_data_may_be_an_array_of_any_library():
    import tensorflow as tf

    x = np.arange(27, dtype=np.float32).reshape(9, 3)
    arrays = [tf.constant(x), tf.Variable(x)]
    with contextlib.suppress(ImportError):
        import jax.numpy as jnp

        arrays.append(jnp.asarray(x))
    for array in arrays:
        for data in (array, [array], [(array, np.zeros(9))]):
            (taken,) = inputs_lib.take(data, [spec(3)], 7)
            assert isinstance(taken, np.ndarray)
            np.testing.assert_array_equal(taken, x[:7])


@pytest.mark.parametrize("shape", [(64,), (4, 4, 1), ()])
def test_a_dataset_that_is_not_batched_says_so(shape):
    import tensorflow as tf

    x = np.zeros((9, *shape), np.float32)
    ds = tf.data.Dataset.from_tensor_slices
    for data in (ds(x), ds((x, np.zeros(9))), list(x), x[0], tf.constant(x[0])):
        with pytest.raises(ValueError, match=r"looks like single .* `ds\.batch\(32\)`"):
            inputs_lib.take(data, [spec(*shape)], 256)
    with pytest.raises(ValueError, match="looks like single samples"):
        inputs_lib.take([x[0], x[0]], [spec(*shape), spec(*shape, name="y")], 256)
    (taken,) = inputs_lib.take(ds(x).batch(2), [spec(*shape)], 256)
    assert taken.shape == x.shape


def test_one_array_for_two_inputs_is_an_error():
    with pytest.raises(ValueError, match=r"each of the 2 inputs. Received: 1 arrays"):
        inputs_lib.take(np.zeros((9, 3)), [spec(3), spec(3, name="y")], 7)


def test_no_representative_data_is_an_error():
    with pytest.raises(ValueError, match="holds no samples"):
        inputs_lib.take([], [spec(3)], 7)


def test_a_file_is_compared_in_the_runtimes_that_run_its_source(tmp_path, monkeypatch):
    data, samples = one_layer(np.eye(3, 4, dtype=np.float32))
    (tmp_path / "a.tflite").write_bytes(data)
    right = verify.run_everywhere

    def one_fails(*arguments):
        outputs, _, ram = right(*arguments)
        del outputs["tensorflow"]
        return outputs, {"tensorflow": "no such operator"}, ram

    monkeypatch.setattr(verify, "run_everywhere", one_fails)
    source = model_lib.from_file(tmp_path / "a.tflite", samples)
    assert "tensorflow" not in source.expected
    assert "tensorflow: no such operator" in source.notes[0]
    found = verify.verify(tmp_path / "a.tflite", [samples], source.expected, 0)
    assert set(found.differences) == set(source.expected)
