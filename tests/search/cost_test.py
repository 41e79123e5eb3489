"""Cost: what is told before a search is what the search then takes."""

import keras
import numpy as np
import pytest
import scipy.sparse

import tflottery
from tflottery.search import settling

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = RNG.integers(0, 3, 96)


def make_model():
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(40, activation="relu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3, activation="softmax", name="output"),
        ]
    )


@pytest.mark.slow
def test_rounds_steps_and_disk_are_those_of_the_search(tmp_path):
    model = make_model()
    weights = model.get_weights()
    options = {
        "validation_data": (X, Y),
        "epochs": 2,
        "target_sparsity": 0.7,
        "prune_fraction": 0.4,
        "rewind_step": 4,
        "run_dir": tmp_path,
        "seed": 1,
        "select": "last",
        "verbose": 0,
    }
    cost = tflottery.estimate_cost(model, (X, Y), **options)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not model.compiled
    assert not list(tmp_path.iterdir())
    assert model.layers[0].kernel.constraint is None
    ticket = tflottery.find_ticket(model, (X, Y), **options).ticket
    assert cost.rounds == len(ticket.rounds) == 4
    assert cost.steps == sum(r.steps for r in ticket.rounds) == 6 + 3 * 3
    size = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert 0.5 * size < cost.disk_bytes < 1.5 * size
    assert 0 < cost.seconds < 60
    assert str(cost).startswith("4 rounds, 15 steps, about ")
    options |= {"ticket": ticket, "target_sparsity": 0.82, "rewind_step": 0}
    numbered_anew = make_model()
    assert tflottery.estimate_cost(numbered_anew, (X, Y), **options).rounds == 2
    assert np.all(numbered_anew.get_weights()[0])


def test_the_cost_of_rounds_that_settle_is_a_range():
    options = {"epochs": 200, "rounds": 9, "validation_data": (X, Y), "settle": 0.1}
    cost = tflottery.estimate_cost(make_model(), (X, Y), **options)
    every = settling.interval(600, 360)
    assert cost.least_steps == 600 + 8 * 5 * every + 600
    assert cost.steps == 10 * 600 + 4 * 600  # And a bisection over eight rounds.
    assert 0 < cost.least_seconds < cost.seconds
    assert f"10 rounds, {cost.least_steps:,} to 8,400 steps, about " in str(cost)
    last = tflottery.estimate_cost(make_model(), (X, Y), **options, select="last")
    assert last.steps == 6000


def test_validation_is_timed_on_one_batch(monkeypatch):
    x, model, shapes = keras.Input((6,), name="x"), make_model(), set()
    model = keras.Model({"x": x}, model(x))
    monkeypatch.setattr(model, "test_on_batch", lambda x, y: shapes.add(x["x"].shape))
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = {"ds": {"x": X}, "y": Y, "batch_size": 8, "validation_split": 0.25}
    tflottery.estimate_cost(model, **data)
    assert shapes == {(8, 6)}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others are dense")
def test_the_cost_of_sparse_matrices_is_told():
    x = scipy.sparse.csr_matrix(X)
    cost = tflottery.estimate_cost(make_model(), x, Y, validation_split=0.25)
    assert cost.steps > 0


def test_an_argument_that_find_ticket_lacks_is_an_error():
    with pytest.raises(TypeError, match="`find_ticket` has no argument 'epoch'"):
        tflottery.estimate_cost(make_model(), (X, Y), epoch=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewind_step": 10**6}, "`rewind_step` must lie within a round"),
        ({"callbacks": [print]}, "`callbacks`"),
        ({"verbose": 7}, "`verbose`"),
        ({"resume": 9}, "`resume`"),
        ({"ticket": "a.ticket"}, "`ticket` must be a Ticket, as load_ticket returns"),
        ({"target_sparsity": 1e-4}, "`target_sparsity` prunes none of the 360"),
        ({"validation_data": (X, Y + 9)}, "`validation_data` has labels from 9 to"),
    ],
)
def test_what_find_ticket_refuses_is_refused_here_too(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        tflottery.estimate_cost(make_model(), (X, Y), **arguments)


def test_a_refused_call_leaves_the_model_as_it_was():
    model = make_model()
    with pytest.raises(ValueError, match="labels"):
        tflottery.estimate_cost(model, (X, Y), validation_data=(X, Y + 9))
    assert not model.compiled


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs tf.data")
def test_validation_data_that_cannot_be_counted_is_an_error():
    import tensorflow as tf

    ds = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    unknown = ds.filter(lambda x, y: True)
    with pytest.raises(ValueError, match="`validation_data` does not know how many ba"):
        tflottery.estimate_cost(make_model(), ds, validation_data=unknown)
