import keras
import numpy as np
import pytest
import tf_keras

from tflottery.tflite import export_tflite
from tflottery.tflite.source.precision import in_float32


def build(api, policy):
    """A model with another one inside, computing in `policy` but for its last layer."""
    layers = api.layers
    api.mixed_precision.set_global_policy(policy)
    try:
        image = x = layers.Input((6, 6, 3))
        x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
        x = layers.Dropout(0.5)(layers.Flatten()(x))
        x = api.Sequential([layers.Input((64,)), layers.Dense(9)])(x)
        return api.Model(image, layers.Dense(3, dtype="float32")(x))
    finally:
        api.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("api", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_a_model_of_another_precision_is_exported_as_it_is_in_float32(
    api, policy, tmp_path
):
    model = build(api, policy)
    rebuilt = in_float32(model)
    for old, new in zip(model.get_weights(), rebuilt.get_weights(), strict=True):
        np.testing.assert_array_equal(np.asarray(old, new.dtype), new)
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.difference < 1e-5


def test_a_float32_model_is_left_alone():
    model = build(keras, "float32")
    assert in_float32(model) is model


def test_a_model_that_cannot_be_rebuilt_is_refused():
    class Plain(keras.Model):
        def __init__(self, units):
            super().__init__(dtype="mixed_float16")
            self.dense = keras.layers.Dense(units, dtype="mixed_float16")

        def call(self, x):
            return self.dense(x)

    model = Plain(3)
    model(np.zeros((1, 5), np.float32))
    message = "The model computes in float16, which a .tflite file cannot, and it could"
    with pytest.raises(ValueError, match=message):
        in_float32(model)
