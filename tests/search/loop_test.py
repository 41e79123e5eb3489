import itertools
import json
import warnings

import keras
import numpy as np
import pytest

import tflottery
from tflottery.core import masks as masks_lib
from tflottery.core import paths as paths_lib
from tflottery.engines import holding, network
from tflottery.engines.engine import engine_for
from tflottery.lab.data import pipelines

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_only = pytest.mark.skipif(not ON_TENSORFLOW, reason="needs TensorFlow")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
DATA = (X[:64], Y[:64])
VALIDATION = (X[64:], Y[64:])


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def make_model(units=8, activation="softmax", outputs=3):
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(units, activation="relu", name="hidden"),
            keras.layers.Dense(outputs, activation=activation, name="output"),
        ]
    )


def find(model=None, ds=DATA, **options):
    options = {
        "validation_data": VALIDATION,
        "epochs": 2,
        "rounds": 3,
        "select": "last",
        "seed": 1,
        "verbose": 0,
        **options,
    }
    return tflottery.find_ticket(
        make_model() if model is None else model, ds, **options
    )


def kernels(model):
    weights = network.read(network.variables(model))
    return {path: w for path, w in weights.items() if path.endswith("kernel")}


def test_the_model_comes_back_itself_trained_and_sparse():
    model = make_model()
    found = find(model, target_sparsity=0.9)
    assert found is model
    assert found.ticket.sparsity == pytest.approx(0.9, abs=0.01)
    zeros = sum(np.count_nonzero(w == 0) for w in kernels(found).values())
    assert zeros == masks_lib.size(found.ticket.masks) - masks_lib.kept(
        found.ticket.masks
    )
    for path, w in kernels(found).items():
        np.testing.assert_array_equal(w, found.ticket.trained[path])
    assert found.ticket.monitor == "val_accuracy"


def test_rounds_are_nested_and_meet_the_target_exactly(tmp_path):
    find(rounds=None, prune_fraction=0.3, target_sparsity=0.8, run_dir=tmp_path)
    paths = sorted((tmp_path / "rounds").glob("*.ticket"))
    found = [tflottery.load_ticket(path) for path in paths]
    kept = [masks_lib.kept(t.masks) for t in found]
    assert kept == [72, 50, 35, 25, 18, 14]  # 72 * 0.7, rounded half up, ...; 0.2 * 72
    for denser, sparser in itertools.pairwise(found):
        assert masks_lib.is_nested(sparser.masks, denser.masks)
    assert [t.round for t in found] == list(range(6))
    assert found[0].sparsity == 0


def test_a_ticket_holds_initial_rewind_and_trained_weights():
    model = make_model()
    initial = kernels(model)
    ticket = find(model, rewind_step=3).ticket
    for path, mask in ticket.masks.items():
        np.testing.assert_array_equal(ticket.initial[path], initial[path] * mask)
        assert not np.array_equal(ticket.rewind[path], ticket.initial[path])
        assert not np.array_equal(ticket.trained[path], ticket.rewind[path])
        for weights in (ticket.initial, ticket.rewind, ticket.trained):
            assert not np.any(weights[path][~mask])


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_rewinding_captures_exactly_step_k(steps_per_execution):
    class Weights(keras.callbacks.Callback):
        """Notes the weights after each step of a plain training."""

        def on_train_batch_end(self, batch, logs=None):
            seen.append(network.read(network.variables(self.model)))

    def compiled(steps):
        keras.utils.set_random_seed(0)
        model = make_model()
        model.compile(
            keras.optimizers.Adam(0.01),
            "sparse_categorical_crossentropy",
            steps_per_execution=steps,
        )
        return model

    seen = []
    compiled(1).fit(
        batches(), epochs=2, shuffle=False, verbose=0, callbacks=[Weights()]
    )
    for k in (1, 3, 4, 5):
        ticket = find(compiled(steps_per_execution), batches(), rewind_step=k).ticket
        for path, mask in ticket.masks.items():
            np.testing.assert_allclose(
                ticket.rewind[path], seen[k - 1][path] * mask, atol=1e-7
            )


