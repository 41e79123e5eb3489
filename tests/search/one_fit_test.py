import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tflottery
from tflottery.core import criteria, pruning
from tflottery.core import masks as masks_lib
from tflottery.engines import network
from tflottery.engines.tfmot import state
from tflottery.engines.tfmot.imported import sparsity
from tflottery.search import settling

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int64") + (X[:, 1] > 0)
layers, optimizers = tf_keras.layers, tf_keras.optimizers
STEPS = 6  # Of an epoch, in batches of 8.


@pytest.fixture(autouse=True)
def _fresh():
    tf_keras.utils.set_random_seed(0)


def make_model():
    inputs = tf_keras.Input((6,))
    deep = layers.Dense(6, activation="relu", name="deep")
    inner = tf_keras.Sequential([layers.Input((6,)), deep], name="inner")
    shared = layers.Dense(6, activation="relu", name="shared")
    x = layers.BatchNormalization(name="norm")(shared(shared(inner(inputs))))
    return tf_keras.Model(inputs, layers.Dense(3, "softmax", name="output")(x))


def wrap(schedule, optimizer=None, model=None, **options):
    model = make_model() if model is None else model
    # Momentum is traced quickly.
    optimizer = optimizer or optimizers.SGD(0.1, momentum=0.9)
    wrapped = sparsity.prune_low_magnitude(model, schedule)
    wrapped.compile(
        optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **options
    )
    return wrapped


class Watch(tf_keras.callbacks.Callback):
    """Notes the weights, the zeros and the wrappers' masks after every step."""

    def __init__(self):
        super().__init__()
        self.weights, self.masks, self.steps = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        model = self.model
        variables = network.variables(model)
        paths = {id(v): path for path, v in variables.items()}
        wrappers = [x for x in model._flatten_layers() if hasattr(x, "pruning_vars")]
        self.masks.append(
            {
                paths[id(weight)]: mask.numpy() != 0
                for wrapper in wrappers
                for weight, mask, _ in wrapper.pruning_vars
            }
        )
        self.weights.append(network.read(variables))
        self.steps.append(int(model.optimizer.iterations.numpy()))


def search(schedule, wrapped, *, epochs=None, **options):
    watch, callback = Watch(), tflottery.RewindToInit(**options)
    wrapped.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs or schedule.total_steps // STEPS,
        validation_data=(X, Y),
        callbacks=[sparsity.UpdatePruningStep(), watch, callback],
        verbose=0,
    )
    return watch, callback


CASES = {
    "adamw": (lambda: optimizers.AdamW(0.01, weight_decay=0.1), {}),
    "ema": (lambda: optimizers.Adam(0.01, use_ema=True), {}),
    "legacy_momentum": (lambda: optimizers.legacy.SGD(0.1, momentum=0.9), {}),
    "jit": (lambda: optimizers.SGD(0.1, momentum=0.9), {"jit_compile": True}),
    "eager": (lambda: optimizers.Adam(0.01), {"run_eagerly": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_masks_are_exact_nested_and_held_at_every_step(name):
    optimizer, options = CASES[name]
    schedule = tflottery.LotterySchedule(
        rounds=3, steps_per_round=STEPS, target_sparsity=0.7
    )
    watch, callback = search(schedule, wrap(schedule, optimizer(), **options))
    size = masks_lib.size(watch.masks[0])
    assert size == 6 * 6 + 6 * 6 + 6 * 3
    kept = [masks_lib.kept(masks) for masks in watch.masks]
    planned = [round(size * (1 - schedule.sparsity(r))) for r in range(4)]
    assert kept == [n for n in planned for _ in range(STEPS)]
    for before, after in zip(watch.masks, watch.masks[1:], strict=False):
        assert masks_lib.is_nested(after, before)
    for weights, masks in zip(watch.weights, watch.masks, strict=True):
        assert not any(np.any(weights[path][~mask]) for path, mask in masks.items())
        assert all(np.all(weights[path][mask]) for path, mask in masks.items())
    for path, mask in callback.ticket.masks.items():
        np.testing.assert_array_equal(mask, watch.masks[-1][path])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"rounds": 2, "target_sparsity": 0.6},
        {"rounds": 2, "prune_fraction": 0.5},
        {"target_sparsity": 0.6, "prune_fraction": 0.5},
    ],
    ids=str,
)
def test_layers_are_pruned_at_fractions_of_their_own(arguments):
    schedule = tflottery.LotterySchedule(steps_per_round=STEPS, **arguments)
    _, callback = search(
        schedule, wrap(schedule), layer_fractions={"output": 0.1}, scope="layer"
    )
    ticket = callback.ticket
    assert masks_lib.kept({"": ticket.masks["output/kernel"]}) in (14, 15)  # Of 18.
    assert len(ticket.rounds) == 3
    if None not in (arguments.get("rounds"), arguments.get("target_sparsity")):
        assert masks_lib.kept(ticket.masks) == 36  # Of 90.


