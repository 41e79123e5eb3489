"""Settling: rounds end when their masks have settled; on a fake engine, on Keras."""

import dataclasses
import importlib
import json
import shutil

import keras
import numpy as np
import pytest
from making import fake_engine, models
from making.fake_engine import Model

from tests.search import loop_test
from tests.search.loop_test import Diverges, Interrupts, Starts, rounds_in
from tflottery.core import files, records
from tflottery.core import masks as masks_lib
from tflottery.search import settling

# At density 2 ** -n, so that a model knows its round.
HALVING = {"rounds": None, "prune_fraction": 0.5, "target_sparsity": 1 - 4.5 / 72}


@pytest.fixture
def find(monkeypatch):
    """Returns `find_ticket` for fake models; masks are drawn at every second step."""
    monkeypatch.setattr(settling, "interval", lambda steps, weights: 2)
    search = fake_engine.searching(monkeypatch)

    def find(*given, **options):
        return search(*given, **{"epochs": 6, "settle": 0.6, **options})

    return find


def winning(*wins):
    """Returns a fake model whose accuracy is 0.9 in the rounds of `wins`, else 0.1."""

    def accuracy(model):
        number = round(np.log2(72 / (masks_lib.kept(model.masks) or 72)))
        return 0.9 if number in (0, *wins) else 0.1 + number / 100

    return Model(scores={"val_accuracy": accuracy})


def in_full(ticket):
    return [r.round for r in ticket.rounds if r.in_full]


def cut(ticket):
    return [r.round for r in ticket.rounds if r.settled is not None]


class Ends(keras.callbacks.Callback):
    """Notes the trainings that begin and end, the epochs and the learning rates."""

    def __init__(self):
        super().__init__()
        self.begun, self.ended, self.rates, self.weights = 0, 0, [], []

    def on_train_begin(self, logs=None):
        self.begun += 1
        self.rates.append([])

    def on_train_batch_begin(self, batch, logs=None):
        self.rates[-1].append(self.model.optimizer.learning_rate)

    def on_train_end(self, logs=None):
        self.ended += 1
        self.weights.append(dict(self.model.weights))


def test_only_the_dense_and_the_last_round_train_in_full(find, tmp_path):
    ticket = find(run_dir=tmp_path, **HALVING).ticket
    assert [r.round for r in ticket.rounds] == [0, 1, 2, 3, 4]
    assert in_full(ticket) == [0, 4]
    assert [r.steps for r in ticket.rounds if r.in_full] == [24, 24]
    assert all(r.steps == r.settled < 24 for r in ticket.rounds if not r.in_full)
    assert ticket.round == 4
    kept = [masks_lib.kept(t.masks) for t in rounds_in(tmp_path)]
    assert kept == [72, 36, 18, 9, 5]


def test_a_round_that_does_not_settle_is_trained_in_full(find, monkeypatch):
    monkeypatch.setattr(settling, "interval", lambda steps, weights: 5)
    with pytest.warns(UserWarning, match="every 5 steps, at least 5 times.* 24 steps"):
        ticket = find().ticket  # Only four draws fit in.
    whole = find(settle=None).ticket
    assert in_full(ticket) == [0, 1, 2, 3]
    config = dataclasses.replace(ticket.config, settle=None)
    assert config == whole.config
    for path, w in whole.trained.items():
        np.testing.assert_array_equal(ticket.trained[path], w)


@pytest.mark.parametrize(
    ("wins", "trained", "chosen"),
    [
        ((1, 2, 3, 4), [0, 4], 4),
        ((1, 2, 3), [0, 2, 3, 4], 3),
        ((1,), [0, 1, 2, 4], 1),
        ((2,), [0, 2, 3, 4], 2),  # Round 1 loses, but nobody looks.
    ],
)
def test_the_sparsest_winning_round_is_found_by_bisection(find, wins, trained, chosen):
    ticket = find(winning(*wins), select="sparsest_winning", **HALVING).ticket
    assert ticket.round == chosen
    assert in_full(ticket) == trained
    assert cut(ticket) == [1, 2, 3]
    assert ticket.sparsity == ticket.rounds[chosen].sparsity
    assert ticket.rounds[chosen].metrics["val_accuracy"] == 0.9


def test_without_a_winning_round_the_best_of_those_in_full_is_returned(find):
    with pytest.warns(UserWarning, match=r"best one is returned: round 4, 0\.1400"):
        ticket = find(winning(), select="sparsest_winning", **HALVING).ticket
    assert in_full(ticket) == [0, 1, 2, 4]


