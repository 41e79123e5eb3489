"""The loop: what a search does round by round, on a fake engine; then on Keras."""

import itertools
import json
import warnings

import keras
import numpy as np
import pytest
from making import fake_engine
from making.fake_engine import Batches, Model, Uncounted

import tflottery
from tflottery.core import masks as masks_lib
from tflottery.core import paths as paths_lib
from tflottery.core import pruning
from tflottery.engines import data as data_lib
from tflottery.engines import engine, network
from tflottery.lab.data import pipelines
from tflottery.search.trainer import engine_for

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_only = pytest.mark.skipif(not ON_TENSORFLOW, reason="needs TensorFlow")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def find(monkeypatch):
    """Returns `find_ticket` for fake models, with defaults."""
    return fake_engine.searching(monkeypatch)


def rounds_in(run_dir):
    paths = sorted((run_dir / "rounds").glob("*.ticket"))
    return [tflottery.load_ticket(path) for path in paths]


def accuracies(*of_rounds):
    return Model(scores={"val_accuracy": of_rounds})


def equal(a, b):
    """Returns whether two tickets are equal in all but their times."""
    return (
        all(
            np.array_equal(getattr(a, part)[path], w)
            for part in ("masks", "initial", "rewind", "trained")
            for path, w in getattr(b, part).items()
        )
        and [r.metrics for r in a.rounds] == [r.metrics for r in b.rounds]
        and [r.history for r in a.rounds] == [r.history for r in b.rounds]
        and [r.steps for r in a.rounds] == [r.steps for r in b.rounds]
        and a.round == b.round
    )


class Starts(keras.callbacks.Callback):
    """Notes weights, learning rate and step where each round starts."""

    def __init__(self):
        super().__init__()
        self.weights, self.rates, self.steps = [], [], []

    def on_train_begin(self, logs=None):
        self.weights.append(dict(self.model.weights))
        self.rates.append(self.model.optimizer.learning_rate)
        self.steps.append(int(self.model.optimizer.iterations.value))