def test_a_target_out_of_reach_is_an_error_before_anything_is_trained():
    schedule = tflottery.LotterySchedule(
        rounds=1, steps_per_round=STEPS, target_sparsity=0.9
    )
    wrapped = wrap(schedule)
    with pytest.raises(ValueError, match="`layer_fractions` prunes its layers so"):
        search(schedule, wrapped, layer_fractions={"*": 0.1})
    assert int(wrapped.optimizer.iterations) == 0


@pytest.mark.slow
def test_each_round_prunes_what_the_one_before_trained():
    schedule = tflottery.LotterySchedule(
        rounds=2, steps_per_round=STEPS, prune_fraction=0.3
    )
    watch, callback = search(schedule, wrap(schedule))
    masks = watch.masks[0]
    for last in (STEPS - 1, 2 * STEPS - 1):
        trained = {path: watch.weights[last][path] for path in masks}
        masks = pruning.prune(criteria.magnitude(trained, {}), masks, 0.3)
        for path, mask in watch.masks[last + 1].items():
            np.testing.assert_array_equal(mask, masks[path])
    assert [r.round for r in callback.ticket.rounds] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 4])
def test_every_round_starts_from_all_state_at_step_k(k):
    schedule = tflottery.LotterySchedule(
        rounds=2, steps_per_round=STEPS, prune_fraction=0.3, rewind_step=k
    )
    rate = optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    wrapped = wrap(schedule, optimizers.SGD(rate, momentum=0.9))
    captured, count = [], []

    class Capture(tf_keras.callbacks.Callback):
        # Stands behind RewindToInit, so it sees what each step starts from.
        def on_train_batch_begin(self, batch, logs=None):
            if len(count) % STEPS == (k if len(count) < STEPS else 0):
                captured.append(network.read(state.parts(self.model)))
            count.append(batch)

    callback = tflottery.RewindToInit()
    wrapped.fit(
        X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[callback, Capture()]
    )
    rewind, *rounds = captured
    assert len(rounds) == 2
    masks = callback.ticket.masks
    assert any(name.startswith("optimizer/") for name in rewind)
    for later in rounds:
        assert later.keys() == rewind.keys()
        for name, value in rewind.items():
            path = name.removeprefix("weights/")
            if path not in masks:
                np.testing.assert_array_equal(later[name], value)
            else:
                np.testing.assert_array_equal(
                    later[name][masks[path]], value[masks[path]]
                )
    for path, value in callback.ticket.rewind.items():
        np.testing.assert_array_equal(
            value, np.where(masks.get(path, True), rewind[f"weights/{path}"], 0)
        )


@pytest.mark.slow
def test_the_step_counter_starts_again_at_step_k():
    schedule = tflottery.LotterySchedule(rounds=2, steps_per_round=STEPS, rewind_step=2)
    watch, _ = search(schedule, wrap(schedule))
    assert watch.steps == [*range(1, 7), *range(3, 9), *range(3, 9)]


