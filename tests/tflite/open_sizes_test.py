"""Files whose input sizes stay open, or are fixed by `input_shape`."""

import keras
import numpy as np
import pytest
from making.tflite_files import prune, without_inputs

from tflottery.tflite import benchmark_tflite, evaluate_tflite, export_tflite
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.run import verify

layers = keras.layers


@pytest.fixture(scope="module")
def images():
    """A pruned network that takes images of any size."""
    stack = [
        layers.Input((None, None, 3)),
        layers.Conv2D(32, 3, strides=2, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4),
    ]
    return prune(keras.Sequential(stack))


@pytest.fixture(scope="module")
def exported(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("open") / "model.tflite"
    return path, export_tflite(images, path)


def test_an_open_size_stays_open_and_the_file_is_sparse_and_run_at_two(exported):
    path, report = exported
    graph = Graph(path.read_bytes())
    assert graph.input_shape(graph.inputs[0]) == (1, None, None, 3)
    assert [stored.form for stored in report.weights] == ["sparse", "sparse"]
    assert "run at [(64, 64, 3), (32, 32, 3)]" in report.warnings[0]


def test_an_open_file_is_evaluated_on_batches_of_many_sizes(images, exported):
    random = np.random.default_rng(0)
    x = [random.normal(size=(4, s, s, 3)).astype("float32") for s in (9, 9, 21)]
    ds = [(a, images.predict(a, verbose=0).argmax(-1)) for a in x]
    assert evaluate_tflite(exported[0], ds, progress=False) == {"accuracy": 1}
    assert benchmark_tflite(exported[0], rounds=1, seconds=0.01).file.ms > 0


def test_an_open_file_that_fails_at_the_size_drawn_asks_for_samples(
    exported, tmp_path, monkeypatch
):
    failed = {}, {"litert": "Too small.", "tensorflow": "Too small."}, None
    monkeypatch.setattr(verify, "run_everywhere", lambda *_: failed)
    with pytest.raises(
        ValueError, match=r"\(64, 64, 3\).* Give `samples` .*litert, tensorflow: Too"
    ):
        export_tflite(exported[0], tmp_path / "model.tflite")


def test_samples_tell_the_size_that_an_open_file_is_run_at(images, tmp_path):
    samples = np.zeros((2, 20, 31, 3))
    options = {"quantize": "weights", "batch_size": 3, "samples": samples}
    report = export_tflite(images, tmp_path / "model.tflite", **options)
    assert "run at [(20, 31, 3), (10, 16, 3)]" in report.warnings[0]


@pytest.mark.parametrize("shape", [(20, 30, 3), [(20, 30, 3)]])
def test_an_input_shape_fixes_what_is_open(shape, images, tmp_path):
    report = export_tflite(images, tmp_path / "model.tflite", input_shape=shape)
    graph = Graph((tmp_path / "model.tflite").read_bytes())
    assert graph.input_shape(graph.inputs[0]) == (1, 20, 30, 3)
    assert not any("stay so" in note for note in report.warnings)


def test_an_input_shape_describes_a_model_that_does_not_know_its_inputs(tmp_path):
    report = export_tflite(
        without_inputs(), tmp_path / "model.tflite", input_shape=(5,)
    )
    assert report.difference < 1e-5


@pytest.mark.parametrize(
    "shape", [(20, 30), (20, 30, 4), (20, None, 3), (0, 3, 3), 5, "20", [[5], [6]], {}]
)
def test_an_input_shape_that_does_not_fit_is_an_error(shape, images, tmp_path):
    message = r"`input_shape` must hold .*: \(None, None, 3\) of|dict of the inputs"
    with pytest.raises(ValueError, match=message):
        export_tflite(images, tmp_path / "model.tflite", input_shape=shape)


def test_what_needs_fixed_sizes_says_so(images, exported, tmp_path):
    path, data = tmp_path / "model.tflite", np.ones((4, 20, 20, 3), np.float32)
    for options in (
        {"target": "sparse_speed"},
        {"target": "npu", "representative_data": data},
        {"target": "micro", "representative_data": data},
    ):
        with pytest.raises(ValueError, match=r"needs fixed sizes\. Give `input_shape`"):
            export_tflite(images, path, **options)
    with pytest.raises(ValueError, match=r"a \.tflite file keeps its sizes"):
        export_tflite(exported[0], path, input_shape=(20, 20, 3))


@pytest.mark.slow
def test_a_recurrent_network_takes_any_number_of_steps(tmp_path):
    steps = [layers.Input((None, 3)), layers.Masking(), layers.GRU(4)]
    report = export_tflite(keras.Sequential(steps), tmp_path / "model.tflite")
    assert report.difference < 1e-5


def test_a_model_that_does_not_take_the_size_drawn_asks_for_samples(tmp_path):
    tokens = layers.Input((None,), dtype="int32")
    table = layers.Embedding(10, 4)(keras.ops.cumsum(keras.ops.ones_like(tokens), 1))
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="Give `samples` of sizes that it takes"):
        export_tflite(keras.Model(tokens, table), path)
    export_tflite(keras.Model(tokens, table), path, samples=np.ones((2, 8)))
