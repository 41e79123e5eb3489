"""Training: a recipe makes optimizers, data and compiled models as the papers say."""

import dataclasses

import numpy as np
import pytest

from tflottery.lab import training
from tflottery.lab.data import datasets
from tflottery.lab.training import SGD, Adam, Recipe


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request):
    return pytest.importorskip(request.param)


def recipe(**changes):
    settings = {
        "name": "own",
        "source": "this test",
        "model": "lenet_small",
        "dataset": "own",
        "batch_size": 4,
        "steps": 6,
        "optimizer": Adam(learning_rate=1e-3),
        "validation": 0.25,
    }
    return Recipe(**(settings | changes))


def images(shape=(4, 4, 1)):
    rng = np.random.default_rng(0)
    return datasets.Images(
        name="own",
        x_train=rng.integers(256, size=(16, *shape), dtype=np.uint8),
        y_train=np.arange(16) % 4,
        x_test=rng.integers(100, size=(4, *shape), dtype=np.uint8),
        y_test=np.arange(4),
        num_classes=4,
    )


def test_learning_rates_drop_at_their_steps_exactly(keras):
    make = SGD(learning_rate=0.1, drops=((0.5, 0.01), (0.75, 0.001)))
    rate = make(keras, 8).learning_rate
    if not callable(rate):  # Keras 3 and tf_keras show the present rate.
        rate = make(keras, 8)._learning_rate
    rates = [float(rate(step)) for step in range(8)]
    np.testing.assert_allclose(rates, [0.1] * 4 + [0.01] * 2 + [0.001] * 2, rtol=1e-6)


def test_a_learning_rate_with_a_warmup_rises_and_then_falls_to_zero(keras):
    make = SGD(learning_rate=0.1, warmup=0.25)
    rate = make(keras, 8).learning_rate
    if not callable(rate):
        rate = make(keras, 8)._learning_rate
    rates = [float(rate(step)) for step in (0, 1, 2, 5, 8)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.05, 0], atol=1e-7)


def test_weight_decay_is_the_papers_in_the_long_run(keras):
    """Compares with SGD that has the penalty in the gradient, at a small rate."""
    optimizer = SGD(learning_rate=0.01, momentum=0.9, weight_decay=0.02)(keras, 1)
    if keras.__name__ == "keras":
        variable = keras.Variable([1.0])
        zeros = keras.ops.zeros_like(variable)
    else:
        tf = pytest.importorskip("tensorflow")
        variable = tf.Variable([1.0])
        zeros = tf.zeros_like(variable)
    weight, velocity = 1.0, 0.0
    for _ in range(300):
        optimizer.apply_gradients([(zeros, variable)])
        velocity = 0.9 * velocity - 0.01 * 0.02 * weight
        weight += velocity
    assert weight < 0.6  # Keras' decay with the paper's own factor gives 0.94.
    assert float(np.asarray(variable)[0]) == pytest.approx(weight, rel=0.02)


def test_sgd_without_decay_or_drops_is_plain(keras):
    optimizer = SGD(learning_rate=0.25, momentum=0.5)(keras, 10)
    assert optimizer.weight_decay is None
    assert optimizer.momentum == 0.5
    assert float(optimizer.learning_rate) == 0.25
    assert float(Adam(learning_rate=0.5)(keras, 10).learning_rate) == 0.5


@pytest.mark.slow
def test_a_model_is_compiled_to_learn_from_whole_number_labels(keras):
    own = recipe(optimizer=Adam(learning_rate=0.01))
    data = images()
    model = own.build(data, keras=keras, seed=0)
    assert training.compile_model(model, own, steps_per_execution=2) is model
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    arrays = own.arrays(data, seed=0)
    x, y = arrays.train
    before = model.evaluate(x, y, verbose=0, return_dict=True)
    model.fit(x, y, epochs=15, batch_size=4, verbose=0)
    after = model.evaluate(x, y, verbose=0, return_dict=True)
    assert set(after) == {"loss", "accuracy"}
    assert after["loss"] < before["loss"] / 2


def test_xla_is_left_out_on_cpus_where_tensorflow_trains(keras):
    tf = pytest.importorskip("tensorflow")
    if keras.__name__ == "keras" and keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend")
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    model = recipe().build(images(), keras=keras)
    training.compile_model(model, recipe())
    assert not model.jit_compile
    training.compile_model(model, recipe(), jit_compile=True)
    assert model.jit_compile


def test_what_is_not_a_keras_model_is_an_error():
    with pytest.raises(ValueError, match=r"must be a Keras 3 or a tf_keras.*int"):
        training.compile_model(3, recipe())


def test_images_are_standardized_by_the_training_images_alone():
    data = images((4, 4, 3))
    arrays = recipe(standardized=True).arrays(data, seed=0)
    (x, y), (x_val, _), (x_test, y_test) = (
        arrays.train,
        arrays.validation,
        arrays.test,
    )
    assert (len(x), len(x_val), len(x_test)) == (12, 4, 4)
    assert {a.dtype for a in (x, x_val, x_test)} == {np.dtype("float32")}
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, atol=1e-5)
    assert np.bincount(y).tolist() == [3] * 4
    # The test images are darker, and stay so.
    assert x_test.mean() < -0.5
    np.testing.assert_array_equal(y_test, data.y_test)


def test_images_that_are_not_standardized_are_in_0_to_1():
    arrays = recipe().arrays(images(), seed=0)
    np.testing.assert_allclose(arrays.test[0], images().x_test / 255, rtol=1e-6)


def test_images_are_adapted_to_the_recipes_shape():
    own = recipe(input_shape=(8, 8, 3))
    arrays = own.arrays(images(), seed=0)
    assert (arrays.train[0].shape, arrays.test[0].shape) == (
        (12, 8, 8, 3),
        (4, 8, 8, 3),
    )
    np.testing.assert_array_equal(arrays.test[1], images().y_test)
    assert own.build(images()).input_shape == (None, 8, 8, 3)


@pytest.mark.parametrize(("num_images", "epochs"), [(4, 6), (5, 3), (24, 1), (999, 1)])
def test_epochs_make_up_the_steps(num_images, epochs):
    own = recipe()
    assert own.epochs(num_images) == epochs
    assert own.search_settings(num_images)["epochs"] == epochs


def test_a_shorter_recipe_drops_its_rate_sooner(keras):
    own = recipe(optimizer=SGD(learning_rate=1.0, drops=((0.5, 0.5),)))
    own = dataclasses.replace(own, steps=2)
    optimizer = own.optimizer(keras, own.steps)
    schedule = getattr(optimizer, "_learning_rate", None)
    assert float(schedule(0)) == 1.0
    assert float(schedule(1)) == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "lenet_smal"}, "Did you mean 'lenet_small'"),
        ({"steps": 0}, "`steps` must be a whole number of at least 1.*steps=0"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number"),
        ({"validation": 0}, "`validation` must be in"),
        ({"prune_fraction": 1}, "`prune_fraction` must be in"),
        ({"retrain": "again"}, "`retrain` must be one of"),
    ],
)
def test_a_setting_out_of_range_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)
