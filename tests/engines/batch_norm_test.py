"""Batch normalization: statistics are exact, and nothing else changes."""

import importlib

import keras
import numpy as np
import pytest

from tflottery.engines import batch_norm, network

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(50, 6)).astype("float32")
BATCHES = [X[:20], X[20:40], X[40:]]  # The last one is smaller.


def read(model):
    return network.read(network.variables(model))


def layered(library, *before):
    library.utils.set_random_seed(0)
    layers = library.layers
    norms = [layers.BatchNormalization(name=name) for name in ("one", "two", "frozen")]
    norms[2].trainable = False
    return library.Sequential(
        [
            layers.Input((6,)),
            *before,
            norms[0],
            layers.Dropout(0.5),
            layers.Dense(4, name="dense"),
            norms[1],
            norms[2],
        ]
    )


@pytest.mark.parametrize(
    "name", [pytest.param("keras", marks=pytest.mark.without_tensorflow), "tf_keras"]
)
def test_statistics_are_the_mean_and_variance_over_all_batches(name):
    library = importlib.import_module(name)
    model = layered(library)
    before, momentum = read(model), model.layers[0].momentum
    batch_norm.estimate(model, batch_norm.layers_in(model), BATCHES)
    after = read(model)
    np.testing.assert_allclose(after["one/moving_mean"], X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(after["one/moving_variance"], X.var(0), rtol=1e-4)
    # The second layer gets what the first makes of each batch, without dropout.
    parts = [(b - b.mean(0)) / np.sqrt(b.var(0) + 1e-3) for b in BATCHES]
    inputs = np.concatenate(parts) @ after["dense/kernel"]
    np.testing.assert_allclose(after["two/moving_mean"], inputs.mean(0), atol=1e-5)
    np.testing.assert_allclose(after["two/moving_variance"], inputs.var(0), rtol=1e-4)
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved == {
        f"{layer}/moving_{what}"
        for layer in ("one", "two")
        for what in ("mean", "variance")
    }
    assert model.layers[0].momentum == momentum
    assert "call" not in vars(model.layers[0])
    batch_norm.estimate(model, batch_norm.layers_in(model), BATCHES)
    assert all(np.array_equal(after[path], w) for path, w in read(model).items())


class Shares(keras.Model):
    """Calls one layer twice and another never; takes no `training`."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization()
        self.unused = keras.layers.BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)
        self.unused.build(shape)

    def call(self, inputs):
        return self.norm(inputs) + self.norm(2 * inputs)


@pytest.mark.without_tensorflow
def test_a_layer_counts_whatever_it_is_called_on():
    model = Shares()
    model(X)
    batch_norm.estimate(model, batch_norm.layers_in(model), BATCHES)
    both = np.concatenate([X, 2 * X])
    mean, variance = model.norm.moving_mean, model.norm.moving_variance
    np.testing.assert_allclose(network.value_of(mean), both.mean(0), rtol=1e-5)
    np.testing.assert_allclose(network.value_of(variance), both.var(0), rtol=1e-4)
    assert not np.any(network.value_of(model.unused.moving_mean))


@pytest.mark.without_tensorflow
def test_an_error_leaves_the_layers_as_they_were():
    model = layered(keras)
    before = read(model)

    def broken():
        yield X
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch_norm.estimate(model, batch_norm.layers_in(model), broken())
    assert "call" not in vars(model.layers[0])
    assert model.layers[0].momentum == 0.99
    assert before.keys() == read(model).keys()


def test_what_runs_as_a_graph_is_estimated_too():
    tf = pytest.importorskip("tensorflow")

    class Graph(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        @tf.function
        def call(self, inputs, training=False):
            return self.norm(inputs, training=training)

    model = Graph()
    model(X)  # Traced before.
    batch_norm.estimate(model, batch_norm.layers_in(model), BATCHES)
    mean = network.value_of(model.norm.moving_mean)
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-5)
    assert not tf.config.functions_run_eagerly()
