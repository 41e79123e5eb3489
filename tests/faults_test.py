"""Faults: whatever ends a search, the same call goes on, and nothing is lost."""

import errno
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from making import fake_engine
from making.models import dense, points

import tflottery
from tflottery.core import files
from tflottery.lab.data import pipelines
from tflottery.search import locks, run_dir

ROOT = pathlib.Path(__file__).absolute().parent.parent
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def make_model():
    """Returns a network whose layers Keras names, by other numbers every time."""
    keras.utils.set_random_seed(5)
    model = dense(keras, keras.layers.Dropout(0.2), names=(None, None))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module", autouse=True)
def _fakes():
    with pytest.MonkeyPatch.context() as patch:
        fake_engine.searching(patch)
        yield


def find(model=None, stop=0, error=None, **options):
    """Searches, until an epoch `stop` of all ends with an error.

    A fake network, where none is given: most faults are those of files.
    """
    options = {
        "rounds": 2,
        "rewind_step": 5,
        "seed": 1,
        "callbacks": [Raises(stop, error or KeyboardInterrupt())],
        **options,
    }
    if isinstance(model, keras.Model):
        x, y = points()
        options["ds"] = pipelines.train_pipeline(x, y, batch_size=16, seed=0)
        options["validation_data"] = (x, y)
    return fake_engine.find(model, **options)


class Raises(keras.callbacks.Callback):
    """Raises an error at the end of epoch `left` of all; notes which it saw."""

    def __init__(self, left, error):
        super().__init__()
        self.left = left
        self.epochs = []
        self._error = [error]

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)
        self.left -= 1
        if self.left == 0:
            raise self._error[0]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    find(run_dir=folder)
    return folder


@pytest.fixture(scope="module")
def unbroken_keras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken_keras")
    find(make_model(), run_dir=folder)
    return folder


@pytest.fixture(scope="module")
def interrupt(tmp_path_factory):
    """Returns a function that makes a folder a search which epoch `stop` ended."""

    @functools.cache
    def interrupted(stop, epochs):
        folder = tmp_path_factory.mktemp("interrupted")
        with pytest.raises(KeyboardInterrupt):
            find(run_dir=folder, stop=stop, epochs=epochs)
        return folder

    def copy(folder, stop, epochs=2):
        shutil.copytree(interrupted(stop, epochs), folder, dirs_exist_ok=True)

    return copy


def values(path):
    """Returns all arrays of a ticket file, in the order of the network."""
    ticket = tflottery.load_ticket(path)
    parts = (ticket.masks, ticket.initial, ticket.rewind, ticket.trained)
    metrics = [list(r.metrics.values()) for r in ticket.rounds]
    return [array for part in parts for array in part.values()], metrics