class Steps(keras.callbacks.Callback):
    """Notes all weights after each step."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        weights = self.model.weights
        if not isinstance(weights, dict):
            weights = network.read(network.variables(self.model))
        self.weights.append(dict(weights))


class Interrupts(keras.callbacks.Callback):
    """Raises as the epoch `number` of the search begins."""

    def __init__(self, number):
        super().__init__()
        self.number, self.begun = number, []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)
        if len(self.begun) == self.number + 1:
            raise KeyboardInterrupt


def test_rounds_are_nested_and_meet_the_target_exactly(find, tmp_path):
    find(rounds=None, prune_fraction=0.3, target_sparsity=0.8, run_dir=tmp_path)
    found = rounds_in(tmp_path)
    kept = [masks_lib.kept(t.masks) for t in found]
    assert kept == [72, 50, 35, 25, 18, 14]  # 72 * 0.7, rounded half up, ...; 0.2 * 72
    for denser, sparser in itertools.pairwise(found):
        assert masks_lib.is_nested(sparser.masks, denser.masks)
    assert [t.round for t in found] == list(range(6))
    assert found[0].sparsity == 0


def test_the_weights_are_those_of_the_ticket_and_held(find):
    model = Model()
    assert find(model) is model
    ticket = model.ticket
    assert ticket.sparsity == pytest.approx(0.9, abs=0.01)
    assert model.masks == ticket.masks
    for path, w in model.weights.items():
        np.testing.assert_array_equal(w, ticket.trained[path])
        assert np.all(w[~ticket.masks.get(path, np.ones(w.shape, bool))] == 0)


@pytest.mark.parametrize("k", range(1, 8))
def test_rounds_are_rewound_to_exactly_step_k(find, k):
    steps, starts = Steps(), Starts()
    ticket = find(rewind_step=k, callbacks=[steps, starts]).ticket
    for path, w in steps.weights[k - 1].items():
        mask = ticket.masks.get(path, True)
        np.testing.assert_array_equal(ticket.rewind[path], w * mask)
    assert starts.steps == [0, k, k, k]
    for path, w in starts.weights[3].items():
        np.testing.assert_array_equal(w, ticket.rewind[path])


def test_the_rewind_step_counts_from_where_the_search_begins(find):
    model = Model()
    for _ in range(6):
        model.step(np.zeros(1))
    begun = dict(model.weights)
    starts = Starts()
    ticket = find(model, rewind_step=1, callbacks=[starts]).ticket
    assert starts.steps == [6, 7, 7, 7]
    for path, w in begun.items():
        mask = ticket.masks.get(path, True)
        np.testing.assert_array_equal(ticket.initial[path], w * mask)
        assert np.any(ticket.rewind[path] != ticket.initial[path])


def test_a_round_after_a_rewind_trains_the_epochs_that_are_left(find):
    records = find(epochs=3, rewind_step=5).ticket.rounds
    assert [r.steps for r in records] == [12, 8, 8, 8]
    assert [len(r.history["loss"]) for r in records] == [3, 2, 2, 2]


@pytest.mark.parametrize("k", [3, 4, 5, 8])
def test_data_of_unknown_length_is_rewound_like_that_of_known_length(find, k):
    known, unknown = (
        find(ds=ds, epochs=3, rewind_step=k, rounds=1).ticket
        for ds in (Batches(), Uncounted())
    )
    assert equal(known, unknown)
    assert [r.steps for r in unknown.rounds] == [12, 12 - k // 4 * 4]


def test_a_rewind_step_beyond_data_of_unknown_length_is_an_error(find):
    with pytest.raises(ValueError, match=r"has 8 steps \(2 epochs of 4\)\. Received"):
        find(ds=Uncounted(), rewind_step=8)


def test_a_round_that_ends_before_the_rewind_step_is_an_error(find):
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=10.0, patience=0)
    with pytest.raises(ValueError, match="within round 0, which ended after 8 steps"):
        find(epochs=9, rewind_step=9, callbacks=[stop])


@pytest.mark.parametrize("retrain", ["rewind", "learning_rate", "fine_tune"])
def test_how_a_round_starts_follows_retrain(find, retrain):
    starts = Starts()
    model = Model(rate=lambda step: 0.1 if step < 4 else 0.01 if step < 6 else 0.001)
    initial = dict(model.weights)
    ticket = find(model, callbacks=[starts], retrain=retrain).ticket
    if retrain == "fine_tune":
        assert starts.steps == [0, 8, 16, 24]
        assert starts.rates == [0.1, *[0.001] * 3]
    else:
        assert starts.steps == [0] * 4
        assert starts.rates == [0.1] * 4
    rewound = [
        np.array_equal(
            w["output/kernel"][w["output/kernel"] != 0],
            initial["output/kernel"][w["output/kernel"] != 0],
        )
        for w in starts.weights
    ]
    assert rewound == [True, *[retrain == "rewind"] * 3]
    assert ticket.config.retrain == retrain


def test_a_changed_learning_rate_is_rewound(find):
    class Halves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate /= 2

    starts = Starts()
    find(callbacks=[starts, Halves()], rewind_step=1)
    assert starts.rates == [0.1] * 4
    starts = Starts()
    find(callbacks=[starts, Halves()], retrain="fine_tune")
    assert starts.rates == [0.1, 0.025, 0.00625, 0.0015625]


def test_a_skipped_layer_is_left_alone_and_an_output_has_its_own_fraction(find):
    ticket = find(skip=("output",), target_sparsity=0.5).ticket
    assert set(ticket.masks) == {"hidden/kernel"}
    assert ticket.sparsity == 0.5
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


def test_a_criterion_may_be_the_users_own_function(find):
    def reversed_magnitude(trained, rewind):
        return {path: -np.abs(w) for path, w in trained.items()}

    ticket = find(criterion=reversed_magnitude, rounds=1, target_sparsity=0.5).ticket
    assert ticket.config.criterion == "reversed_magnitude"
    plain = find(rounds=1, target_sparsity=0.5).ticket
    assert masks_lib.overlap(ticket.masks, plain.masks) == 0.0


@pytest.mark.parametrize(
    ("scores", "tolerance", "chosen"),
    [
        ((0.8, 0.9, 0.8, 0.7), 0.0, 2),  # Equal is enough.
        ((0.8, 0.7, 0.8, 0.75), 0.0, 2),  # The sparsest, though round 1 fails.
        ((0.8, 0.9, 0.7, 0.8), 0.0, 3),
        ((0.75, 0.7, 0.5, 0.25), 0.25, 2),  # Exactly `tolerance` less wins.
        ((0.75, 0.7, 0.5, 0.25), 0.5, 3),
    ],
)
def test_the_sparsest_winning_round_is_selected(find, scores, tolerance, chosen):
    model = accuracies(*scores)
    ticket = find(model, select="sparsest_winning", tolerance=tolerance).ticket
    assert ticket.round == chosen
    assert ticket.sparsity == ticket.rounds[chosen].sparsity
    assert [r.metrics["val_accuracy"] for r in ticket.rounds] == list(scores)
    assert find(accuracies(*scores), tolerance=tolerance).ticket.round == 3


def test_without_a_winning_round_the_best_is_returned_with_a_warning(find):
    model = accuracies(0.9, 0.5, 0.8, 0.8, 0.3)
    with pytest.warns(
        UserWarning,
        match=r"No ticket reaches the dense network's val_accuracy of 0\.9000 within "
        r"`tolerance` 0\.05\. The best one is returned: round 2, 0\.8000\.",
    ):
        ticket = find(model, select="sparsest_winning", tolerance=0.05, rounds=4).ticket
    assert ticket.round == 2
    for path, w in model.weights.items():
        np.testing.assert_array_equal(w, ticket.trained[path])


def test_a_loss_is_better_when_it_is_smaller(find):
    options = {"select": "sparsest_winning", "monitor": "val_loss"}
    ticket = find(tolerance=100.0, **options).ticket
    assert ticket.round == 3
    assert ticket.monitor == "val_loss"
    model = Model(scores={"val_loss": (0.5, 0.25, 0.5, 0.75)})
    assert find(model, **options).ticket.round == 2
    model = Model(scores={"val_loss": (0.5, 0.9, 0.6, 0.7)})
    with pytest.warns(UserWarning, match="No ticket reaches"):
        ticket = find(model, **options).ticket
    assert ticket.round == 2


def test_without_validation_data_a_warning_says_what_is_judged_by(find):
    with pytest.warns(UserWarning, match="judged by its training metrics"):
        ticket = find(validation_data=None).ticket
    assert ticket.monitor == "accuracy"


def test_progress_is_a_line_per_round_and_silence_is_silent(find, capsys):
    find(accuracies(0.5, 0.6, 0.4, 0.5), verbose="auto")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "100.0 % of the 72 weights can be pruned."
    assert lines[0] == "This is a fake."  # What `prepare` tells.
    assert "4 rounds" in lines[1]
    assert "left %" in lines[2]
    assert "val_accuracy" in lines[2]
    assert "to dense" in lines[2]
    assert "time left" in lines[2]
    assert [line.split()[0] for line in lines[3:7]] == ["0/3", "1/3", "2/3", "3/3"]
    assert [line.split()[2] for line in lines[3:7]] == [
        *("0.5000", "0.6000", "0.4000", "0.5000")
    ]
    assert [line.split()[3] for line in lines[4:7]] == ["+0.1000", "-0.1000", "+0.0000"]
    assert lines[-1].startswith("Ticket of round 3: 9.72 % of the weights")
    find(verbose=0)
    assert capsys.readouterr().out == ""


def test_early_stopping_ends_each_round_by_itself(find):
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=10.0, patience=0)
    ticket = find(epochs=9, callbacks=[stop]).ticket
    assert {len(r.history["loss"]) for r in ticket.rounds} == {2}


def test_a_run_directory_keeps_every_round(find, tmp_path):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rewind_step": 5, "epochs": 3, "rounds": 2},
        {"rewind_step": 5, "epochs": 3, "rounds": 2, "ds": Uncounted()},
        {"retrain": "learning_rate"},
        {"retrain": "fine_tune"},
        {"seed": 3, "rounds": 2},
    ],
    ids=["dense", "counted", "uncounted", "learning_rate", "fine_tune", "seeded"],
)
def test_a_search_interrupted_in_any_epoch_goes_on_to_the_same_result(
    find, tmp_path, options
):
    def search(number, run_dir=None):
        keras.utils.set_random_seed(4)
        interrupts = Interrupts(number)
        model = Model(rate=lambda step: 0.2 / (1 + step))
        return interrupts, lambda: find(
            model, callbacks=[interrupts], run_dir=run_dir, **options
        )

    interrupts, run = search(None)
    interrupts.number = 10**6
    whole, epochs = run().ticket, len(interrupts.begun)
    for number in range(epochs):
        run_dir = tmp_path / str(number)
        interrupts, run = search(number, run_dir)
        with pytest.raises(KeyboardInterrupt):
            run()
        assert len(interrupts.begun) == number + 1
        interrupts, run = search(10**6, run_dir)
        assert equal(run().ticket, whole)
        assert len(interrupts.begun) == epochs - number
        again, run = search(10**6, run_dir)  # A finished search returns at once.
        assert equal(run().ticket, whole)
        assert not again.begun


def test_resumed_rounds_are_told_as_such(find, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        find(callbacks=[Interrupts(5)], run_dir=tmp_path)
    capsys.readouterr()
    find(callbacks=[Interrupts(99)], run_dir=tmp_path, verbose="auto")
    lines = [line for line in capsys.readouterr().out.splitlines() if "/3" in line]
    assert ["(resumed)" in line for line in lines] == [True, True, False, False]


class Diverges(keras.callbacks.Callback):
    """Makes a bias NaN as round `number` begins."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def on_train_begin(self, logs=None):
        if self.left == 0:
            self.model.weights["hidden/bias"] *= np.nan
        self.left -= 1


