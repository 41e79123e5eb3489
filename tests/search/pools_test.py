"""Pools: which shares are kept, on arrays; then on Keras."""

import importlib
import re

import keras
import numpy as np
import pytest
from making import models

import tflottery
from tflottery.core.config import LotteryConfig
from tflottery.core.records import Round
from tflottery.engines import network
from tflottery.search import pools, rounds
from tflottery.ticket import Ticket

X, Y = models.points(96)
VALIDATION = (X[64:], Y[64:])
GENERATIONS = [
    pytest.param("keras", marks=pytest.mark.without_tensorflow),
    "tf_keras",
]


def ticket(number, trained, mask=None, failure=None):
    """Returns the ticket of a round with one weight `w`."""
    w = np.array(trained, "float32")
    zeros = np.zeros_like(w)
    mask = np.ones(w.shape, bool) if mask is None else np.array(mask, bool)
    return Ticket(
        masks={"w": mask},
        initial={"w": zeros},
        rewind={"w": zeros},
        trained={"w": w},
        config=LotteryConfig(),
        monitor="val_accuracy",
        rounds=[
            Round(
                round=n,
                sparsity=0.0,
                density_per_layer={},
                metrics={},
                history={},
                steps=1,
                failure=failure if n == number else None,
            )
            for n in range(number + 1)
        ],
        round=number,
    )


class Judge:
    """Judges a weight by a function of it, of which more is better."""

    name = "accuracy"

    def __init__(self, metric, layers=()):
        self.engine, self.function = self, metric
        self.tried, self.layers = [], layers

    def better(self, monitor):
        return lambda a, b: a > b

    def give(self, weights):
        self.weights = weights
        self.tried.append(weights["w"].tolist())

    def estimate_statistics(self):
        if self.layers:
            self.weights = self.weights | {"w": self.weights["w"] + 1}
        return self.weights

    def metric(self):
        return float(self.function(self.weights["w"]))


def pooled(base, partners, metric):
    lines = []
    judge = Judge(metric)
    return pools.pooled(base, partners, judge, lines.append), judge, lines


