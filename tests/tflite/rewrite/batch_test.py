"""Another batch than the file's: set by a runtime, or the report says why not."""

import keras
import numpy as np
import pytest
import tf_keras
from making.tflite_files import prune

from tflottery.tflite import export_tflite
from tflottery.tflite.run import verify

BOTH = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])


def sequence(k, *network):
    return prune(k.Sequential([k.layers.Input((6, 8)), *network]))


@BOTH
def test_the_batch_is_open_behind_reshapes_and_reshaped_transposes(k, tmp_path):
    layers = k.layers
    model = sequence(
        k,
        layers.LSTM(4, unroll=True, return_sequences=True),
        layers.Flatten(),
        layers.Dense(3),
    )
    report = export_tflite(model, path := tmp_path / "a.tflite")
    assert not any("batch" in note for note in report.warnings)
    x = np.random.default_rng(1).normal(size=(5, 6, 8)).astype(np.float32)
    outputs, failures, _ = verify.run_everywhere(path, [x], batch=5)
    assert not failures
    for got, *_ in outputs.values():
        assert verify.difference(np.asarray(model(x)), got) < 1e-5


def test_a_loop_fixes_the_batch_and_the_report_says_so(tmp_path):
    model = sequence(keras, keras.layers.GRU(4))
    report = export_tflite(model, tmp_path / "a.tflite", batch_size=2)
    assert "the batch is fixed at 2; `batch_size` fixes" in report.warnings[-1]
    assert "With 4 samples in a call: The file does not run" in report.warnings[-1]
    assert "(WHILE) failed to prepare" in report.warnings[-1]


def test_a_kernel_that_takes_no_other_batch_is_named(tmp_path):
    image = keras.layers.Input((4, 4, 2))
    model = keras.Model(image, keras.layers.Conv2DTranspose(3, 3)(image))
    report = export_tflite(prune(model), tmp_path / "a.tflite")
    assert "another batch cannot be set in litert: " in report.warnings[-1]


class Mean(keras.layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x)


class Scalar(keras.layers.Layer):
    def call(self, x):
        return keras.ops.mean(x)


@pytest.mark.parametrize("layer", [Mean, Scalar])
def test_a_model_that_mixes_samples_is_compared_batch_by_batch(layer, tmp_path):
    model = sequence(keras, layer())
    report = export_tflite(model, tmp_path / "a.tflite", batch_size=2)
    assert report.difference < 1e-5
    assert "the batch is fixed at 2" in report.warnings[-1]