def batches():
    """Returns four batches of 16, in an order that the epoch decides."""
    return pipelines.train_pipeline(*DATA, batch_size=16, seed=0)


def test_a_round_after_a_rewind_trains_the_epochs_that_are_left():
    records = find(ds=batches(), epochs=3, rewind_step=5).ticket.rounds
    assert [r.steps for r in records] == [12, 8, 8, 8]


# Keras says so of every dataset whose length it does not know.
uncounted = pytest.mark.filterwarnings("ignore:Your input ran out of data")


@tensorflow_only
@uncounted
@pytest.mark.parametrize("k", [3, 4, 5, 8])
def test_a_dataset_of_unknown_length_is_rewound_like_one_of_known_length(k):
    import tensorflow as tf

    known = tf.data.Dataset.from_tensor_slices(DATA).batch(16)
    unknown = known.filter(lambda x, y: True)
    tickets = []
    for ds in (known, unknown):
        keras.utils.set_random_seed(0)
        tickets.append(find(ds=ds, epochs=3, rewind_step=k, rounds=1).ticket)
    for path, w in tickets[0].rewind.items():
        np.testing.assert_allclose(tickets[1].rewind[path], w, atol=1e-6)
    steps = [[r.steps for r in ticket.rounds] for ticket in tickets]
    assert steps == [[12, 12 - k // 4 * 4]] * 2


@tensorflow_only
@uncounted
def test_a_rewind_step_beyond_a_dataset_of_unknown_length_is_an_error():
    import tensorflow as tf

    ds = tf.data.Dataset.from_tensor_slices(DATA).batch(16).filter(lambda x, y: True)
    with pytest.raises(ValueError, match=r"has 8 steps \(2 epochs of 4\)\. Received"):
        find(ds=ds, rewind_step=8)


@pytest.mark.parametrize("retrain", ["rewind", "learning_rate", "fine_tune"])
def test_how_a_round_starts_follows_retrain(retrain):
    starts = []

    class Starts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
            starts.append((kernels(self.model), rate, step))

    model = make_model()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [4, 6], [0.1, 0.01, 0.001]
    )
    model.compile(keras.optimizers.SGD(schedule), "sparse_categorical_crossentropy")
    initial = kernels(model)
    ticket = find(model, ds=batches(), callbacks=[Starts()], retrain=retrain).ticket
    rates = [pytest.approx(rate) for _, rate, _ in starts]
    steps = [step for _, _, step in starts]
    rewound = [
        np.array_equal(
            w["output/kernel"][w["output/kernel"] != 0],
            initial["output/kernel"][w["output/kernel"] != 0],
        )
        for w, _, _ in starts
    ]
    if retrain == "fine_tune":
        assert steps == [0, 8, 16, 24]
        assert rates[1:] == [0.001] * 3
    else:
        assert steps == [0] * 4
        assert rates == [0.1] * 4
    assert rewound == [True, *[retrain == "rewind"] * 3]
    assert ticket.config.retrain == retrain


def test_the_same_seed_gives_the_same_masks_and_metrics(tmp_path):
    files = []
    for name in ("a", "b"):
        keras.utils.set_random_seed(7)
        find(make_model()).ticket.save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_a_skipped_layer_is_left_alone_and_an_output_has_its_own_fraction():
    ticket = find(skip=("output",), target_sparsity=0.5).ticket
    assert set(ticket.masks) == {"hidden/kernel"}
    assert ticket.sparsity == pytest.approx(0.5, abs=0.02)
    ticket = find(
        rounds=None,
        prune_fraction=0.5,
        target_sparsity=0.7,
        scope="layer",
        layer_fractions={"output": 0.25},
    ).ticket
    density = masks_lib.density_per_layer(ticket.masks)
    assert density["output/kernel"] > 2 * density["hidden/kernel"]
    assert masks_lib.kept(ticket.masks) == round(0.3 * 72)


def test_a_criterion_may_be_the_users_own_function():
    def reversed_magnitude(trained, rewind):
        return {path: -np.abs(w) for path, w in trained.items()}

    ticket = find(criterion=reversed_magnitude, rounds=1, target_sparsity=0.5).ticket
    assert ticket.config.criterion == "reversed_magnitude"
    keras.utils.set_random_seed(0)
    plain = find(rounds=1, target_sparsity=0.5).ticket
    assert masks_lib.overlap(ticket.masks, plain.masks) == 0.0


def test_the_sparsest_winning_round_is_selected():
    ticket = find(select="sparsest_winning", tolerance=0.03, epochs=8, rounds=6).ticket
    dense, *sparse = ticket.rounds
    winning = [
        r.round
        for r in sparse
        if r.metrics["val_accuracy"] >= dense.metrics["val_accuracy"] - 0.03
    ]
    assert winning
    assert ticket.round == max(winning)
    assert ticket.sparsity == ticket.rounds[ticket.round].sparsity


def test_a_loss_is_better_when_it_is_smaller():
    ticket = find(select="sparsest_winning", monitor="val_loss", tolerance=100.0).ticket
    assert ticket.round == 3
    model = make_model()
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="No ticket reaches"):
        ticket = find(model, select="sparsest_winning", epochs=9, rounds=2).ticket
    assert ticket.monitor == "val_loss"
    losses = [r.metrics["val_loss"] for r in ticket.rounds[1:]]
    assert losses[ticket.round - 1] == min(losses)