@pytest.mark.filterwarnings("ignore:`settle` cannot end any round")
def test_it_is_said_where_a_denser_round_than_the_winner_loses(find, monkeypatch):
    # No round settles, so all of them are measured.
    monkeypatch.setattr(settling, "interval", lambda steps, weights: 5)
    options = {"select": "sparsest_winning", **HALVING}
    with pytest.warns(UserWarning, match=r"round 3 \(12\.50 % left\) wins, but the .*"):
        assert find(winning(1, 3), **options).ticket.round == 3


@pytest.mark.parametrize("k", [0, 3, 5])
def test_a_round_is_trained_in_full_from_step_k_with_its_masks(find, k):
    starts = Starts()
    ticket = find(
        winning(1, 2),
        select="sparsest_winning",
        rewind_step=k,
        callbacks=[starts],
        **HALVING,
    ).ticket
    assert ticket.round == 2
    assert starts.steps == [0, *[k] * (len(starts.steps) - 1)]
    # Rounds 0 to 4, then 2 and 3 in full.
    assert len(starts.weights) == 7
    for path, w in starts.weights[5].items():
        np.testing.assert_array_equal(w, ticket.rewind[path])
    assert ticket.rounds[2].steps - ticket.rounds[2].settled == 24 - k // 4 * 4


@pytest.mark.parametrize("retrain", ["learning_rate", "fine_tune"])
def test_weights_that_do_not_go_back_go_on_from_where_the_round_was_cut(find, retrain):
    starts, ends = Starts(), Ends()
    ticket = find(
        winning(1, 2),
        select="sparsest_winning",
        retrain=retrain,
        callbacks=[starts, ends],
        settle=0.9,
        **HALVING,
    ).ticket
    assert in_full(ticket) == [0, 2, 3, 4]
    assert cut(ticket) == [1, 2, 3]
    for path, w in starts.weights[5].items():  # After rounds 0 to 4: round 2 again.
        np.testing.assert_array_equal(w, ends.weights[2][path])