def test_eleven_shares_are_tried_under_the_masks_of_the_round_and_the_best_is_kept():
    base, denser = ticket(1, [0, 0], [1, 0]), ticket(0, [100, 100])
    found, judge, lines = pooled(base, [denser], lambda w: -abs(w[0] - 42))
    wanted = [0, 5, 14, 23, 32, 41, 50, 59, 68, 77, 86, 95]
    np.testing.assert_allclose(judge.tried, [(w, 0) for w in wanted], rtol=1e-6)
    np.testing.assert_allclose(found.trained["w"], [41, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.masks["w"], base.masks["w"])
    (partner,) = found.origin["partners"]
    assert (partner["round"], partner["share"]) == (0, 0.41)
    assert (partner["before"], found.origin["before"]) == (-42, -42)
    assert partner["after"] == found.origin["after"] == pytest.approx(-1)
    assert lines[-1] == (
        "Pooled round 1 with 0: val_accuracy -42.0000 -> -1.0000 (+41.0000)."
    )


def test_no_partner_gets_what_new_statistics_gain():
    base, other = ticket(1, [10]), ticket(0, [10])
    judge = Judge(lambda w: w[0], layers=["norm"])  # An estimate adds 1.
    found = pools.pooled(base, [other], judge, lambda line: None)
    assert (found.origin["before"], found.origin["statistics"]) == (10, 11)
    (partner,) = found.origin["partners"]
    assert (partner["before"], partner["share"]) == (11, 0.05)


def test_each_partner_is_mixed_into_what_was_kept_before():
    base, first, second = ticket(2, [0]), ticket(1, [100]), ticket(0, [200])
    found, _, _ = pooled(base, [first, second], lambda w: -abs(w[0] - 60))
    # 59 first; then 59 + 0.05 * 141 = 66.05 is worse.
    assert [p["round"] for p in found.origin["partners"]] == [1]
    found, _, _ = pooled(base, [first, second], lambda w: -abs(w[0] - 125))
    np.testing.assert_allclose(found.trained["w"], 95 + 0.32 * 105, rtol=1e-6)


def test_a_partner_that_lowers_the_metric_is_left_out_and_told():
    base, other = ticket(1, [1]), ticket(0, [2])
    found, _, lines = pooled(base, [other], lambda w: -w[0])
    assert found.trained["w"].tolist() == [1]
    assert found.origin["partners"] == []
    assert lines[-1] == "No other round helped: the weights stay those of round 1."


def test_of_equal_shares_the_smallest_is_kept():
    found, _, _ = pooled(ticket(1, [0]), [ticket(0, [100])], lambda w: 0.5)
    np.testing.assert_allclose(found.trained["w"], 5, rtol=1e-6)


def test_a_metric_that_is_not_finite_is_never_kept():
    base, other = ticket(1, [1]), ticket(0, [2])
    found, _, lines = pooled(base, [other], lambda w: 0 if w[0] == 1 else np.nan)
    assert found.trained["w"].tolist() == [1]
    assert lines[1] == "with round 0: not finite, so it is left out."


def test_integers_and_equal_weights_are_not_interpolated():
    ours = {"n": np.array([1, 2]), "w": np.float32([0.1, 0.3])}
    theirs = {"n": np.array([5, 6]), "w": np.float32([0.1, 0.4])}
    mixed = pools.interpolated(ours, theirs, 0.77)
    assert mixed["n"].tolist() == [1, 2]
    assert mixed["w"].dtype == np.float32
    assert mixed["w"][0] == ours["w"][0]


def test_the_nearest_rounds_come_first_and_those_that_diverged_are_left_out():
    given = [ticket(n, [n]) for n in (0, 1, 3, 4)] + [ticket(2, [2], failure="NaN")]
    given.append(ticket(5, [0, 5][:1], [False]))
    base, others = rounds.of_search(given, None, {"w": np.zeros(1)})
    assert base.round == 5  # The sparsest.
    base, others = rounds.of_search(given, 3, {"w": np.zeros(1)})
    assert [t.round for t in others] == [4, 1, 5, 0]


# With Keras.


def net(library, wrapped=False):
    library.utils.set_random_seed(0)
    layers = library.layers
    model = models.dense(
        library,
        layers.BatchNormalization(momentum=0.5, name="norm"),
        layers.Dropout(0.3),
    )
    if wrapped:
        tfmot = importlib.import_module("tflottery.engines.tfmot.imported")
        model = tfmot.sparsity.prune_low_magnitude(model)
    return compiled(library, model)


def compiled(library, model):
    fast = library.optimizers.Adam(0.3)  # Noisy, so that pools help.
    model.compile(fast, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def searched(library, run_dir, wrapped=False):
    return tflottery.find_ticket(
        net(library, wrapped),
        X[:64],
        Y[:64],
        validation_data=VALIDATION,
        epochs=4,
        rounds=2,
        target_sparsity=0.5,
        select="last",
        seed=0,
        run_dir=run_dir,
        verbose=0,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the run directory of a search on Keras 3."""
    folder = tmp_path_factory.mktemp("pools") / "run"
    searched(keras, folder)
    return folder


def loaded(run):
    return [tflottery.load_ticket(path) for path in sorted(run.glob("rounds/*.ticket"))]


def read(model):
    return network.read(network.variables(model))


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(w, other[path]) for path, w in one.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATIONS)
def test_a_pool_has_the_masks_of_its_round_and_is_no_worse(tmp_path, capsys, name):
    library = importlib.import_module(name)
    wrapped = name == "tf_keras"
    model = searched(library, tmp_path / "run", wrapped)
    base = model.ticket
    before = model.evaluate(*VALIDATION, verbose=0, return_dict=True)
    slots = [np.array(network.value_of(v)) for v in optimizer_variables(model)]
    settings = {"ds": X[:64], "monitor": "val_loss"}
    found = tflottery.pool(model, tmp_path / "run", VALIDATION, **settings)
    assert found is model
    for was, v in zip(slots, optimizer_variables(model), strict=True):
        np.testing.assert_array_equal(was, network.value_of(v))
    pooled, origin = model.ticket, model.ticket.origin
    after = model.evaluate(*VALIDATION, verbose=0, return_dict=True)
    assert origin["before"] == pytest.approx(before["loss"])
    assert origin["after"] == pytest.approx(after["loss"])
    assert origin["after"] <= origin["before"]
    assert origin["partners"]
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("Round 2, 50.00 % left: val_loss ")
    assert told[-1].startswith("Pooled round 2 with ")
    assert same(pooled.masks, base.masks)
    assert same(pooled.rewind, base.rewind)
    assert same(pooled.trained, read(model))
    pooled.save(tmp_path / "pooled.ticket")
    assert same(
        tflottery.load_ticket(tmp_path / "pooled.ticket").trained, pooled.trained
    )
    model.fit(X, Y, verbose=0)
    for path, mask in pooled.masks.items():
        assert not np.any(read(model)[path][~mask])
    again = tflottery.pool(
        net(library, wrapped), tmp_path / "run", VALIDATION, verbose=0, **settings
    )
    assert same(again.ticket.trained, pooled.trained)


def optimizer_variables(model):
    variables = model.optimizer.variables
    return variables() if callable(variables) else variables


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_tickets_and_their_paths_pool_like_the_run_directory(run):
    tickets, files = loaded(run), sorted(run.glob("rounds/*.ticket"), reverse=True)
    expected, *found = (
        tflottery.pool(net(keras), given, VALIDATION, round=1, verbose=0).ticket
        for given in (run, tickets, tuple(map(str, files)))
    )
    assert same(expected.masks, tickets[1].masks)
    for each in found:
        assert same(each.trained, expected.trained)
        assert each.origin == expected.origin


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_without_ds_the_inputs_of_the_validation_data_give_the_statistics(run):
    one, other = (
        tflottery.pool(net(keras), run, VALIDATION, monitor="val_loss", **given)
        for given in ({"verbose": 0}, {"verbose": 0, "ds": VALIDATION[0]})
    )
    assert same(one.ticket.trained, other.ticket.trained)


@pytest.mark.slow
def test_a_fresh_model_gets_its_normalization_and_statistics_of_inference_stay(
    tmp_path,
):
    class InInference(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="inside")
            self.norm = keras.layers.BatchNormalization(name="norm")

        def call(self, x):
            return self.norm(x, training=False)

    def build():
        layers = keras.layers
        x = given = keras.Input((6,))
        x = layers.Normalization(name="adapted")(x)
        x = layers.Dense(8, activation="relu", name="hidden")(x)
        x = InInference()(x)
        x = layers.Dense(3, activation="softmax", name="output")(x)
        return compiled(keras, keras.Model(given, x))

    model, shifted = build(), (X[:64] * 50 + 7, Y[:64])
    model.get_layer("adapted").adapt(shifted[0])
    tflottery.find_ticket(
        model,
        *shifted,
        validation_data=shifted,
        epochs=2,
        rounds=1,
        target_sparsity=0.5,
        select="last",
        run_dir=tmp_path,
        verbose=0,
    )
    untouched = build()
    before = np.array(untouched(shifted[0]))
    with pytest.raises(ValueError, match="`monitor` must be a metric"):
        tflottery.pool(untouched, tmp_path, shifted, monitor="val_auc", verbose=0)
    np.testing.assert_array_equal(np.array(untouched(shifted[0])), before)
    fresh = tflottery.pool(build(), tmp_path, shifted, verbose=0)
    assert fresh.ticket.origin["statistics"] is None
    again = fresh.ticket.apply(build())
    assert fresh.evaluate(*shifted, verbose=0) == again.evaluate(*shifted, verbose=0)
    np.testing.assert_array_equal(
        fresh.get_layer("inside").norm.moving_mean, np.zeros(8)
    )


@pytest.mark.slow
def test_a_half_written_round_and_an_unfinished_search_are_read_no_further(run):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    try:
        (run / "ticket.safetensors").unlink()
        (run / "rounds/002.json").unlink()  # Its ticket comes first.
        found = tflottery.pool(net(keras), run, VALIDATION, round=1, verbose=0)
        assert {p["round"] for p in found.ticket.origin["partners"]} <= {0}
        with pytest.raises(ValueError, match="has not ended, so `round` must say"):
            tflottery.pool(net(keras), run, VALIDATION)
        with pytest.raises(ValueError, match=r"one of 0, 1\. Received: round=2"):
            tflottery.pool(net(keras), run, VALIDATION, round=2)
    finally:
        for path, content in files.items():
            path.write_bytes(content)


class Breaks(keras.utils.PyDataset):
    """Validation data that raises at its n-th batch."""

    def __init__(self, after, error):
        super().__init__()
        self.left, self.error = after, error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return VALIDATION[0][index * 16 :][:16], VALIDATION[1][index * 16 :][:16]


@pytest.mark.slow
@pytest.mark.without_tensorflow
@pytest.mark.parametrize(("after", "held"), [(9, True), (10, False), (30, True)])
def test_an_interrupted_pool_leaves_the_model_as_it_was(run, after, held):
    model = net(keras)
    tickets = loaded(run)
    if held:
        tickets[1].apply(model)
    else:
        model.fit(X, Y, verbose=0)
    before = read(model)
    raised = ""
    try:
        tflottery.pool(model, run, Breaks(after, KeyboardInterrupt()), verbose=0)
    except BaseException as error:  # TensorFlow may make another of it.
        raised = f"{error!r} {error}"
    assert "KeyboardInterrupt" in raised
    assert same(read(model), before)
    assert getattr(model, "ticket", None) is (tickets[1] if held else None)
    model.evaluate(*VALIDATION, verbose=0)
    model.fit(X, Y, verbose=0)
    zeros = np.sum(read(model)["hidden/kernel"] == 0)
    assert zeros == (np.sum(~tickets[1].masks["hidden/kernel"]) if held else 0)


def other(seed, *layers):
    """Returns tickets of another search, of two rounds."""
    keras.utils.set_random_seed(seed)
    model = compiled(keras, models.dense(keras, *layers))
    settings = {"epochs": 1, "rounds": 1, "target_sparsity": 0.2, "verbose": 0}
    return tflottery.find_ticket(
        model, X, Y, validation_data=VALIDATION, select="last", **settings
    ).ticket


NORM = "keras.layers.BatchNormalization(name='norm')"
BAD = {
    "pool('net')": "`model` must be a Keras 3 or tf_keras model. Received: 'net'",
    "pool(models.dense(keras))": "is not compiled, so it has no loss and no metrics",
    "pool(model, run / 'none')": "must be the run directory of a .*does not exist",
    "pool(model, run / 'rounds')": "must be the run directory of a search.*holds none",
    "pool(model, 5)": "`run_dir_or_tickets` must be a local path, or a URL",
    "pool(model, run, validation_data=X)": "`validation_data` has no labels",
    "pool(model, [])": "must hold two or more finished rounds.* Its rounds: none.",
    "pool(model, tickets[1])": "must hold two or more finished rounds.* Its rounds: 1.",
    "pool(model, tickets[1:2] * 2)": "one ticket per round.* of the rounds 1, 1.",
    "pool(model, [tickets[1], 5])": "`path` must be a local path",
    "pool(model, run, round=9)": "`round` must be a finished round that did not "
    "diverge, one of 0, 1, 2. Received: round=9",
    "pool(model, run, round=True)": "`round` must be .* Received: round=True",
    "pool(model, run, monitor='val_auc')": "`monitor` must be a metric that `model` is "
    "compiled with: .*'val_accuracy'.*Received: monitor='val_auc'",
    "pool(model, run, monitor=3)": "`monitor` must be a string, or None",
    "pool(model, run, verbose=3)": '`verbose` must be "auto", 0, 1 or 2',
    "pool(model, run, batch_size=0)": "`batch_size` must be a whole number of at least",
    "pool(model, run, validation_data=None)": "`validation_data` must be .x, y. arrays",
    "pool(model, run, validation_data=(X[:0], Y[:0]))": "`validation_data` is empty",
    "pool(model, run, validation_data=(X, Y[:9]))": "must have the same length",
    "pool(model, run, validation_data=(X[:, :3], Y))": "has examples of shape .3,.",
    "pool(model, run, validation_data=(X, Y + 7))": "has labels from 7 to",
    "pool(model, run, ds=X[:, :3])": "`ds` has examples of shape .3,.",
    "pool(model, [*tickets[2:], other(0)])": "Round 1 of `run_dir_or_tickets`: The "
    "ticket does not fit the model: where the ticket has 'output/kernel', the model "
    "has 'norm/gamma'",
    f"pool(model, [*tickets[2:], other(5, {NORM})])": "must be of one search, but the "
    "rounds 2 and 1 began with other weights 'hidden/kernel'",
}


@pytest.mark.slow
@pytest.mark.parametrize("call", BAD)
def test_a_bad_call_says_what_is_wrong_and_leaves_the_model(run, call):
    model = net(keras)
    before = read(model)

    def pool(model, given=run, validation_data=VALIDATION, **options):
        return tflottery.pool(model, given, validation_data, **options)

    names = {"pool": pool, "model": model, "run": run, "tickets": loaded(run)}
    with pytest.raises((ValueError, TypeError)) as caught:
        eval(call, {**globals(), **names})
    assert re.search(BAD[call], str(caught.value)), str(caught.value)
    assert same(read(model), before)
