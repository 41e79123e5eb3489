"""Callbacks: what they remember comes back, and a round goes on as if unbroken."""

import keras
import numpy as np
import pytest
from making import fake_engine
from making.models import dense, interrupts, points

import tflottery
from tflottery.core import files
from tflottery.search import callback_state

X, Y = points(classes=2)


def make_callbacks():
    return [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=2, min_delta=0.05, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=0.1),
    ]


@pytest.fixture
def fake(monkeypatch):
    fake_engine.searching(monkeypatch)
    return fake_engine.Model


def make_model():
    keras.utils.set_random_seed(2)
    model = dense(keras, classes=2)
    model.compile(
        keras.optimizers.SGD(0.05),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def find(folder, stop=None, more=(), make_model=make_model, **options):
    callbacks = [*make_callbacks(), *more, interrupts(keras, at=stop)]
    arguments = {"epochs": 8, "callbacks": callbacks}
    return tflottery.find_ticket(
        make_model(),
        (X, Y),
        validation_data=(X, Y),
        rounds=1,
        target_sparsity=0.5,
        select="last",
        seed=1,
        run_dir=folder,
        verbose=0,
        **arguments | options,
    ).ticket


@pytest.mark.slow
def test_early_stopping_counts_on_where_a_round_was_broken(tmp_path):
    whole = find(tmp_path / "whole")
    epochs = [len(r.history["loss"]) for r in whole.rounds]
    assert epochs[0] < 8, "must stop early to show anything"
    expected = (tmp_path / "whole/ticket.safetensors").read_bytes()
    folder = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        find(folder, 2)
    found = find(folder)
    assert [len(r.history["loss"]) for r in found.rounds] == epochs
    assert (folder / "ticket.safetensors").read_bytes() == expected


def test_numbers_and_weights_come_back_and_the_model_stays():
    stop = keras.callbacks.EarlyStopping("loss")
    stop.wait, stop.best, stop.best_weights = 3, np.float32(0.5), [np.ones(2)]
    numbers, arrays = callback_state.remembered([stop])
    assert "_model" not in numbers[0]
    other = keras.callbacks.EarlyStopping("loss")
    other.set_model("a model")
    callback_state.remind([other], numbers, arrays)
    assert (other.wait, other.best, other.model) == (3, 0.5, "a model")
    np.testing.assert_array_equal(other.best_weights[0], np.ones(2))


class Counts(keras.callbacks.Callback):
    """Stores a setting under another name, and counts epochs from the first on."""

    def __init__(self, setting=0, stop=None):
        super().__init__()
        self.kept_setting = setting
        self.epochs = 0
        self.in_first = False
        self.seen = []
        self.stop = stop

    def on_train_begin(self, logs=None):
        self.in_first = True

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append((self.kept_setting, self.epochs, self.in_first))
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.in_first = False


@pytest.mark.slow
def test_a_new_setting_counts_when_a_search_goes_on(fake, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, more=[Counts(3, stop=3)], make_model=fake, epochs=4)
    counts = Counts(7)
    find(tmp_path, more=[counts], make_model=fake, epochs=4)
    assert counts.seen[0] == (7, 2, False)


@pytest.mark.slow
def test_callbacks_that_are_used_again_count_on_from_the_last_finished_epoch(
    fake, tmp_path
):
    counts = Counts(stop=3)
    given = [*make_callbacks(), counts]
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, make_model=fake, epochs=4, callbacks=given)
    assert counts.epochs == 0
    counts.stop = None
    find(tmp_path, make_model=fake, epochs=4, callbacks=given)
    assert [seen[1] for seen in counts.seen][:6] == [0, 1, 2, 2, 3, 4]


@pytest.mark.slow
def test_a_run_dir_from_somebody_else_names_no_file_to_write(tmp_path):
    mine, theirs = tmp_path / "mine.keras", tmp_path / "theirs.keras"
    folder = tmp_path / "run"

    def checkpoint():
        return keras.callbacks.ModelCheckpoint(str(mine))

    with pytest.raises(KeyboardInterrupt):
        find(folder, 2, more=[checkpoint()], epochs=3)
    state, header = files.read_arrays(folder / "current.safetensors")
    header["callbacks"][2]["filepath"] = str(theirs)
    files.write_arrays(folder / "current.safetensors", state, header)
    mine.unlink()
    find(folder, more=[checkpoint()], epochs=3)
    assert mine.exists()
    assert not theirs.exists()


def test_only_what_can_be_remembered_comes_back():
    stop = keras.callbacks.EarlyStopping("loss", patience=3)
    stop.note = "mine"
    forged = {"patience": 9, "params": 1, "on_epoch_end": 1, "__class__": 1}
    forged |= {"note": "theirs", "wait": "theirs", "model": 1, "best": [1]}
    kept = dict(vars(stop))
    arrays = {f"callbacks/0/{n}/00000": np.ones(1) for n in ("set_model", "patience")}
    callback_state.remind([stop], [forged], arrays)
    assert vars(stop) == kept
    callback_state.remind([stop], [{"wait": 2, "epochs": 5}], {})
    assert (stop.wait, stop.epochs) == (2, 5)


def test_texts_are_not_remembered():
    board = keras.callbacks.CSVLogger("mine.csv")
    board.note, board.count = "mine", 3
    assert callback_state.remembered([board])[0][0]["count"] == 3
    assert "note" not in callback_state.remembered([board])[0][0]


def test_what_has_not_changed_is_not_remembered():
    counts = Counts(3)
    settings = callback_state.numbers_in([counts])
    counts.in_first = True
    settings = callback_state.unchanged([counts], settings)
    counts.epochs, counts.in_first = 2, False
    numbers, _ = callback_state.remembered([counts], settings)
    assert numbers == [{"epochs": 2, "in_first": False}]


def test_tensorboard_gets_a_folder_for_each_round():
    board = keras.callbacks.TensorBoard("logs")
    for number in (0, 11):
        with callback_state.one_round([board], [{}], number=number, midway=False):
            assert board.log_dir == f"logs/round_{number:03d}"
        assert board.log_dir == "logs"