def test_a_round_that_diverges_is_kept_as_failed_and_the_best_ticket_returned(
    find, tmp_path
):
    scores = {"val_accuracy": (0.8, 0.9, 0.9, 0.9, 0.9, 0.9)}
    options = {"rounds": 5, "run_dir": tmp_path, "select": "sparsest_winning"}
    with pytest.warns(UserWarning, match="Training diverged in round 3: .*NaN"):
        ticket = find(Model(scores=scores), callbacks=[Diverges(3)], **options).ticket
    assert ticket.round == 2
    assert [r.failure for r in ticket.rounds] == [None, None, None, "diverged"]
    with pytest.warns(UserWarning, match="Training diverged in round 3: .*NaN"):
        again = find(Model(), callbacks=[Diverges(3)], **options).ticket
    assert again.round == 2
    assert [r.failure for r in again.rounds] == [None, None, None, "diverged"]
    for path, mask in ticket.masks.items():
        np.testing.assert_array_equal(again.masks[path], mask)


def test_a_loss_that_is_not_finite_ends_the_round_and_the_search(find):
    losses = (1.0, 1.0, [1.0, np.inf, 1.0], 1.0)
    model = Model(scores={"loss": losses, "val_accuracy": (0.5,) * 4})
    with pytest.warns(UserWarning, match="Training diverged in round 2: .*infinite"):
        ticket = find(model, epochs=3, select="last").ticket
    assert [r.steps for r in ticket.rounds] == [12, 12, 8]
    assert ticket.round == 1  # Not the last, which failed.


