import copy
from pickle import dumps, loads

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from making.holding import half_masks, largest_pruned, watch

from tflottery import engines
from tflottery.engines import holding, network
from tflottery.engines.tfmot import held
from tflottery.engines.tfmot.wrapper import HeldLowMagnitude
from tflottery.search.trainer import engine_for

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.integers(0, 3, 48)
optimizers = tf_keras.optimizers
legacy = optimizers.legacy


@pytest.fixture(autouse=True)
def _fresh():
    tf_keras.utils.set_random_seed(0)
    yield
    tf_keras.mixed_precision.set_global_policy("float32")


def make_model(**dense):
    return tf_keras.Sequential(
        [
            tf_keras.layers.Input((6,)),
            tf_keras.layers.Dense(8, activation="relu", **dense),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dense(3, name="output"),
            tf_keras.layers.Activation("softmax", dtype="float32"),
        ]
    )


def held_model(optimizer, model=None, **compile_options):
    """Returns a model that has trained densely, its engine, and masks held in it."""
    model = make_model() if model is None else model
    model.compile(optimizer, "sparse_categorical_crossentropy", **compile_options)
    masks = half_masks(model)
    engine = engine_for(model)
    engine.prepare((X, Y), rewind_step=0, callbacks=[watch(tf_keras, masks)])
    model.fit(X, Y, batch_size=8, verbose=0)  # Fills slots and averages.
    engine.hold(masks)
    return model, engine, masks


def fit_and_watch(model, masks, steps=12):
    before = network.read(network.variables(model))["output/kernel"]
    seen = watch(tf_keras, masks)
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[seen])
    assert seen.largest == [0.0] * steps
    assert largest_pruned(model, masks) == 0.0  # After fit's own last words, too.
    after = network.read(network.variables(model))["output/kernel"]
    assert not np.array_equal(before, after)


OPTIMIZERS = {
    "sgd_momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(0.01),
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.5),
    "lion": lambda: optimizers.Lion(0.01, weight_decay=0.1),
    "ema": lambda: optimizers.Adam(0.01, use_ema=True),
    "ema_overwriting": lambda: optimizers.SGD(
        0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=3
    ),
    "clipping": lambda: optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1),
    "global_clipping": lambda: optimizers.Adam(0.01, global_clipnorm=0.1),
    "scheduled": lambda: optimizers.SGD(
        optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9
    ),
    "legacy_sgd": lambda: legacy.SGD(0.1, momentum=0.9),
    "legacy_adam": lambda: legacy.Adam(0.01, decay=0.1),
    "legacy_rmsprop": lambda: legacy.RMSprop(0.01, momentum=0.5, clipvalue=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_are_zero_after_every_step(name):
    model, _, masks = held_model(OPTIMIZERS[name]())
    fit_and_watch(model, masks)


@pytest.mark.slow
def test_without_a_mask_the_watch_sees_weights_move():
    model = make_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    seen = watch(tf_keras, half_masks(model))
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[seen])
    assert min(seen.largest) > 0.0


@pytest.mark.slow
def test_moving_averages_stay_free_of_what_is_pruned():
    model, _, masks = held_model(optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5))
    fit_and_watch(model, masks)
    averages = {v.name: v.numpy() for v in model.optimizer.variables}
    pruned = [
        averages[f"average/{path}:0"][~mask]
        for path, mask in masks.items()
        if f"average/{path}:0" in averages
    ]
    assert not np.any(np.concatenate(pruned or [[1.0]]))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("optimizer", ["adam", "ema", "legacy_sgd"])
def test_masks_hold_in_mixed_precision(policy, optimizer):
    tf_keras.mixed_precision.set_global_policy(policy)
    model, _, masks = held_model(OPTIMIZERS[optimizer]())
    scaled = isinstance(model.optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    fit_and_watch(model, masks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "executions"),
    [
        ({"jit_compile": True}, 12),
        ({"run_eagerly": True}, 12),
        ({"steps_per_execution": 4}, 4),
    ],
    ids=str,
)
def test_masks_hold_however_the_step_is_run(options, executions):
    model, _, masks = held_model(optimizers.SGD(0.1, momentum=0.9), **options)
    fit_and_watch(model, masks, executions)


def test_a_constraint_of_the_users_own_applies_to_what_is_left():
    def half_norm(weight):
        return weight * 0.5 / tf.norm(weight)

    model = make_model(kernel_constraint=half_norm)
    model, _, masks = held_model(optimizers.SGD(0.1, momentum=0.9), model)
    fit_and_watch(model, masks)
    kernel = model.layers[0].kernel.numpy()
    # A norm that counted pruned weights would come out lower.
    np.testing.assert_allclose(np.linalg.norm(kernel), 0.5, rtol=1e-5)


def test_a_pruned_weight_is_zero_even_where_the_update_is_infinite():
    variable = tf.Variable([1.0, 2.0, 3.0])
    cut = holding.Held(tf.Variable([0.0, 0.0, 1.0]), None, held.cut)
    variable.assign([np.inf, np.nan, -3.0])
    np.testing.assert_array_equal(cut(variable), [0.0, 0.0, -3.0])