@pytest.mark.slow
def test_each_round_is_judged_and_saved_before_it_is_rewound(tmp_path):
    schedule = tflottery.LotterySchedule(rounds=2, steps_per_round=2 * STEPS)
    wrapped = wrap(schedule)
    watch, callback = Watch(), tflottery.RewindToInit()
    path = str(tmp_path / "{epoch}.weights.h5")
    # A checkpoint behind RewindToInit still sees the trained network.
    saved = tf_keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    history = wrapped.fit(
        X,
        Y,
        batch_size=8,
        epochs=6,
        validation_data=(X, Y),
        verbose=0,
        callbacks=[watch, callback, saved],
    ).history
    ticket = callback.ticket
    accuracies = [r.metrics["val_accuracy"] for r in ticket.rounds]
    assert accuracies == pytest.approx(history["val_accuracy"][1::2])
    assert ticket.monitor == "val_accuracy"
    assert [len(r.history["loss"]) for r in ticket.rounds] == [2, 2, 2]
    assert [r.steps for r in ticket.rounds] == [2 * STEPS] * 3
    assert ticket.config.epochs == 2
    wrapped.load_weights(str(tmp_path / "2.weights.h5"))
    for name, value in network.read(network.variables(wrapped)).items():
        np.testing.assert_array_equal(value, watch.weights[2 * STEPS - 1][name])


@pytest.mark.slow
def test_rounds_may_end_within_an_epoch():
    schedule = tflottery.LotterySchedule(rounds=2, steps_per_round=4)
    watch, callback = search(schedule, wrap(schedule), epochs=2)
    kept = [masks_lib.kept(masks) for masks in watch.masks]
    assert len(set(kept[:4])) == len(set(kept[4:8])) == len(set(kept[8:])) == 1
    assert kept[0] > kept[4] > kept[8]
    assert "accuracy" in callback.ticket.rounds[0].metrics


@pytest.mark.slow
def test_masks_hold_after_strip_pruning_and_the_ticket_fits():
    schedule = tflottery.LotterySchedule(rounds=2, steps_per_round=STEPS)
    wrapped = wrap(schedule)
    _, callback = search(schedule, wrapped)
    stripped = sparsity.strip_pruning(wrapped)
    stripped.compile(
        optimizers.AdamW(0.01, weight_decay=0.1), "sparse_categorical_crossentropy"
    )
    stripped.fit(X, Y, verbose=0)
    weights = network.read(network.variables(stripped))
    for path, mask in callback.ticket.masks.items():
        assert not np.any(weights[path][~mask])
    fresh = callback.ticket.apply(make_model())
    np.testing.assert_allclose(fresh.predict(X, verbose=0), fresh(X), rtol=1e-5)
    for path, value in network.read(network.variables(fresh)).items():
        np.testing.assert_array_equal(value, callback.ticket.trained[path])
    tflottery.release(wrapped)
    wrapped.fit(X, Y, verbose=0, epochs=2, callbacks=[sparsity.UpdatePruningStep()])
    weights = network.read(network.variables(wrapped))
    assert any(np.any(weights[p][~m]) for p, m in callback.ticket.masks.items())