@pytest.mark.parametrize("number", [0, 1])
def test_divergence_before_any_ticket_is_an_error_and_the_model_is_put_back(
    find, number
):
    model = Model()
    before = model.get_weights()
    message = f"Training diverged in round {number}, before there was any ticket"
    with pytest.raises(ValueError, match=message):
        find(model, callbacks=[Diverges(number)])
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    assert find(model).ticket is not None  # It can be searched, all the same.


def test_an_interrupted_search_puts_the_model_back(find, capsys):
    model = Model(rate=lambda step: 0.1 / (1 + step))
    schedule, before = model.optimizer.schedule, model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        find(model, callbacks=[Interrupts(7)], retrain="fine_tune")
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    assert model.ticket is None
    assert model.masks == {}
    assert model.optimizer.iterations.value == 0
    assert model.optimizer.schedule is schedule
    assert "run_dir" in capsys.readouterr().err


def test_a_search_ends_when_nothing_more_can_be_pruned(find, monkeypatch):
    prune = pruning.prune

    def stuck(scores, masks, *args, **options):
        sparser = masks_lib.sparsity(masks) > 0
        return masks if sparser else prune(scores, masks, *args, **options)

    monkeypatch.setattr(pruning, "prune", stuck)
    with pytest.warns(UserWarning, match=r"more can be pruned: .* at 50\.00 % spars"):
        ticket = find(rounds=None, prune_fraction=0.5).ticket
    assert [r.sparsity for r in ticket.rounds] == [0.0, 0.5]


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": None, "prune_fraction": 0.005, "target_sparsity": 0.1},
        {"rounds": 7, "target_sparsity": 0.1},
        {"rounds": 7, "target_sparsity": 0.1, "scope": "layer"},
    ],
)
def test_a_round_whose_share_is_less_than_a_weight_prunes_one(find, options):
    found = find(epochs=1, **options)  # 72 weights.
    kept = [round(72 * (1 - r.sparsity)) for r in found.ticket.rounds]
    assert kept == [72, 71, 70, 69, 68, 67, 66, 65]