def test_callbacks_see_a_cut_round_as_a_training_that_ends(find):
    ends = Ends()
    model = Model(rate=lambda step: 0.2 / (1 + step))
    ticket = find(model, callbacks=[ends], **HALVING).ticket
    assert ends.begun == ends.ended == 5
    for record, rates in zip(ticket.rounds, ends.rates, strict=True):
        # A schedule starts again, and skips nothing.
        assert rates == ends.rates[0][: record.steps]
        assert len(record.history["loss"]) == -(-record.steps // 4)


def test_a_cut_round_that_diverges_ends_the_search_with_a_denser_ticket(find):
    with pytest.warns(
        UserWarning, match="in round 3: .* goes on with round 1, trained"
    ):
        ticket = find(callbacks=[Diverges(3)], **HALVING, tolerance=9.0).ticket
    assert ticket.rounds[3].failure == "diverged"
    assert ticket.round == 2
    assert in_full(ticket) == [0, 1, 2, 3]


def test_lines_and_summary_say_what_was_trained_in_full(find, capsys):
    ticket = find(
        winning(1, 2, 3), select="sparsest_winning", verbose="auto", **HALVING
    ).ticket
    lines = capsys.readouterr().out.splitlines()
    taken = sum(r.steps for r in ticket.rounds)
    told = (
        f"{taken} steps, {taken / 120:.2f} of the 120 of a full search; trained in "
        "full: rounds 0, 2, 3, 4."
    )
    assert lines[-1] == told
    first = ticket.rounds[1].settled
    assert lines[5].endswith(f"settled after {first} steps")
    second = ticket.rounds[2].settled
    assert lines[-4].endswith(f"settled after {second} steps, then 24 in full")
    ticket.summary()
    text = capsys.readouterr().out
    assert " ".join(text.split()).count(told) == 1
    assert f"settled after {first} steps" in text


def bytes_in(run_dir):
    paths = [*run_dir.rglob("*.ticket"), run_dir / "ticket.safetensors"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("retrain", ["rewind", "learning_rate", "fine_tune"])
def test_a_search_killed_at_any_write_goes_on_to_the_same_bytes(
    find, tmp_path, monkeypatch, retrain
):
    write, copies = files.write, []

    def copying(path, data):
        copies.append(tmp_path / str(len(copies)))
        shutil.copytree(tmp_path / "whole", copies[-1])
        write(path, data)

    def search(run_dir):
        keras.utils.set_random_seed(4)
        options = {"retrain": retrain, "rewind_step": 5 * (retrain == "rewind")}
        options |= {"select": "sparsest_winning", "callbacks": [Ends()]}
        return find(winning(1, 2), run_dir=run_dir, settle=0.9, **options, **HALVING)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", copying)
        search(tmp_path / "whole")
    whole = bytes_in(tmp_path / "whole")
    assert len(copies) > 30
    for copy in copies:
        assert in_full(search(copy).ticket) == [0, 2, 3, 4]
        assert bytes_in(copy) == whole


def test_what_is_drawn_outlives_the_renaming_of_layers_and_of_rounds(find, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        find(run_dir=tmp_path, callbacks=[Interrupts(8)], **HALVING)
    state, header = files.read_arrays(tmp_path / "current.safetensors")
    assert header["round"] == 1
    drawn = state["drawn/hidden/kernel"]
    assert drawn.shape == (4, 6)
    assert drawn.dtype == np.uint8


def test_records_of_searches_without_settle_are_read(find, tmp_path):
    find(settle=None, run_dir=tmp_path, rounds=1)
    record = json.loads((tmp_path / "rounds/001.json").read_text())
    del record["settled"]
    assert records.Round.read(record).in_full
    manifest = json.loads((tmp_path / "run.json").read_text())
    del manifest["config"]["settle"]
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    state, header = files.read_arrays(tmp_path / "current.safetensors")
    for name in ("again", "settled", "since"):
        del header[name]
    files.write_arrays(tmp_path / "current.safetensors", state, header)
    (tmp_path / "ticket.safetensors").unlink()
    assert find(settle=None, run_dir=tmp_path, rounds=1).ticket.round == 1


@pytest.mark.parametrize(
    ("pruned", "swapped", "limit"),
    # Of 40: swapping one changes two. Of few pruned weights, five times those count.
    [(10, 1, 2 / 40), (8, 2, 4 / 40), (4, 1, 2 / 20)],
)
def test_masks_are_far_apart_by_the_share_that_changes(pruned, swapped, limit):
    now = {"w": np.ones(40, bool)}
    before = {"w": np.arange(40) >= pruned}
    new = {"w": np.arange(40) >= pruned + swapped}
    new["w"][:swapped] = True
    drawn = []

    def settles(drawn, new, limit, weights=1.0):
        weights = {"w": np.array([weights])}
        return settling.settles(drawn, weights, lambda weights: new, now, limit)

    assert not any(settles(drawn, before, limit) for _ in range(4))
    assert not settles(list(drawn), new, 0.99 * limit)
    assert not settles(drawn, new, limit, weights=np.nan)
    assert settles(drawn, new, limit)
    assert len(drawn) == 4


# On Keras.


@pytest.mark.slow
@pytest.mark.without_tensorflow
@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_rounds_are_cut_on_keras_and_resume_to_the_same_bytes(
    monkeypatch, tmp_path, steps_per_execution
):
    monkeypatch.setattr(settling, "interval", lambda steps, weights: 1)
    found = []
    for name, number in (("whole", 10**6), ("killed", 9)):
        for attempt in (number, 10**6):
            keras.utils.set_random_seed(7)
            model = loop_test.compiled(
                keras.optimizers.Adam(0.01), steps_per_execution=steps_per_execution
            )
            options = {"epochs": 6, "rounds": 3, "target_sparsity": 0.8}
            options |= {"callbacks": [loop_test.Interrupts(attempt)], "settle": 0.6}
            try:
                model = loop_test.search(
                    model, loop_test.batches(), run_dir=tmp_path / name, **options
                )
            except KeyboardInterrupt:
                continue
            found.append(model.ticket)
            break
    whole, killed = found
    assert in_full(whole) == [0, 3]
    assert [r.steps for r in whole.rounds] == [r.steps for r in killed.rounds]
    assert whole.rounds[1].steps < whole.rounds[0].steps == 24
    assert bytes_in(tmp_path / "whole") == bytes_in(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "generation",
    [pytest.param("keras", marks=pytest.mark.without_tensorflow), "tf_keras"],
)
def test_a_round_settles_on_the_averages_that_it_ends_with(
    monkeypatch, tmp_path, generation
):
    pytest.importorskip(generation)
    kind, drawn, settles = importlib.import_module(generation), [], settling.settles
    kind.utils.set_random_seed(7)

    def noted(given, weights, *rest):
        drawn.append((weights, settles(given, weights, *rest)))
        return drawn[-1][1]

    monkeypatch.setattr(settling, "interval", lambda steps, weights: 1)
    monkeypatch.setattr(settling, "settles", noted)
    optimizer = kind.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5)
    loop_test.search(
        loop_test.compiled(optimizer, models.dense(kind)),
        epochs=8,
        rounds=2,
        target_sparsity=0.8,
        settle=0.9,
        run_dir=tmp_path,
    )
    dense, cut, last = rounds_in(tmp_path)
    assert cut.rounds[1].settled == cut.rounds[1].steps < dense.rounds[0].steps
    assert last.rounds[2].in_full
    assert drawn[-1][1]
    for path, w in cut.trained.items():
        np.testing.assert_array_equal(drawn[-1][0][path], w)
