"""Data: what `fit` logs are numbers, or an error that names the metric."""

import keras
import numpy as np
import pytest

import tflottery
from tflottery.engines.engine import as_numbers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = np.eye(3, dtype="float32")[RNG.integers(0, 3, 64)]
MESSAGE = (
    r"^The metric 'f1_score' is not one number, but an array of shape \(3,\), so "
    r"tickets cannot be judged by it\. Give it an average, as in "
    r'F1Score\(average="macro"\), or leave it out of `compile`\.$'
)


def find(average):
    model = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(3, activation="softmax")]
    )
    model.compile(
        "adam",
        "categorical_crossentropy",
        metrics=["accuracy", keras.metrics.F1Score(average=average)],
    )
    return tflottery.find_ticket(
        model,
        (X, Y),
        validation_data=(X, Y),
        epochs=1,
        rounds=1,
        select="last",
        verbose=0,
    )


@pytest.mark.slow
def test_a_metric_of_several_numbers_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=MESSAGE):
        find(None)
    assert "val_f1_score" in find("macro").ticket.rounds[0].metrics


def test_a_metric_of_several_numbers_is_an_error_in_an_evaluation_too():
    with pytest.raises(ValueError, match=MESSAGE):
        as_numbers({"loss": 0.5, "f1_score": np.ones(3)})


def test_logs_are_plain_numbers():
    logs = as_numbers({"loss": np.float32(0.5), "accuracy": np.array(1), "n": 2})
    assert logs == {"loss": 0.5, "accuracy": 1.0, "n": 2.0}
    assert {type(value) for value in logs.values()} == {float}