def same(folder, other):
    for name in ("ticket.safetensors", "rounds/001.ticket"):
        (arrays, metrics), (wanted, expected) = map(
            values, (folder / name, other / name)
        )
        assert metrics == expected
        for array, want in zip(arrays, wanted, strict=True):
            np.testing.assert_array_equal(array, want)
    return True


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="the script runs on TensorFlow")
def test_killed_searches_go_on_to_the_very_bytes_of_unbroken_ones():
    answer = subprocess.run(
        [
            *(sys.executable, "benchmarks/faults.py", "--kills", "1"),
            *("--cases", "rewind", "--seed", "1"),
            *("--faults", "SIGKILL, in a write"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.count("0 files that differ | 0 epochs lost |") == 1


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_ctrl_c_says_how_to_go_on_and_puts_the_model_back(
    unbroken_keras, tmp_path, capsys
):
    model = make_model()
    weights = model.get_weights()
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    with pytest.raises(KeyboardInterrupt):
        find(model, run_dir=tmp_path, stop=3)
    assert capsys.readouterr().err == (
        "\nThe search was interrupted. Every finished epoch is saved in "
        f"{str(tmp_path)!r}. To resume, repeat the call with this `run_dir`.\n"
    )
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert model.steps_per_execution == 1
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == rate
    # The same network goes on under other numbers.
    model = make_model()
    found = find(model, run_dir=tmp_path)
    assert found.ticket.sparsity > 0.8
    assert same(tmp_path, unbroken_keras)
    name = model.layers[0].name
    assert f"{name}/kernel" in found.ticket.masks
    assert f"{name}/kernel" in found.ticket.rounds[0].density_per_layer


def noise(trained, rewind):
    """Scores weights otherwise whenever it is asked."""
    rng = np.random.default_rng()
    return {path: rng.random(w.shape) for path, w in trained.items()}


def test_a_round_goes_on_with_its_masks_though_the_criterion_draws(tmp_path):
    options = {"run_dir": tmp_path, "criterion": noise, "rounds": 1, "rewind_step": 0}
    options["scope"] = "layer"  # Else one search in twenty empties a layer, and warns.
    with pytest.raises(KeyboardInterrupt):
        find(stop=4, **options)
    state, header = files.read_arrays(tmp_path / "current.safetensors")
    assert (header["round"], header["epoch"]) == (1, 1)
    kept = [a for name, a in state.items() if name.startswith("masks/")]
    masks = map(np.packbits, find(**options).ticket.masks.values())
    for bits, mask in zip(sorted(kept, key=len), sorted(masks, key=len), strict=True):
        np.testing.assert_array_equal(bits, mask)


def test_a_round_that_lacks_only_its_ticket_gets_the_masks_it_was_trained_under(
    tmp_path, monkeypatch
):
    options = {"run_dir": tmp_path, "criterion": noise, "rounds": 1, "rewind_step": 0}
    options["scope"] = "layer"  # Else one search in twenty empties a layer, and warns.
    save_round = run_dir.Run.save_round

    def stop(run, ticket):
        if ticket.round == 1:
            raise KeyboardInterrupt
        save_round(run, ticket)

    monkeypatch.setattr(run_dir.Run, "save_round", stop)
    with pytest.raises(KeyboardInterrupt):
        find(**options)
    monkeypatch.undo()
    found = find(**options)
    record = found.ticket.rounds[1]
    assert set(record.density_per_layer) == set(found.ticket.masks)
    loss = fake_engine.Engine(found).evaluate(fake_engine.VALIDATION)["loss"]
    assert record.metrics["val_loss"] == loss


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [lambda name: {"skip": (name,)}, lambda name: {"layer_fractions": {name: 0.05}}],
)
def test_a_pattern_of_a_number_that_is_now_another_layers_is_refused(tmp_path, option):
    keras.backend.clear_session()
    options = {"run_dir": tmp_path, "target_sparsity": 0.2, **option("dense_1")}
    with pytest.raises(KeyboardInterrupt):
        find(make_model(), stop=1, **options)
    keras.backend.clear_session()
    keras.layers.Dense(1)  # It takes the first number.
    with pytest.raises(run_dir.RunError, match=r"\n  pruned\.dense/kernel: .* there, "):
        find(make_model(), **options)


def forged(what, state, header):
    weight = next(
        name
        for name, array in state.items()
        if name.startswith("weights/") and array.shape == (6, 8)
    )
    mask = weight.replace("weights/", "masks/")
    if what == "lacks":
        del state[weight]
    elif what == "shape":
        state[weight] = state[weight][:1]
    elif what == "kind":
        state[weight] = state[weight].astype("int32")
    elif what == "mask":
        state[mask] = state[mask][:-1]
    elif what == "key":
        header["x"] = 1
    elif what == "callbacks":
        header["callbacks"] = "abc"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("lacks", "It lacks the array 'weights/hidden/kernel"),
        ("shape", r"Its array 'weights/.*' is float32 of shape \(1, 8\), where"),
        ("kind", r"Its array 'weights/.*' is int32 of shape \(6, 8\), where"),
        ("mask", r"Its array 'masks/.*' is uint8 of shape \(5,\), where"),
        ("key", "'x'"),
        (
            "callbacks",
            "`callbacks` of a Checkpoint must be a list in which each item is a dict",
        ),
    ],
)
def test_a_state_that_is_whole_but_of_another_network_is_an_error_that_names_it(
    interrupt, tmp_path, what, message
):
    interrupt(tmp_path, 3)
    path = tmp_path / "current.safetensors"
    state, header = files.read_arrays(path)
    forged(what, state, header)
    files.write_arrays(path, state, header)
    watch = Raises(0, None)
    with pytest.raises(run_dir.RunError, match=message) as caught:
        find(run_dir=tmp_path, callbacks=[watch])
    assert "undamaged current.safetensors that does not fit this" in str(caught.value)
    assert watch.epochs == []