def test_without_validation_data_a_warning_says_what_is_judged_by():
    with pytest.warns(UserWarning, match="judged by its training metrics"):
        ticket = find(validation_data=None).ticket
    assert ticket.monitor == "accuracy"


def test_a_compiled_model_keeps_its_optimizer_loss_metrics_and_execution():
    model = make_model()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    found = find(model)
    assert found.optimizer is optimizer
    assert found.loss == "sparse_categorical_crossentropy"
    assert found.steps_per_execution == 1
    assert set(found.evaluate(*VALIDATION, verbose=0, return_dict=True)) == {
        "loss",
        "accuracy",
    }


@pytest.mark.parametrize(
    ("activation", "outputs", "labels", "loss"),
    [
        ("softmax", 3, Y, "sparse_categorical_crossentropy"),
        (None, 3, Y, "sparse_categorical_crossentropy, from logits"),
        ("softmax", 3, np.eye(3, dtype="float32")[Y], "categorical_crossentropy"),
        ("sigmoid", 1, Y > 0, "binary_crossentropy"),
        (None, 1, (Y > 0).astype("float32"), "binary_crossentropy, from logits"),
    ],
)
def test_an_uncompiled_model_gets_the_cross_entropy_that_fits(
    capsys, activation, outputs, labels, loss
):
    model = make_model(activation=activation, outputs=outputs)
    labels = labels.astype("int64") if labels.dtype == bool else labels
    find(
        model,
        (X[:64], labels[:64]),
        target_sparsity=0.5,
        validation_data=(X[64:], labels[64:]),
        rounds=1,
        verbose="auto",
    )
    line = capsys.readouterr().out.splitlines()[0]
    assert line == f"Not compiled: using Adam(1.2e-3) and {loss}, with accuracy."


def test_progress_is_a_line_per_round_and_silence_is_silent(capsys):
    find(verbose="auto")
    lines = capsys.readouterr().out.splitlines()
    assert "4 rounds" in lines[1]
    assert "left %" in lines[2]
    assert "to dense" in lines[2]
    assert "time left" in lines[2]
    assert [line.split()[0] for line in lines[3:7]] == ["0/3", "1/3", "2/3", "3/3"]
    assert lines[-1].startswith("Ticket of round 3: 9.72 % of the weights")
    find(verbose=0)
    assert capsys.readouterr().out == ""