# On Keras: what depends on how it trains.

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
DATA = (X[:64], Y[:64])
VALIDATION = (X[64:], Y[64:])
CROSS_ENTROPY = "sparse_categorical_crossentropy"


def make_model(units=8, activation="softmax", outputs=3):
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(units, activation="relu", name="hidden"),
            keras.layers.Dense(outputs, activation=activation, name="output"),
        ]
    )


def compiled(optimizer="sgd", model=None, **options):
    options = {"loss": CROSS_ENTROPY, "metrics": ["accuracy"]} | options
    if ON_TENSORFLOW:
        options["jit_compile"] = False  # XLA takes longer to compile than to train.
    model = make_model() if model is None else model
    model.compile(optimizer, **options)
    return model


def search(model=None, ds=DATA, **options):
    options = {
        "validation_data": VALIDATION,
        "epochs": 2,
        "rounds": 1,
        "target_sparsity": 0.5,
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


def batches():
    """Returns four batches of 16, in an order that the epoch decides."""
    return pipelines.train_pipeline(*DATA, batch_size=16, seed=0)


def moved_by_step_k(ticket):
    return np.any(ticket.rewind["hidden/kernel"] != ticket.initial["hidden/kernel"])


def auto_named(units=8):
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def searched():
    """Returns a model before and after a search, its kernels before, and warnings."""
    keras.utils.set_random_seed(0)
    model = auto_named()
    initial = kernels(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message="__array__ implementation")
        found = search(model, rounds=3, target_sparsity=0.9, rewind_step=3)
    return model, found, initial, told


@pytest.mark.without_tensorflow
def test_the_model_comes_back_itself_trained_and_sparse(searched):
    model, found, _, _ = searched
    assert found is model
    assert found.ticket.sparsity == pytest.approx(0.9, abs=0.01)
    zeros = sum(np.count_nonzero(w == 0) for w in kernels(found).values())
    assert zeros == masks_lib.size(found.ticket.masks) - masks_lib.kept(
        found.ticket.masks
    )
    for path, w in kernels(found).items():
        np.testing.assert_array_equal(w, found.ticket.trained[path])
    assert found.ticket.monitor == "val_accuracy"
    engine = engine_for(found)
    assert engine.better("val_accuracy")(1.0, 0.0)
    assert engine.better("val_loss")(0.0, 1.0)


def test_a_ticket_holds_initial_rewind_and_trained_weights(searched):
    _, found, initial, _ = searched
    ticket = found.ticket
    for path, mask in ticket.masks.items():
        np.testing.assert_array_equal(ticket.initial[path], initial[path] * mask)
        assert not np.array_equal(ticket.rewind[path], ticket.initial[path])
        assert not np.array_equal(ticket.trained[path], ticket.rewind[path])
        for weights in (ticket.initial, ticket.rewind, ticket.trained):
            assert not np.any(weights[path][~mask])


def test_no_warning_is_given_where_all_is_well(searched):
    assert [str(warning.message) for warning in searched[3]] == []


def test_a_ticket_applies_to_the_same_network_built_again_under_other_numbers(searched):
    ticket = searched[1].ticket
    other = auto_named()
    assert set(network.variables(other)) != set(ticket.trained)
    ticket.apply(other, weights="rewind")
    for w, path in zip(kernels(other).values(), ticket.masks, strict=True):
        np.testing.assert_array_equal(w, ticket.rewind[path])
    with pytest.raises(ValueError, match=r"'dense/kernel' has shape|does not fit"):
        ticket.apply(auto_named(units=9))


@pytest.fixture(scope="module")
def seen():
    """Returns the weights after each step of a plain training on `batches`."""
    keras.utils.set_random_seed(0)
    steps = Steps()
    compiled(keras.optimizers.Adam(0.01), metrics=None).fit(
        batches(), epochs=2, shuffle=False, verbose=0, callbacks=[steps]
    )
    return steps.weights


@pytest.mark.without_tensorflow
# Steps run together end at step k: 3 of them, as at an epoch's end, or 1; the user's 2
# stay or give way.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps_per_execution", "k"), [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4)]
)
def test_rewinding_captures_exactly_step_k(seen, steps_per_execution, k, monkeypatch):
    monkeypatch.setattr(engine, "_STEPS_PER_EXECUTION", 3)
    model = compiled(
        keras.optimizers.Adam(0.01),
        metrics=None,
        steps_per_execution=steps_per_execution,
    )
    ticket = search(model, batches(), rewind_step=k).ticket
    for path, mask in ticket.masks.items():
        np.testing.assert_allclose(
            ticket.rewind[path], seen[k - 1][path] * mask, atol=1e-7
        )
    assert ticket.monitor == "val_loss"
    assert model.steps_per_execution == steps_per_execution


