"""Callbacks: what they remember comes back, and a round goes on as if unbroken."""

import keras
import numpy as np
import pytest

import tflottery
from tflottery import callbacks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64")


def make_callbacks():
    return [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=2, min_delta=0.05, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=0.1),
    ]


def find(folder, stop=None):
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(2, activation="softmax", name="output"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.05),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return tflottery.find_ticket(
        model,
        (X, Y),
        validation_data=(X, Y),
        epochs=8,
        rounds=1,
        target_sparsity=0.5,
        select="last",
        seed=1,
        run_dir=folder,
        callbacks=[*make_callbacks(), Raises(stop)],
        verbose=0,
    ).ticket


class Raises(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [1, 2])
def test_early_stopping_counts_on_where_a_round_was_broken(tmp_path, epoch):
    whole = find(tmp_path / "whole")
    epochs = [len(r.history["loss"]) for r in whole.rounds]
    assert epochs[0] < 8, "must stop early to show anything"
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path / "broken", epoch)
    found = find(tmp_path / "broken")
    assert [len(r.history["loss"]) for r in found.rounds] == epochs
    names = ("whole/ticket.safetensors", "broken/ticket.safetensors")
    first, second = ((tmp_path / name).read_bytes() for name in names)
    assert first == second


def test_numbers_and_weights_come_back_and_the_model_stays():
    stop = keras.callbacks.EarlyStopping("loss")
    stop.wait, stop.best, stop.best_weights = 3, np.float32(0.5), [np.ones(2)]
    numbers, arrays = callbacks.remembered([stop])
    assert "_model" not in numbers[0]
    other = keras.callbacks.EarlyStopping("loss")
    other.set_model("a model")
    callbacks.remind([other], numbers, arrays)
    assert (other.wait, other.best, other.model) == (3, 0.5, "a model")
    np.testing.assert_array_equal(other.best_weights[0], np.ones(2))