def test_a_constraint_that_moves_zeros_is_cut_again():
    model = make_model(kernel_constraint=lambda weight: weight + 1.0)
    model, _, masks = held_model(optimizers.SGD(0.1), model)
    fit_and_watch(model, masks)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_masks_hold_in_a_loop_of_the_users_own(graph):
    model, _, masks = held_model(optimizers.Adam(0.01))
    optimizer = optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.build(model.trainable_variables)
    loss_of = tf_keras.losses.SparseCategoricalCrossentropy()

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))

    step = tf.function(step) if graph else step
    for start in range(0, 48, 8):
        step(X[start : start + 8], Y[start : start + 8])
        assert largest_pruned(model, masks) == 0.0


class Subclassed(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = tf_keras.layers.Dense(8, activation="relu", name="hidden")
        deep = tf_keras.layers.Dense(8, name="deep")
        self.block = tf_keras.Sequential([deep], name="block")
        self.einsum = tf_keras.layers.EinsumDense("ab,bc->ac", 4, name="einsum")
        self.output_layer = tf_keras.layers.Dense(3, "softmax", name="output")

    def call(self, inputs):
        return self.output_layer(self.einsum(self.block(self.hidden(inputs))))


@pytest.mark.slow
def test_masks_hold_in_a_subclassed_model_and_where_tfmot_knows_no_layer(monkeypatch):
    model = Subclassed()
    model(X)
    wrapped, build = [], HeldLowMagnitude.build
    monkeypatch.setattr(
        HeldLowMagnitude,
        "build",
        lambda self, shape: (wrapped.append(self), build(self, shape)),
    )
    model, _, masks = held_model(optimizers.Adam(0.01), model)
    names = {"hidden", "block/deep", "einsum", "output"}
    assert set(masks) == {f"{name}/kernel" for name in names}
    assert len(wrapped) == 3  # All but the EinsumDense.
    fit_and_watch(model, masks)


def test_masks_hold_in_shared_and_nested_layers():
    inputs = tf_keras.Input((6,))
    shared = tf_keras.layers.Dense(6, activation="relu", name="shared")
    inner = tf_keras.Sequential(
        [tf_keras.layers.Input((6,)), tf_keras.layers.Dense(5, name="deep")],
        name="inner",
    )
    x = inner(shared(shared(inputs)))
    outputs = tf_keras.layers.Dense(3, "softmax", name="output")(x)
    model = tf_keras.Model(inputs, outputs)
    model, _, masks = held_model(optimizers.Adam(0.01), model)
    assert set(masks) == {"shared/kernel", "inner/deep/kernel", "output/kernel"}
    fit_and_watch(model, masks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd_momentum", "ema", "legacy_adam"])
def test_masks_hold_on_every_device_of_a_strategy(name):
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        # TensorFlow's collectives of two strategies in one process collide.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = make_model()
        optimizer = OPTIMIZERS[name]()
    model, _, masks = held_model(optimizer, model)
    fit_and_watch(model, masks)
    for path, variable in network.variables(model).items():
        values = [v.numpy() for v in variable.values]
        if path in masks:
            assert len(values) == 2
            assert not any(np.any(value[~masks[path]]) for value in values)


@pytest.mark.slow
def test_masks_hold_through_another_compile():
    model, _, masks = held_model(optimizers.Adam(0.01))
    model.compile(
        optimizers.Adam(0.01, use_ema=True), "sparse_categorical_crossentropy"
    )
    fit_and_watch(model, masks)


@pytest.mark.slow
def test_masks_are_held_without_a_search_and_let_go():
    model = make_model()
    masks = half_masks(model)
    engines.hold(model, masks)  # Not compiled yet.
    assert largest_pruned(model, masks) == 0.0
    model.compile(
        optimizers.Adam(0.01, use_ema=True), "sparse_categorical_crossentropy"
    )
    fit_and_watch(model, masks)
    model.ticket = "any"
    engines.release(model)
    assert all(v.constraint is None for v in model.trainable_variables)
    model.fit(X, Y, batch_size=8, verbose=0)
    assert largest_pruned(model, masks) > 0.0


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: loads(dumps(m))])
def test_a_copy_holds_its_masks_too(how):
    model = make_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    masks = half_masks(model)
    engines.hold(model, masks)
    model.ticket = "any"
    other = how(model)
    other.fit(X, Y, batch_size=8, verbose=0)
    assert largest_pruned(other, masks) == 0.0
    assert other.ticket == "any"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model"])
def test_a_model_with_masks_can_be_saved(tmp_path, name):
    model, _, _ = held_model(optimizers.Adam(0.01))
    model.save(tmp_path / name)
    loaded = tf_keras.models.load_model(tmp_path / name)
    np.testing.assert_allclose(loaded(X), model(X), rtol=1e-6)