# Keras says so of every dataset whose length it does not know.
@pytest.mark.slow
@tensorflow_only
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("k", [4, 5])
def test_a_dataset_of_unknown_length_is_rewound_like_one_of_known_length(seen, k):
    model = compiled(keras.optimizers.Adam(0.01), metrics=None)
    ds = batches().filter(lambda x, y: True)
    ticket = search(model, ds, epochs=3, rewind_step=k).ticket
    for path, mask in ticket.masks.items():
        np.testing.assert_allclose(
            ticket.rewind[path], seen[k - 1][path] * mask, atol=1e-6
        )
    assert [r.steps for r in ticket.rounds] == [12, 8]


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_the_same_seed_gives_the_same_masks_and_metrics(tmp_path):
    files = []
    for name in ("a", "b"):
        keras.utils.set_random_seed(7)
        search().ticket.save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_compiled_model_keeps_its_optimizer_loss_metrics_and_execution():
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    found = search(compiled(optimizer))
    assert found.optimizer is optimizer
    assert found.loss == CROSS_ENTROPY
    assert found.steps_per_execution == 1
    assert set(found.evaluate(*VALIDATION, verbose=0, return_dict=True)) == {
        "loss",
        "accuracy",
    }


@pytest.mark.parametrize(
    ("activation", "outputs", "labels", "loss"),
    [
        ("softmax", 3, Y, CROSS_ENTROPY),
        (None, 3, Y, "sparse_categorical_crossentropy, from logits"),
        ("softmax", 3, np.eye(3, dtype="float32")[Y], "categorical_crossentropy"),
        ("sigmoid", 1, (Y > 0).astype("int64"), "binary_crossentropy"),
        (None, 1, (Y > 0).astype("float32"), "binary_crossentropy, from logits"),
    ],
)
def test_an_uncompiled_model_gets_the_cross_entropy_that_fits(
    activation, outputs, labels, loss
):
    model = make_model(activation=activation, outputs=outputs)
    told = engine_for(model).prepare((X, labels), rewind_step=0, callbacks=[])
    assert told == [f"Not compiled: using Adam(1.2e-3) and {loss}, with accuracy."]
    model.run_eagerly = True  # A batch is trained faster than a step is traced.
    model.steps_per_execution = 1
    before = kernels(model)
    logs = model.train_on_batch(X[:8], labels[:8], return_dict=True)
    assert set(logs) == {"loss", "accuracy"}
    assert np.isfinite(logs["loss"])
    assert not np.array_equal(before["output/kernel"], kernels(model)["output/kernel"])


class Batch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1


@pytest.mark.slow
def test_a_callback_that_asks_for_batches_gets_each_one():
    seen, counting = [], Batch()
    listing = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    for callbacks, steps in (([], 20), ([counting], 1), ([listing], 1)):
        model = compiled()
        under_test = engine_for(model)
        under_test.settings = data_lib.FitSettings(batch_size=2)
        under_test.prepare(DATA, rewind_step=0, callbacks=callbacks)
        assert model.steps_per_execution == steps
    ticket = search(compiled(), batches(), callbacks=[counting, listing]).ticket
    assert counting.count == sum(r.steps for r in ticket.rounds) == 2 * 2 * 4
    assert seen == [0, 1, 2, 3] * 4  # 2 rounds of 2 epochs.


class Own(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 6), name="w")
        self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")

    def call(self, x):
        return keras.ops.matmul(x, self.w) * self.scale

    def get_prunable_weights(self):
        return [self.w]


