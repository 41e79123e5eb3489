"""Network: a model without weights is refused for the right reason."""

import keras
import pytest

from tflottery.engines import network


class Subclassed(keras.Model):
    def __init__(self, *layers):
        super().__init__(name="net")
        self.parts = list(layers)

    def call(self, inputs):
        for layer in self.parts:
            inputs = layer(inputs)
        return inputs


def test_a_model_whose_layers_were_not_built_with_it_is_not_built():
    model = Subclassed(keras.layers.Dense(3))
    model.built = True  # As `build(input_shape)` leaves some models.
    with pytest.raises(
        ValueError, match=r"'net' is not built, .* call it once on a ba"
    ):
        network.variables(model)


def test_a_model_whose_layers_have_no_weights_has_nothing_to_prune():
    model = Subclassed(keras.layers.ReLU())
    model(keras.ops.ones((1, 3)))
    with pytest.raises(ValueError, match=r"'net' has no weights, so there is nothing"):
        network.variables(model)


def test_an_old_keras_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(keras, "__version__", "3.5.0")
    with pytest.raises(ImportError, match=r"Keras 3\.13 or later, .*one of keras 3\.5"):
        network.keras_of(keras.Sequential())
