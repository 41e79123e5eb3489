import copy
import sys
from pickle import dumps, loads

import keras
import numpy as np
import pytest
from making.holding import half_masks, largest_pruned, watch

import tflottery
from tflottery import engines
from tflottery.core import masks as masks_lib
from tflottery.engines import network
from tflottery.search.trainer import engine_for

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_only = pytest.mark.skipif(not ON_TENSORFLOW, reason="needs TensorFlow")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.integers(0, 3, 48)


@pytest.fixture(autouse=True)
def _fresh():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


def make_model(**dense):
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="relu", **dense),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, activation="softmax", name="output"),
        ]
    )


def compiled(model, optimizer="adam", **options):
    if ON_TENSORFLOW:  # XLA takes longer to compile than to train.
        options = {"jit_compile": False} | options
    model.compile(optimizer, "sparse_categorical_crossentropy", **options)
    return model


def moved(model, before):
    weights = network.read(network.variables(model))
    return not np.array_equal(weights["output/kernel"], before["output/kernel"])


OPTIMIZERS = {
    "sgd_momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    "lion": lambda: keras.optimizers.Lion(0.01, weight_decay=0.1),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "ema_overwriting": lambda: keras.optimizers.SGD(
        0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=3
    ),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "clipping": lambda: keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1),
    "global_clipping": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
    "scheduled": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9
    ),
}


# Weight decay, averages that share the weights' buffers, updates of several batches.
ON_JAX = ("adamw", "ema", "ema_overwriting", "accumulating")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.without_tensorflow] * (name in ON_JAX))
        for name in OPTIMIZERS
    ],
)
def test_pruned_weights_are_zero_after_every_step(name):
    model = compiled(make_model(), OPTIMIZERS[name]())
    masks = half_masks(model)
    engine = engine_for(model)
    engine.prepare((X, Y), rewind_step=0, callbacks=[watch(keras, masks)])
    engine.hold(masks_lib.ones(masks))  # As in round 0, which fills slots and averages.
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0)
    engine.hold(masks)
    before, seen = engine.weights(), watch(keras, masks)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[seen])
    assert seen.largest == [0.0] * 12
    assert largest_pruned(model, masks) == 0.0  # After fit's own last words, too.
    assert moved(model, before)


def test_without_a_mask_the_watch_sees_weights_move():
    model = compiled(make_model())
    seen = watch(keras, half_masks(model))
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[seen])
    assert min(seen.largest) > 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        "mixed_bfloat16",
        pytest.param("mixed_float16", marks=pytest.mark.without_tensorflow),
    ],
)
def test_masks_hold_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = compiled(make_model(), keras.optimizers.Adam(0.01))
    masks = half_masks(model)
    engine = engine_for(model)
    engine.prepare((X, Y), rewind_step=0, callbacks=[])
    engine.hold(masks)
    before, seen = engine.weights(), watch(keras, masks)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[seen])
    assert set(seen.largest) == {0.0}
    assert moved(model, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": True},
        {"run_eagerly": True},
        pytest.param({"steps_per_execution": 4}, marks=pytest.mark.without_tensorflow),
    ],
    ids=str,
)
def test_masks_hold_however_the_step_is_run(options):
    model = compiled(make_model(), keras.optimizers.SGD(0.1, momentum=0.9), **options)
    masks = half_masks(model)
    engine = engine_for(model)
    engine.prepare((X, Y), rewind_step=0, callbacks=[watch(keras, masks)])
    engine.hold(masks)
    before, seen = engine.weights(), watch(keras, masks)
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[seen])
    assert set(seen.largest) == {0.0}
    assert moved(model, before)


def test_a_constraint_of_the_users_own_applies_too():
    model = compiled(
        make_model(kernel_constraint=keras.constraints.MaxNorm(0.3, axis=0)),
        keras.optimizers.SGD(1.0),
    )
    masks = half_masks(model)
    engine = engine_for(model)
    engine.prepare((X, Y), rewind_step=0, callbacks=[])
    engine.hold(masks)
    model.fit(X, Y, batch_size=8, epochs=3, verbose=0)
    kernel = network.read(network.variables(model))[
        "dense/kernel".replace("dense", model.layers[0].name)
    ]
    assert largest_pruned(model, masks) == 0.0
    norms = np.linalg.norm(kernel, axis=0)
    assert norms.max() == pytest.approx(0.3, rel=1e-3)
    engines.release(model)
    assert isinstance(model.layers[0].kernel.constraint, keras.constraints.MaxNorm)