def test_a_finished_search_returns_at_once(unbroken):
    before = {p: p.read_bytes() for p in unbroken.rglob("*") if p.is_file()}
    counts = Raises(0, None)
    model = find(run_dir=unbroken, callbacks=[counts])
    assert counts.epochs == []
    ticket = tflottery.load_ticket(unbroken / "ticket.safetensors")
    for w, want in zip(
        model.ticket.trained.values(), ticket.trained.values(), strict=True
    ):
        np.testing.assert_array_equal(w, want)
    for path, data in before.items():
        assert path.name == "lock" or path.read_bytes() == data


def test_only_the_epochs_that_are_left_are_trained(interrupt, tmp_path):
    interrupt(tmp_path, 4)
    counts = Raises(0, None)
    find(run_dir=tmp_path, callbacks=[counts])
    # Round 0 had two epochs, round 1 starts in its second: step 5 of 4 a epoch.
    assert counts.epochs == [1]


def test_a_full_disk_is_an_error_and_the_search_goes_on_later(
    unbroken, tmp_path, monkeypatch
):
    calls, fsync = [], os.fsync

    def fill(descriptor):
        calls.append(descriptor)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(OSError, match=r"No space left.*Free some space and run it"):
        find(run_dir=tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    find(run_dir=tmp_path)
    assert same(tmp_path, unbroken)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_folder_that_cannot_be_written_is_an_error_before_training():
    counts = Raises(0, None)
    with pytest.raises(OSError, match="Could not make the folder"):
        find(run_dir="/proc/tflottery", callbacks=[counts])
    assert counts.epochs == []


def test_a_damaged_state_is_an_error_and_is_not_taken_up(interrupt, tmp_path):
    interrupt(tmp_path, 4)
    path = tmp_path / "current.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(files.FileError, match=r"current\.safetensors is damaged"):
        find(run_dir=tmp_path)


@pytest.mark.parametrize(
    ("stop", "name", "what"),
    [
        (2, "start.safetensors", "the weights it started with"),
        (3, "rewind.safetensors", "the state to rewind to"),
        (5, "current.safetensors", "the state to resume from"),
        (5, "run.json", "what was searched"),
        (5, "rounds/000.json", "the record of a round"),
        (5, "rounds/000.ticket", "the ticket of a round"),
    ],
)
def test_a_search_that_lacks_a_file_is_an_error_and_trains_nothing(
    interrupt, tmp_path, stop, name, what
):
    interrupt(tmp_path, stop, epochs=3)
    (tmp_path / name).unlink()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    watch = Raises(0, None)
    with pytest.raises(run_dir.RunError) as caught:
        find(run_dir=tmp_path, callbacks=[watch], epochs=3)
    assert str(caught.value) == (
        f"`run_dir` {str(tmp_path)!r} holds a search, but lacks {name}: {what}. "
        "Restore the right file from a copy, or choose another `run_dir`."
    )
    assert watch.epochs == []
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert after == before


def test_a_finished_search_lies_where_nothing_can_be_written(
    unbroken, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    (folder / "lock").unlink()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(locks.os, "open", refuse)
    monkeypatch.setattr(files, "write", refuse)
    assert find(run_dir=folder).ticket.sparsity > 0.8
    (folder / "ticket.safetensors").unlink()
    with pytest.raises(OSError, match=r"Could not lock the folder\. Choose a place"):
        find(run_dir=folder)


def test_what_a_killed_writer_left_is_removed(unbroken, interrupt, tmp_path):
    interrupt(tmp_path, 3)
    for name in (".current.safetensors.7.tmp", "rounds/.001.ticket.7.tmp", ".mine"):
        (tmp_path / name).write_bytes(b"half")
    find(run_dir=tmp_path)
    assert [p.name for p in tmp_path.rglob(".*")] == [".mine"]
    assert same(tmp_path, unbroken)


def test_files_that_are_the_users_own_stay(tmp_path):
    (tmp_path / ".notes.tmp").write_bytes(b"mine")
    (tmp_path / "lock").write_bytes(b"mine")
    with pytest.raises(files.FileError) as caught:
        find(run_dir=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'lock'} is not a lock of tflottery and would be overwritten. "
        "Move it away, or choose another `run_dir`."
    )
    assert (tmp_path / "lock").read_bytes() == b"mine"
    (tmp_path / "lock").write_bytes(b"process 1234567 on a host of a long name")
    with run_dir.opened(tmp_path, {}):
        owner = (tmp_path / "lock").read_text()
    assert owner.startswith(f"process {os.getpid()} on ")
    assert "long name" not in owner
    assert (tmp_path / ".notes.tmp").read_bytes() == b"mine"


def test_resume_never_starts_beside_and_says_where(unbroken, tmp_path, capsys):
    first = tmp_path / "run"
    shutil.copytree(unbroken, first)
    kept = (first / "ticket.safetensors").read_bytes()
    for number in (2, 3):
        options = {"epochs": 1, "rewind_step": 0, "rounds": 1, "verbose": "auto"}
        find(run_dir=first, resume="never", **options)
        beside = tmp_path / f"run-{number}"
        assert f"This search is kept in {str(beside)!r}." in capsys.readouterr().out
        assert (beside / "ticket.safetensors").exists()
    assert (first / "ticket.safetensors").read_bytes() == kept


HOLD = """
import pathlib, sys, time
from tflottery.search import locks
with locks.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    (tmp_path / "rounds").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(locks.LockError) as caught:
            find(run_dir=tmp_path)
        assert str(caught.value).startswith(
            f"`run_dir` {str(tmp_path)!r} is in use by process {first.pid} on "
        )
        assert str(caught.value).endswith(
            "Wait until it ends, stop it, or choose another folder."
        )
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with run_dir.opened(tmp_path, {}):
            pass


# JAX warns of any fork once another test has used it; this child only sleeps.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_lock_outlasts_a_copy_of_the_folder_but_not_its_process(tmp_path):
    (tmp_path / "run").mkdir()
    with locks.held(tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        second = subprocess.run(
            [sys.executable, "-c", HOLD, tmp_path / "run"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert f"is in use by process {os.getpid()} on " in second.stderr
    try:
        with locks.held(tmp_path / "run"):
            pass  # The child, which lives on, holds nothing.
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_second_search_in_one_process_is_refused(tmp_path):
    with (
        run_dir.opened(tmp_path, {}),
        pytest.raises(locks.LockError, match="in use by another search in this"),
    ):
        find(run_dir=tmp_path)
    with run_dir.opened(tmp_path, {}, resume="never") as run:
        assert run.path == tmp_path.with_name(tmp_path.name + "-2")


def test_a_run_dir_may_lie_in_an_object_store(unbroken, tmp_path):
    folder = files.path_of(f"memory://{tmp_path}/run")
    assert not isinstance(folder, pathlib.Path)
    with pytest.raises(KeyboardInterrupt):
        find(run_dir=folder, stop=4)
    assert not (folder / "lock").exists()
    with locks.held(folder):
        owner = (folder / "lock").read_text()
        with pytest.raises(locks.LockError, match=r"If it was killed, delete 'memory:"):
            find(run_dir=folder)
        assert (folder / "lock").read_text() == owner
    find(run_dir=str(folder))
    folder.fs.get(folder.path, str(tmp_path / "run"), recursive=True)
    assert same(tmp_path / "run", unbroken)