class Block(keras.layers.Layer):
    """Has an attribute `layers`, as models do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layers = [keras.layers.Dense(8, activation="relu", name="inside")]
        self.out = keras.layers.Dense(3, name="out")

    def call(self, x):
        return self.out(self.layers[0](x))


def functional_with_shared_nested_and_own_layers():
    inner = keras.Sequential(
        [keras.layers.Dense(6, activation="relu", name="a")], name="inner"
    )
    shared = keras.layers.Dense(6, activation="relu", name="shared")
    inputs = keras.Input((6,))
    hidden = Own(name="own")(inner(shared(shared(inputs))))
    return keras.Model(inputs, keras.layers.Softmax()(Block(name="block")(hidden)))


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
    return compiled(model=model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "paths"),
    [
        (
            functional_with_shared_nested_and_own_layers,
            {
                *("shared/kernel", "inner/a/kernel", "own/w"),
                *("block/inside/kernel", "block/out/kernel"),
            },
        ),
        (subclassed, {"dense/kernel", "dense_1/kernel", "output/kernel"}),
    ],
)
def test_every_kind_of_model_is_searched(build, paths):
    model = search(build())
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


@pytest.mark.slow
@tensorflow_only
def test_a_dataset_of_tensorflow_is_searched():
    import tensorflow as tf

    ds = tf.data.Dataset.from_tensor_slices(DATA).shuffle(64, seed=1).batch(16)
    val = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(16)
    model = search(ds=ds, validation_data=val, target_sparsity=0.9)
    assert model.ticket.sparsity == pytest.approx(0.9, abs=0.01)
    assert [r.steps for r in model.ticket.rounds] == [8] * 2


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_with_gradient_accumulation_a_step_is_an_update_and_not_a_batch():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    ticket = search(compiled(optimizer), epochs=4, rewind_step=3).ticket
    assert [r.steps for r in ticket.rounds] == [4, 1]  # 4 epochs of 2 batches.
    assert moved_by_step_k(ticket)


def test_a_rewind_step_beyond_the_updates_of_a_round_is_an_error():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"has 2 steps .* Received: rewind_step=2"):
        search(compiled(optimizer), rewind_step=2)


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_a_step_that_loss_scaling_skips_does_not_count():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**127, dynamic_growth_steps=9
    )
    found = search(compiled(optimizer), epochs=8, rewind_step=3)
    assert found.ticket.rounds[0].steps < 16
    assert moved_by_step_k(found.ticket)


def test_a_weight_that_no_layer_lists_is_an_error(monkeypatch):
    model = make_model()
    monkeypatch.setattr(network, "children", lambda layer: [])
    with pytest.raises(ValueError, match="has the weight 'kernel' in a layer that"):
        network.variables(model)


@pytest.mark.slow
def test_the_metrics_of_several_outputs_can_be_monitored():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    outputs = {
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(hidden),
        "size": keras.layers.Dense(1, name="size")(hidden),
    }
    model = compiled(
        model=keras.Model(inputs, outputs),
        loss={"kind": CROSS_ENTROPY, "size": "mse"},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )

    def labelled(x, y):
        return x, {"kind": y, "size": x[:, :1]}

    found = search(model, labelled(*DATA), validation_data=labelled(*VALIDATION))
    assert found.ticket.monitor == "val_loss"
    engine = engine_for(found)
    for monitor, more in (
        ("val_kind_accuracy", True),
        ("val_kind_loss", False),
        ("val_size_mae", False),
    ):
        assert monitor in found.ticket.rounds[0].metrics
        assert engine.better(monitor)(1.0, 0.0) is more


@pytest.mark.slow
def test_a_metric_whose_direction_is_not_known_ends_the_search_in_round_0():
    def swirl(y, y_pred):
        return keras.ops.mean(y_pred)

    with pytest.raises(ValueError, match="less of `monitor` 'val_swirl' is better"):
        search(compiled(metrics=[swirl]), monitor="val_swirl", run_dir=None)


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_moving_averages_are_searched_with_validation_data():
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    found = search(compiled(optimizer), rewind_step=1)
    found.fit(*DATA, epochs=1, verbose=0)
    for path, mask in found.ticket.masks.items():
        assert not np.any(kernels(found)[path][~mask])


@pytest.mark.slow
def test_fine_tuning_stays_at_the_last_learning_rate():
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    model = compiled(keras.optimizers.SGD(schedule))
    found = search(model, retrain="fine_tune", rounds=2, callbacks=[Rates()])
    last = float(schedule(3))  # Two epochs of two batches.
    assert rates[:2] == pytest.approx([0.1, 0.05])
    assert rates[2:] == pytest.approx([last] * 4)
    assert found.optimizer._learning_rate is schedule


@pytest.mark.slow
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
    search(compiled(), counting)
    assert counting.epoch >= 8