@pytest.mark.slow
@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: loads(dumps(m))])
def test_a_copy_holds_its_masks_too(how):
    model = compiled(make_model())
    masks = half_masks(model)
    engines.hold(model, masks)
    model.ticket = "any"
    model.fit(X, Y, batch_size=8, verbose=0)  # Or Keras warns of the new optimizer.
    other = how(model)
    other.fit(X, Y, batch_size=8, verbose=0)
    assert largest_pruned(other, masks) == 0.0
    assert other.ticket == "any"


def test_masks_and_patterns_to_hold_are_checked():
    model = make_model()
    with pytest.raises(ValueError, match="`masks` must be a dict, or None"):
        engines.hold(model, model.get_weights())
    with pytest.raises(ValueError, match="`include` must be a list"):
        engines.hold(model, include="emb*")


def traced_model():
    """Returns a compiled model, and a list that grows by one with every trace."""
    traces = []

    class Counted(keras.layers.Dense):
        def call(self, inputs):
            traces.append(1)
            return super().call(inputs)

    model = keras.Sequential([keras.layers.Input((6,)), Counted(3)])
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(True),
        jit_compile=False if ON_TENSORFLOW else "auto",
    )
    return model, traces


@pytest.mark.without_tensorflow
def test_new_masks_take_effect_without_a_new_trace():
    model, traces = traced_model()
    engine = engine_for(model)
    engine.prepare((X, Y), rewind_step=0, callbacks=[])
    path = next(iter(engine.prunable))
    state = engine.state()
    mask = np.ones((6, 3), bool)
    engine.hold({path: mask})
    fit = dict(validation_data=None, epochs=1, initial_epoch=0, callbacks=[], verbose=0)
    engine.fit((X, Y), **fit)
    traced = len(traces)
    for row in range(4):
        mask = mask.copy()
        mask[row] = False
        engine.restore(state, parts=("weights", "optimizer"))
        engine.hold({path: mask})
        engine.fit((X, Y), **fit)
        kernel = engine.weights()[path]
        assert np.array_equal(kernel != 0, mask)
    assert len(traces) == traced


@pytest.mark.without_tensorflow
def test_new_masks_take_effect_outside_a_search_too():
    model, traces = traced_model()
    path = next(iter(network.prunable(model, keras)))
    mask, traced = np.ones((6, 3), bool), 0
    for row in range(3):
        mask = mask.copy()
        mask[row] = False
        engines.hold(model, {path: mask})
        model.set_weights([np.ones((6, 3)) * mask, np.zeros(3)])
        model.fit(X, Y, epochs=1, verbose=0)
        kernel = network.read(network.variables(model))[path]
        assert np.array_equal(kernel != 0, mask)
        traced = traced or len(traces)
    if ON_TENSORFLOW:
        assert len(traces) == traced


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_restoring_brings_back_weights_statistics_slots_and_step():
    model = compiled(make_model())
    engine = engine_for(model)
    engine.prepare((X, Y), rewind_step=0, callbacks=[])
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0)
    state = engine.state()
    assert engine.step() == 6
    masks = half_masks(model)
    engine.hold(masks)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert largest_pruned(model, masks) == 0.0  # The older trace knew no masks.
    assert engine.step() == 18
    engine.restore(state, parts=("weights", "optimizer"))
    after = engine.state()
    assert after.keys() == state.keys()
    assert any("moving_mean" in name for name in state)
    assert sum(name.startswith("optimizer/") for name in state) >= 2 * 6
    for name, value in state.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert engine.step() == 6
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0)
    trained = engine.weights()
    engine.restore(state, parts=("optimizer",))  # As `retrain="learning_rate"` does.
    assert engine.step() == 6
    after = engine.state()
    for name, value in state.items():
        if name.startswith("optimizer/"):
            np.testing.assert_array_equal(after[name], value, err_msg=name)
    for path, w in engine.weights().items():
        np.testing.assert_array_equal(w, trained[path])