def test_a_callback_that_asks_for_batches_gets_each_one():
    class Batch(keras.callbacks.Callback):
        count = 0

        def on_train_batch_end(self, batch, logs=None):
            Batch.count += 1

    model = find(ds=batches(), callbacks=[Batch()])
    assert Batch.count == sum(r.steps for r in model.ticket.rounds) == 4 * 2 * 4


def test_early_stopping_ends_each_round_by_itself():
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=10.0, patience=0)
    ticket = find(epochs=9, callbacks=[stop]).ticket
    assert {len(r.history["loss"]) for r in ticket.rounds} == {2}


def test_a_run_directory_keeps_every_round(tmp_path):
    ticket = find(run_dir=tmp_path).ticket
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert names == [
        "current.safetensors",
        *[f"rounds/00{i}.{kind}" for i in range(4) for kind in ("json", "ticket")],
        "run.json",
        "start.safetensors",
        "ticket.safetensors",
    ]
    saved = tflottery.load_ticket(tmp_path / "ticket.safetensors")
    assert saved.round == ticket.round
    for path, w in ticket.trained.items():
        np.testing.assert_array_equal(saved.trained[path], w)
    record = json.loads((tmp_path / "rounds/002.json").read_text())
    assert record["seconds"] > 0
    assert record["density_per_layer"].keys() == ticket.masks.keys()


def functional_with_shared_and_nested_layers():
    inner = keras.Sequential(
        [keras.layers.Dense(6, activation="relu", name="a")], name="inner"
    )
    shared = keras.layers.Dense(6, activation="relu", name="shared")
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(3, activation="softmax", name="output")(
        inner(shared(shared(inputs)))
    )
    return keras.Model(inputs, outputs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [keras.layers.Dense(6, activation="relu") for _ in range(2)]
        self.head = keras.layers.Dense(3, activation="softmax", name="output")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def subclassed():
    model = Subclassed()
    model(X[:1])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Own(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 6), name="w")
        self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")

    def call(self, x):
        return keras.ops.matmul(x, self.w) * self.scale

    def get_prunable_weights(self):
        return [self.w]


def with_a_layer_of_ones_own():
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            Own(name="own"),
            keras.layers.Dense(3, activation="softmax", name="output"),
        ]
    )


@pytest.mark.parametrize(
    ("build", "paths"),
    [
        (
            functional_with_shared_and_nested_layers,
            {"shared/kernel", "inner/a/kernel", "output/kernel"},
        ),
        (subclassed, {"dense/kernel", "dense_1/kernel", "output/kernel"}),
        (with_a_layer_of_ones_own, {"own/w", "output/kernel"}),
    ],
)
def test_every_kind_of_model_is_searched(build, paths):
    model = find(build())
    masks = model.ticket.masks
    assert set(paths_lib.canonical(masks)) == paths
    model.fit(*DATA, verbose=0)
    weights = network.read(network.variables(model))
    for path, mask in masks.items():
        assert not np.any(weights[path][~mask])


def test_embeddings_biases_normalization_and_depthwise_kernels_are_not_pruned():
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, name="conv"),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.SeparableConv2D(2, 3, name="separable"),
            keras.layers.Conv2DTranspose(2, 3, name="transposed"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(),
            keras.layers.Dense(2, name="dense"),
            keras.layers.Embedding(4, 2, name="embedding"),
        ]
    )
    assert set(network.prunable(model, keras)) == {
        "conv/kernel",
        "separable/pointwise_kernel",
        "transposed/kernel",
        "dense/kernel",
    }