@pytest.mark.slow
def test_a_model_traced_before_is_traced_once_more_and_then_never():
    class Traced(layers.Layer):
        def call(self, inputs, training=None):
            traces.append(training)
            return inputs

    traces = []
    model = tf_keras.Sequential(
        [layers.Input((6,)), layers.Dense(8), layers.Dense(3, "softmax")]
    )
    schedule = tflottery.LotterySchedule(rounds=3, steps_per_round=STEPS)
    wrapped = tf_keras.Sequential(
        [
            layers.Input((6,)),
            sparsity.prune_low_magnitude(model.layers[0], schedule),
            Traced(),
            sparsity.prune_low_magnitude(model.layers[1], schedule),
        ]
    )
    wrapped.compile("adam", "sparse_categorical_crossentropy")
    update = sparsity.UpdatePruningStep()
    schedule.followed = True  # As after an earlier search of these layers.
    wrapped.fit(X, Y, batch_size=8, verbose=0, callbacks=[update])
    counts = []

    class Count(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counts.append(len(traces))

    before = len(traces)
    callback = tflottery.RewindToInit()
    wrapped.fit(X, Y, batch_size=8, epochs=4, verbose=0, callbacks=[callback, Count()])
    assert counts[0] > before
    assert len(set(counts)) == 1
    assert masks_lib.sparsity(callback.ticket.masks) > 0.48


@pytest.mark.slow
@pytest.mark.parametrize("together", [3, 6])
def test_steps_may_be_executed_together_where_rounds_end_between(together):
    schedule = tflottery.LotterySchedule(
        rounds=2, steps_per_round=STEPS, rewind_step=6 - together
    )
    wrapped = wrap(schedule, steps_per_execution=together)
    watch, callback = search(schedule, wrapped)
    assert len(watch.steps) == 3 * STEPS // together
    assert callback.ticket.sparsity == pytest.approx(0.36, abs=0.01)


@pytest.mark.parametrize(
    ("steps_per_round", "rewind_step", "name"),
    [(5, 0, "steps_per_round"), (6, 2, "rewind_step")],
)
def test_a_round_that_would_end_within_an_execution_is_an_error(
    steps_per_round, rewind_step, name
):
    schedule = tflottery.LotterySchedule(
        rounds=1, steps_per_round=steps_per_round, rewind_step=rewind_step
    )
    wrapped = wrap(schedule, steps_per_execution=3)
    with pytest.raises(ValueError, match=f"`{name}` must .*steps_per_execution=3"):
        search(schedule, wrapped, epochs=1)


@pytest.mark.slow
def test_rounds_end_when_their_masks_have_settled_and_the_fit_with_the_last(
    monkeypatch,
):
    monkeypatch.setattr(settling, "interval", lambda steps, weights: 1)
    schedule = tflottery.LotterySchedule(rounds=3, steps_per_round=4 * STEPS)
    wrapped = wrap(schedule)
    watch, callback = search(schedule, wrapped, settle=0.9)
    records = callback.ticket.rounds
    assert [r.in_full for r in records] == [True, False, False, True]
    assert records[0].steps == records[3].steps == 24
    assert all(r.steps == r.settled < 24 for r in records[1:3])
    assert len(watch.steps) == sum(r.steps for r in records)
    kept = [masks_lib.kept(masks) for masks in watch.masks]
    assert [kept.count(n) for n in (90, 72, 58, 46)] == [r.steps for r in records]
    assert callback.ticket.config.settle == 0.9
    grouped = wrap(schedule, steps_per_execution=2)
    with pytest.raises(ValueError, match="`settle` ends rounds at any step, so comp"):
        search(schedule, grouped, settle=0.9)
    with pytest.raises(ValueError, match=r"`settle` must be in \(0, 1\)"):
        tflottery.RewindToInit(settle=2)


@pytest.mark.slow
def test_what_cannot_be_searched_is_an_error():
    schedule = tflottery.LotterySchedule(rounds=1, steps_per_round=STEPS)
    other = tflottery.LotterySchedule(rounds=2, steps_per_round=STEPS)
    plain = make_model()
    plain.compile("sgd", "sparse_categorical_crossentropy")
    blocks = sparsity.prune_low_magnitude(make_model(), schedule, block_size=(2, 2))
    blocks.compile("sgd", "sparse_categorical_crossentropy")
    carrying = wrap(schedule)
    carrying.ticket = "any"
    constant = wrap(sparsity.ConstantSparsity(0.5, 0))
    cases = [
        (plain, {}, "no wrapped layer to prune"),
        (constant, {}, "wrapped with a ConstantSparsity"),
        (wrap(schedule), {"schedule": other}, "another LotterySchedule"),
        (blocks, {}, "pruned weight by weight"),
        (carrying, {}, "already carries a ticket"),
        (wrap(schedule), {"layer_fractions": {"none": 0.1}}, "matches no prunable"),
    ]
    for model, options, message in cases:
        callback = tflottery.RewindToInit(**options)
        with pytest.raises(ValueError, match=message):
            model.fit(X, Y, verbose=0, callbacks=[callback])
    with pytest.raises(ValueError, match="`scope` must be one of"):
        tflottery.RewindToInit(scope="all")


@pytest.mark.slow
def test_a_fit_that_ends_too_early_is_warned_of():
    schedule = tflottery.LotterySchedule(rounds=3, steps_per_round=2 * STEPS)
    with pytest.warns(
        UserWarning, match="ended after 18 of the 48 steps.*round 1 of 3"
    ):
        _, callback = search(schedule, wrap(schedule), epochs=3)
    assert callback.ticket.sparsity == pytest.approx(0.2, abs=0.01)
    assert [r.steps for r in callback.ticket.rounds] == [12, 6]


@pytest.mark.slow
def test_a_round_is_told_of_in_a_line(capsys):
    schedule = tflottery.LotterySchedule(
        rounds=1, steps_per_round=STEPS, prune_fraction=0.5
    )
    search(schedule, wrap(schedule), verbose=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].startswith("round 0: 100.00 % left - loss: ")
    assert lines[1].startswith("round 1: 50.00 % left - loss: ")


@pytest.mark.slow
def test_a_search_runs_on_every_device_of_a_strategy():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        # TensorFlow's collectives of two strategies in one process collide.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    schedule = tflottery.LotterySchedule(rounds=2, steps_per_round=STEPS)
    with strategy.scope():
        wrapped = wrap(schedule, optimizers.Adam(0.01))
    watch, callback = search(schedule, wrapped)
    for path, variable in network.variables(wrapped).items():
        mask = callback.ticket.masks.get(path)
        if mask is not None:
            assert not any(np.any(v.numpy()[~mask]) for v in variable.values)
    for weights, masks in zip(watch.weights, watch.masks, strict=True):
        assert not any(np.any(weights[path][~mask]) for path, mask in masks.items())


def test_a_schedule_that_nothing_follows_is_an_error_at_the_first_step():
    schedule = tflottery.LotterySchedule(rounds=2, steps_per_round=STEPS)
    wrapped = wrap(schedule)
    with pytest.raises(ValueError, match=r"in the callback `tflottery\.RewindToInit"):
        wrapped.fit(
            X, Y, verbose=0, callbacks=[sparsity.UpdatePruningStep()], batch_size=8
        )
    assert wrapped.evaluate(X, Y, verbose=0)  # This trains nothing.


@pytest.mark.slow
def test_the_layers_that_find_ticket_prunes_are_pruned_and_no_others():
    def words():
        return tf_keras.Sequential(
            [
                layers.Input((4,)),
                layers.Embedding(9, 5, name="words"),
                layers.LSTM(4, name="lstm"),
                layers.Dense(3, activation="softmax", name="output"),
            ]
        )

    data = (RNG.integers(0, 9, (48, 4)), Y)
    found = tflottery.find_ticket(
        words(),
        data,
        validation_data=data,
        epochs=1,
        rounds=1,
        select="last",
        verbose=0,
    )
    schedule = tflottery.LotterySchedule(rounds=1, steps_per_round=STEPS)
    wrapped = wrap(schedule, model=words())
    callback = tflottery.RewindToInit()
    wrapped.fit(*data, batch_size=8, epochs=2, callbacks=[callback], verbose=0)
    assert set(callback.ticket.masks) == set(found.ticket.masks)
    assert "lstm/lstm_cell/recurrent_kernel" in callback.ticket.masks
    embeddings = callback.ticket.trained["words/embeddings"]
    assert np.all(embeddings)