def search(model, ds=(X, Y), **options):
    return tflottery.find_ticket(
        model,
        ds,
        validation_data=ds,
        epochs=1,
        rounds=1,
        select="last",
        verbose=0,
        **options,
    )


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_masks_hold_in_a_custom_loop_and_after_compiling_anew_until_released():
    model = search(make_model())
    masks, optimizer = model.ticket.masks, keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    before = network.read(network.variables(model))
    custom_step = _tensorflow_step if ON_TENSORFLOW else _jax_step
    for _ in range(3):
        custom_step(model, optimizer)
        assert largest_pruned(model, masks) == 0.0
    assert moved(model, before)

    before = network.read(network.variables(model))
    compiled(model, keras.optimizers.Adam(0.05, use_ema=True))
    model.fit(X, Y, epochs=2, verbose=0)
    assert largest_pruned(model, masks) == 0.0
    assert moved(model, before)

    # Keras on JAX fails in a second `fit` with averages.
    compiled(model, keras.optimizers.Adam(0.05))
    assert tflottery.release(model) is model
    model.fit(X, Y, epochs=1, verbose=0)
    assert largest_pruned(model, masks) > 0.0
    with pytest.raises(ValueError, match="carries no ticket"):
        tflottery.release(model)


def _tensorflow_step(model, optimizer):
    import tensorflow as tf

    loss_fn = keras.losses.SparseCategoricalCrossentropy()
    with tf.GradientTape() as tape:
        loss = loss_fn(Y, model(X, training=True))
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, variables), variables)


def _jax_step(model, optimizer):
    import jax

    loss_fn = keras.losses.SparseCategoricalCrossentropy()
    fixed = [v.value for v in model.non_trainable_variables]

    def loss(trainable):
        return loss_fn(Y, model.stateless_call(trainable, fixed, X)[0])

    trainable = [v.value for v in model.trainable_variables]
    slots = [v.value for v in optimizer.variables]
    trainable, slots = jax.jit(optimizer.stateless_apply)(
        slots, jax.grad(loss)(trainable), trainable
    )
    for variables, values in (
        (model.trainable_variables, trainable),
        (optimizer.variables, slots),
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


@pytest.fixture(scope="module")
def found():
    """Returns a model that was searched, for tests that leave it as it is."""
    keras.utils.set_random_seed(0)
    return search(make_model())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("model.keras", marks=pytest.mark.without_tensorflow),
        "model.weights.h5",
    ],
)
def test_a_saved_model_holds_again_once_the_ticket_is_applied(tmp_path, name, found):
    model = found
    masks = model.ticket.masks
    model.ticket.save(tmp_path / "a.ticket")
    if name.endswith(".h5"):
        model.save_weights(tmp_path / name)
        loaded = make_model()
        loaded.load_weights(tmp_path / name)
        compiled(loaded)
    else:
        model.save(tmp_path / name)
        loaded = keras.saving.load_model(tmp_path / name)
        assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    ticket = tflottery.load_ticket(tmp_path / "a.ticket")
    assert ticket.apply(loaded) is loaded
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )
    loaded.fit(X, Y, verbose=0)
    paths = dict(zip(masks, network.prunable(loaded, keras), strict=True))
    assert largest_pruned(loaded, {paths[p]: m for p, m in masks.items()}) == 0.0


@tensorflow_only
def test_the_found_model_is_exported_by_keras_itself(tmp_path, found):
    import tensorflow as tf

    expected = found.predict(X, verbose=0)
    found.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.serve(X), expected, atol=1e-6)


@pytest.mark.slow
@tensorflow_only
def test_masks_hold_under_a_mirrored_strategy():
    import tensorflow as tf

    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) == 2, "conftest.py makes two virtual CPUs"
    strategy = tf.distribute.MirroredStrategy([d.name for d in devices])
    with strategy.scope():
        model = make_model()
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,
        )
    ds = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    model = search(model, ds, target_sparsity=0.5)
    masks = model.ticket.masks
    before, seen = network.read(network.variables(model)), watch(keras, masks)
    model.fit(ds, shuffle=False, verbose=0, callbacks=[seen])
    assert set(seen.largest) == {0.0}
    assert moved(model, before)
    kernel = model.layers[0].kernel.value
    for replica in strategy.experimental_local_results(kernel):
        np.testing.assert_array_equal(
            np.asarray(replica) != 0, next(iter(masks.values()))
        )


@pytest.mark.without_tensorflow
@pytest.mark.skipif(ON_TENSORFLOW, reason="runs where TensorFlow does not import")
def test_tensorflow_was_never_imported():
    assert "tensorflow" not in sys.modules
