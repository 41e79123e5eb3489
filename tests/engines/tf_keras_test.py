import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tflottery
from tflottery.core import masks
from tflottery.engines import network
from tflottery.engines.tfmot.imported import sparsity
from tflottery.search.trainer import engine_for

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int64") + (X[:, 1] > 0)
layers = tf_keras.layers


@pytest.fixture(autouse=True)
def _fresh():
    tf_keras.utils.set_random_seed(0)


class Traced(layers.Layer):
    """Counts how often training is traced through it."""

    traces = 0

    def call(self, inputs, training=None):
        Traced.traces += bool(training)
        return inputs


def sequential():
    return tf_keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, activation="softmax", name="output"),
        ]
    )


def functional():
    inputs = tf_keras.Input((6,))
    shared = layers.Dense(6, activation="relu", name="shared")
    inner = tf_keras.Sequential(
        [layers.Input((6,)), layers.Dense(8, name="deep")], "inner"
    )
    x = layers.Concatenate()([inner(shared(inputs)), shared(shared(inputs))])
    return tf_keras.Model(inputs, layers.Dense(3, "softmax", name="output")(x))


class Subclassed(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(12, activation="relu")
        self.top = layers.Dense(3, "softmax", name="output")

    def call(self, inputs):
        return self.top(self.hidden(inputs))


def subclassed():
    model = Subclassed()
    model(X)
    return model


def find(model, **arguments):
    arguments = {"epochs": 2, "target_sparsity": 0.6, "prune_fraction": 0.4} | arguments
    return tflottery.find_ticket(
        model, (X, Y), validation_data=(X, Y), verbose=0, select="last", **arguments
    )


def zeros(model, ticket):
    weights = network.read(network.variables(model))
    return all(not np.any(weights[p][~mask]) for p, mask in ticket.masks.items())


@pytest.mark.parametrize("make", [sequential, functional, subclassed])
def test_a_search_returns_the_callers_model_sparse_trained_and_held(make):
    model = make()
    model.compile(
        tf_keras.optimizers.AdamW(0.01, weight_decay=0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    optimizer = model.optimizer
    found = find(model, epochs=1)
    assert found is model
    assert model.optimizer is optimizer
    ticket = model.ticket
    assert round(ticket.sparsity, 2) == 0.6
    assert [r.round for r in ticket.rounds] == [0, 1, 2]
    assert not any("prune" in layer.name for layer in network.all_layers(model))
    assert not any("get_prunable_weights" in vars(x) for x in model.layers)
    for path, value in network.read(network.variables(model)).items():
        np.testing.assert_array_equal(value, ticket.trained[path])
    accuracy = model.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(ticket.rounds[-1].metrics["val_accuracy"])
    model.fit(X, Y, verbose=0)
    assert zeros(model, ticket)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0)
    assert zeros(model, ticket)


@pytest.mark.slow
def test_settings_of_a_compiled_model_stay():
    model = sequential()
    schedule = tf_keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
    loss = tf_keras.losses.SparseCategoricalCrossentropy()
    model.compile(
        tf_keras.optimizers.SGD(schedule, momentum=0.9),
        loss,
        metrics=["accuracy"],
        run_eagerly=True,
    )
    optimizer = model.optimizer
    find(model, epochs=1)
    assert model.optimizer is optimizer
    assert optimizer._learning_rate is schedule
    assert model.loss is loss
    assert model.run_eagerly
    assert int(model.steps_per_execution.numpy()) == 1


@pytest.mark.slow
def test_steps_are_executed_together_unless_a_callback_wants_each():
    class Batches(tf_keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    class Executions(tf_keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(int(self.model.steps_per_execution.numpy()))

    for callback, expected in ((Batches(), list(range(32))), (Executions(), [20])):
        seen = []
        model = tf_keras.Sequential([layers.Input((6,)), layers.Dense(3, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        find(model, epochs=1, rounds=1, batch_size=2, callbacks=[callback])
        assert seen == expected * 2
        assert int(model.steps_per_execution.numpy()) == 1


@pytest.mark.slow
def test_nothing_is_traced_anew_between_rounds():
    inputs = tf_keras.Input((6,))
    x = Traced()(layers.Dense(12, activation="relu")(inputs))
    model = tf_keras.Model(inputs, layers.Dense(3, "softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    counts = []

    class Count(tf_keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            counts.append(Traced.traces)

    Traced.traces = 0
    find(model, epochs=1, rounds=2, callbacks=[Count()])
    assert len(counts) == 3
    assert counts[0] > 0
    assert len(set(counts)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: tf_keras.optimizers.Adam(0.01, use_ema=True),
        lambda: tf_keras.optimizers.SGD(
            tf_keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5), momentum=0.9
        ),
        lambda: tf_keras.optimizers.legacy.Adam(0.01),
        lambda: tf_keras.mixed_precision.LossScaleOptimizer(
            tf_keras.optimizers.Adam(0.01), initial_scale=8, dynamic_growth_steps=2
        ),
    ],
    ids=["ema", "scheduled", "legacy", "scaled"],
)
def test_rewinding_restores_all_state_exactly(optimizer):
    model = sequential()
    model.compile(optimizer(), "sparse_categorical_crossentropy")
    engine = engine_for(model)
    engine.prepare((X, Y), rewind_step=0, callbacks=[])
    fit = {"validation_data": None, "initial_epoch": 0, "callbacks": [], "verbose": 0}
    engine.fit((X, Y), epochs=2, **fit)
    state, step = engine.state(), engine.step()
    engine.fit((X, Y), epochs=2, **fit)
    after = engine.state()
    moved = {name for name in state if not np.array_equal(state[name], after[name])}
    assert {"weights/norm/moving_mean", "weights/output/kernel"} <= moved
    slots = len(model.trainable_variables)
    assert sum(name.startswith("optimizer/") for name in moved) > slots
    engine.restore(state, parts=("weights", "optimizer", "seeds"))
    assert engine.step() == step
    for name, value in engine.state().items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.slow
def test_rounds_start_from_step_k_and_its_learning_rate():
    rates, starts = [], []

    class Note(tf_keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            values = network.read(network.variables(self.model))
            starts.append((int(self.model.optimizer.iterations), values))

        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))
            self.model.optimizer.learning_rate = rates[-1] / 2

    model = sequential()
    model.compile(tf_keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    find(model, rounds=2, rewind_step=1, callbacks=[Note()])
    assert [step for step, _ in starts] == [0, 1, 1]
    np.testing.assert_allclose(rates, [0.1, 0.05] * 3, rtol=1e-6)
    ticket = model.ticket
    assert masks.is_nested(ticket.masks, masks.ones(ticket.masks))
    for path, value in starts[2][1].items():
        np.testing.assert_array_equal(value, ticket.rewind[path])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "compiled"), [(sequential, True), (functional, False)]
)
def test_a_model_that_is_wrapped_comes_back_without_wrappers(make, compiled):
    inner = make()
    wrapped = sparsity.prune_low_magnitude(inner)
    loss = tf_keras.losses.SparseCategoricalCrossentropy()
    if compiled:
        wrapped.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
        wrapped.fit(
            X, Y, verbose=0, callbacks=[sparsity.UpdatePruningStep()]
        )  # As a tfmot program may have done before.
    found = find(wrapped, epochs=1)
    assert not any("prune" in layer.name for layer in network.all_layers(found))
    assert set(found.ticket.trained) == set(network.variables(make()))
    if compiled:
        assert found.optimizer is wrapped.optimizer
        assert found.loss is loss
        assert found.run_eagerly
    assert {id(v) for v in found.trainable_variables} == {
        id(v) for v in wrapped.trainable_variables
    }
    found.fit(X, Y, verbose=0)
    assert zeros(found, found.ticket)


def test_wrappers_in_a_subclassed_model_are_an_error():
    model = Subclassed()
    model.hidden = sparsity.prune_low_magnitude(model.hidden)
    model(X, training=False)
    with pytest.raises(ValueError, match=r"wrappers in 'subclassed.*plain layers"):
        find(model)


@pytest.mark.slow
def test_a_ticket_is_applied_to_a_model_that_was_saved_and_loaded(tmp_path):
    model = find(sequential(), epochs=1, rounds=1)
    model.ticket.save(tmp_path / "ticket.safetensors")
    model.save(tmp_path / "model.keras")
    loaded = tf_keras.models.load_model(tmp_path / "model.keras")
    ticket = tflottery.load_ticket(tmp_path / "ticket.safetensors")
    ticket.apply(loaded)
    np.testing.assert_array_equal(loaded(X), model(X))
    loaded.fit(X, Y, verbose=0)
    assert zeros(loaded, ticket)
    assert tflottery.release(loaded) is loaded
    loaded.fit(X, Y, verbose=0)
    assert not zeros(loaded, ticket)


@pytest.mark.slow
def test_a_seed_makes_two_searches_alike():
    def search():
        return find(sequential(), epochs=1, rounds=1, seed=3).ticket

    # The seed comes after the weights, so those are made alike here.
    tf_keras.utils.set_random_seed(1)
    first = search()
    tf_keras.utils.set_random_seed(1)
    second = search()
    for a, b in zip(first.masks.values(), second.masks.values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [r.metrics for r in first.rounds] == [r.metrics for r in second.rounds]


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped(tmp_path):
    begun = []

    class Stop(tf_keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            begun.append(epoch)
            if len(begun) == 4:
                raise KeyboardInterrupt

    def search(run_dir=None, callbacks=()):
        tf_keras.utils.set_random_seed(1)
        model = sequential()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        # In order, as the order of an epoch cut short is not taken up.
        ds = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
        return tflottery.find_ticket(
            model,
            ds,
            validation_data=ds,
            epochs=2,
            target_sparsity=0.6,
            rounds=1,
            select="last",
            run_dir=run_dir,
            callbacks=callbacks,
            verbose=0,
        ).ticket

    whole = search()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, [Stop()])
    resumed = search(tmp_path, [Stop()])
    for path, value in whole.trained.items():
        np.testing.assert_array_equal(resumed.trained[path], value)
    assert [r.metrics for r in resumed.rounds] == [r.metrics for r in whole.rounds]


@pytest.mark.slow
def test_data_of_unknown_size_is_searched():
    def some(size):
        ds = tf.data.Dataset.from_tensor_slices((X, Y)).batch(size)
        return ds.filter(lambda x, y: True)

    model = tflottery.find_ticket(
        sequential(),
        some(16),
        validation_data=some(16),
        epochs=1,
        rounds=1,
        target_sparsity=0.5,
        select="last",
        verbose=0,
    )
    assert model.ticket.sparsity == pytest.approx(0.5, abs=0.01)


def told(*more):
    model = tf_keras.Sequential(
        [layers.Input((6,)), *more, layers.Dense(3, activation="softmax")]
    )
    engine = engine_for(model)
    return "".join(engine.prepare((X, Y), rewind_step=0, callbacks=[])[1:])


def test_layers_whose_draws_cannot_be_kept_are_told_with_the_remedy():
    assert told(layers.Dropout(0.1), layers.GaussianNoise(0.1)) == (
        "A `run_dir` does not keep the random state of Dropout, GaussianNoise, so a "
        "resumed search will differ, unless the model is built after "
        "tf_keras.backend.experimental.enable_tf_random_generator()."
    )
    assert told(layers.Dropout(0.0), layers.BatchNormalization()) == ""


def test_draws_from_a_generator_are_kept_and_not_told():
    tf_keras.backend.experimental.enable_tf_random_generator()
    try:
        assert told(layers.Dropout(0.1)) == ""
    finally:
        tf_keras.backend.experimental.disable_tf_random_generator()


@pytest.mark.slow
def test_a_model_with_an_adapted_lookup_layer_is_searched():
    words = layers.TextVectorization(max_tokens=8, output_sequence_length=3)
    words.adapt(np.array(["a b", "c d"]))
    model = tf_keras.Sequential(
        [
            layers.Input((1,), dtype="string"),
            words,
            layers.Embedding(8, 4),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    data = (np.array(["a b", "c d"] * 8), np.array([0, 1] * 8))
    options = {"validation_data": data, "epochs": 1, "rounds": 1, "verbose": 0}
    model = tflottery.find_ticket(
        model, data, target_sparsity=0.5, select="last", **options
    )
    assert model.ticket.sparsity == pytest.approx(0.5)
    assert model.predict(data[0], verbose=0).shape == (16, 2)