@tensorflow_only
def test_a_dataset_of_tensorflow_is_searched():
    import tensorflow as tf

    ds = tf.data.Dataset.from_tensor_slices(DATA).shuffle(64, seed=1).batch(16)
    val = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(16)
    model = find(ds=ds, validation_data=val)
    assert model.ticket.sparsity == pytest.approx(0.9, abs=0.01)
    assert [r.steps for r in model.ticket.rounds] == [8] * 4


def test_a_ticket_applies_to_the_same_network_built_again_under_other_numbers():
    def auto_named():
        return keras.Sequential(
            [
                keras.layers.Input((6,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )

    ticket = find(auto_named()).ticket
    other = auto_named()
    assert set(network.variables(other)) != set(ticket.trained)
    ticket.apply(other, weights="rewind")
    for w, path in zip(kernels(other).values(), ticket.masks, strict=True):
        np.testing.assert_array_equal(w, ticket.rewind[path])
    with pytest.raises(ValueError, match=r"'dense/kernel' has shape|does not fit"):
        ticket.apply(make_model(units=9))


def test_no_warning_is_given_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="__array__ implementation")
        find()


def compiled(model=None, optimizer="sgd", **options):
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | (
        options
    )
    model = make_model() if model is None else model
    model.compile(optimizer, **options)
    return model


@pytest.mark.parametrize("k", [0, 1, 3])
def test_with_gradient_accumulation_a_step_is_an_update_and_not_a_batch(k):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    found = find(compiled(optimizer=optimizer), epochs=4, rewind_step=k)
    assert found.ticket.rounds[0].steps == 4  # 4 epochs of 2 batches.
    assert moved_by_step_k(found.ticket) == (k > 0)


def moved_by_step_k(ticket):
    return np.any(ticket.rewind["hidden/kernel"] != ticket.initial["hidden/kernel"])


def test_a_rewind_step_beyond_the_updates_of_a_round_is_an_error():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"has 2 steps .* Received: rewind_step=2"):
        find(compiled(optimizer=optimizer), rewind_step=2)


def test_the_rewind_step_counts_from_where_the_search_begins():
    model = compiled()
    model.fit(*DATA, epochs=3, verbose=0)
    found = find(model, rewind_step=1)
    assert moved_by_step_k(found.ticket)


def test_a_step_that_loss_scaling_skips_does_not_count():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**127, dynamic_growth_steps=9
    )
    found = find(compiled(optimizer=optimizer), epochs=8, rewind_step=3)
    assert found.ticket.rounds[0].steps < 16
    assert moved_by_step_k(found.ticket)


def test_a_layer_with_an_attribute_layers_is_searched_whole():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.layers = [keras.layers.Dense(8, activation="relu", name="inside")]
            self.out = keras.layers.Dense(3, name="out")

        def call(self, x):
            return self.out(self.layers[0](x))

    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Softmax()(Block()(inputs)))
    found = find(compiled(model))
    assert set(found.ticket.masks) == {"block/inside/kernel", "block/out/kernel"}


def test_a_weight_that_no_layer_lists_is_an_error(monkeypatch):
    model = make_model()
    monkeypatch.setattr(network, "children", lambda layer: [])
    with pytest.raises(ValueError, match="has the weight 'kernel' in a layer that"):
        network.variables(model)


def two_outputs():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    outputs = {
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(hidden),
        "size": keras.layers.Dense(1, name="size")(hidden),
    }
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    ("monitor", "more"),
    [(None, True), ("val_kind_loss", False), ("val_size_mae", False)],
)
def test_the_metrics_of_several_outputs_can_be_monitored(monitor, more):
    model = two_outputs()
    model.compile(
        "sgd",
        {"kind": "sparse_categorical_crossentropy", "size": "mse"},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )

    def labelled(x, y):
        return x, {"kind": y, "size": x[:, :1]}

    found = find(
        model, labelled(*DATA), validation_data=labelled(*VALIDATION), monitor=monitor
    )
    assert found.ticket.monitor == (monitor or "val_kind_accuracy")
    better = engine_for(found).better(found.ticket.monitor)
    assert better(1.0, 0.0) is more


def test_a_metric_whose_direction_is_not_known_ends_the_search_in_round_0():
    def swirl(y, y_pred):
        return keras.ops.mean(y_pred)

    with pytest.raises(ValueError, match="less of `monitor` 'val_swirl' is better"):
        find(compiled(metrics=[swirl]), monitor="val_swirl", run_dir=None)


@pytest.mark.parametrize("k", [0, 1])
def test_moving_averages_are_searched_with_validation_data(k):
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    found = find(compiled(optimizer=optimizer), rewind_step=k)
    found.fit(*DATA, epochs=1, verbose=0)
    for path, mask in found.ticket.masks.items():
        assert not np.any(kernels(found)[path][~mask])


def test_a_lambda_callback_is_called_for_every_batch():
    batches = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(batch)
    )
    find(compiled(), callbacks=[callback], rounds=1)
    assert batches == [0, 1] * 4  # 2 rounds of 2 epochs.


def test_fine_tuning_stays_at_the_last_learning_rate():
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    model = compiled(optimizer=keras.optimizers.SGD(schedule))
    found = find(model, retrain="fine_tune", callbacks=[Rates()])
    last = float(schedule(3))  # Two epochs of two batches.
    assert rates[:2] == pytest.approx([0.1, 0.05])
    assert rates[2:] == pytest.approx([last] * 6)
    assert found.optimizer._learning_rate is schedule


def test_a_dataset_that_counts_epochs_of_its_own_is_left_alone():
    class Counting(keras.utils.PyDataset):
        counted = 0

        @property
        def epoch(self):
            return self.counted

        def __len__(self):
            return 2

        def __getitem__(self, index):
            self.counted += 1
            rows = slice(32 * index, 32 * index + 32)
            return DATA[0][rows], DATA[1][rows]

    counting = Counting()
    find(compiled(), counting, rounds=1)
    assert counting.epoch >= 8


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": None, "prune_fraction": 0.005, "target_sparsity": 0.1},
        {"rounds": 7, "target_sparsity": 0.1},
        {"rounds": 7, "target_sparsity": 0.1, "scope": "layer"},
    ],
)
def test_a_round_whose_share_is_less_than_a_weight_prunes_one(options):
    found = find(epochs=1, **options)  # 72 weights.
    kept = [round(72 * (1 - r.sparsity)) for r in found.ticket.rounds]
    assert kept == [72, 71, 70, 69, 68, 67, 66, 65]


def test_a_search_that_fails_leaves_the_masks_that_the_model_held():
    model = find()
    masks = holding.masks_held(model)
    with pytest.raises(ValueError, match="`monitor` must be one of"):
        find(model, monitor="nonsense", rounds=1, target_sparsity=0.95)
    assert holding.masks_held(model).keys() == masks.keys()
    for path, mask in holding.masks_held(model).items():
        np.testing.assert_array_equal(mask, masks[path])


def test_a_search_from_a_ticket_builds_its_model_first():
    ticket = find().ticket
    layers = make_model().layers
    model = keras.Sequential([type(x).from_config(x.get_config()) for x in layers])
    model = find(model, ticket=ticket, rounds=1, target_sparsity=0.95)
    for path, mask in model.ticket.masks.items():
        assert not np.any(mask & ~ticket.masks[path])


def test_zeros_of_weights_that_include_names_can_be_held():
    model = keras.Sequential([keras.layers.Embedding(4, 3), keras.layers.Dense(2)])
    model(np.zeros((1, 2)))
    path = "embedding/embeddings"
    variables = network.variables(model)
    variables[path].assign(np.eye(4, 3))
    tflottery.hold(model, include=(path,))
    np.testing.assert_array_equal(holding.masks_held(model)[path], np.eye(4, 3))
