import inspect
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import tflottery
from tflottery.cli import find, main
from tflottery.core import files


def run(capsys, *words):
    """Returns the status, what was printed, and the errors."""
    try:
        status = main.main([str(word) for word in words])
    except SystemExit as done:
        status = done.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_without_a_word_the_commands_are_listed(capsys):
    status, out, err = run(capsys)
    assert (status, err) == (0, "")
    commands = {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    assert {"find", "show", "data", "report", "export", "demo"} <= commands
    assert run(capsys, "--help")[1] == run(capsys, "help")[1] == out


COMMANDS = ["find", "show", "data", "reproduce", "report"]
COMMANDS += ["export", "evaluate", "benchmark", "demo"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_on_a_screen(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(capsys, name, "--help")
    assert (status, err) == (0, "")
    assert f"usage: tflottery {name}" in out
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) <= 24


def test_the_help_of_find_names_every_argument_of_find_ticket_that_it_can_set(capsys):
    out = run(capsys, "find", "--help")[1]
    settable = {*inspect.signature(tflottery.find_ticket).parameters}
    settable -= {"model", "ds", "validation_data", "callbacks", "resume"}
    settable -= {"skip", "include", "layer_fractions", "ticket", "refused"}
    # The recipe says how its data is read.
    settable -= {"y", "sample_weight", "class_weight", "shuffle", "batch_size"}
    settable -= {"steps_per_epoch", "validation_steps"}
    settable -= {"validation_split", "validation_batch_size"}
    assert [name for name in settable if f"--{name}" not in out] == []


def test_the_help_loads_neither_keras_nor_tensorflow():
    script = (
        "import runpy, sys; sys.argv = ['tflottery', 'find', '--help']\n"
        "try: runpy.run_module('tflottery')\n"
        "except SystemExit: print(*sorted({'keras', 'tensorflow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: tflottery find")
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fnd"], "There is no command 'fnd'. The commands are: find, "),
        (["fnd"], "Did you mean 'find'?"),
        (
            ["find", "--modle=conv2"],
            "unknown argument: --modle=conv2. Did you mean '--model'?",
        ),
        (["find", "--seed=one"], "argument --seed: invalid number value: 'one'"),
        (["find", "--seed", "-1"], "argument --seed: must be at least 0: '-1'"),
        (
            ["find", "--retrain=rewnd"],
            "argument --retrain: invalid choice: 'rewnd'",
        ),
        (["show"], "the following arguments are required: TICKET"),
        (["show", "a.ticket", "b.ticket"], "unknown argument: b.ticket"),
        (["data", "digits"], "the following arguments are required: --to"),
        (["export", "model.pb", "a.tflite"], "must be the folder of a run"),
        (
            ["export", "m.keras", "./m.keras"],
            "FILE is m.keras itself, the model to export, which would be overwritten. ",
        ),
        (["export", "run", "run/model.keras"], "FILE is run/model.keras itself"),
        (["export", "run", "link.tflite"], "FILE is run/model.keras itself"),
        (
            ["export", "m.keras", "a.tflite", "--json=nodir/x.json"],
            "argument --json: must name a file in a folder that exists. Make the ",
        ),
        (["export", "m.keras", "a.tflite", "--json=run"], "--json: must name a file"),
        (["export", "m.keras", "a.tflite", "--input_shape=a,3"], "whole numbers, such"),
    ],
)
def test_a_line_that_cannot_be_read_says_why_and_exits_with_2(
    capsys, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("model.pb", "m.keras", "run/model.keras"):
        (tmp_path / name).write_bytes(b"kept")
    (tmp_path / "link.tflite").symlink_to("run/model.keras")
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert (tmp_path / "m.keras").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["find", "--model=lenet"], "Did you mean 'lenet_small'?"),
        (["find", "--dataset=mnits"], "digits, mnist, fashion_mnist, cifar10"),
        (["find", "--recipe=frankle"], "`recipe` must be one of digits, frankle_"),
        (["find", "--prune_fraction=0"], "`prune_fraction` must be in (0, 1)"),
        (
            ["show", "no.ticket"],
            "There is no no.ticket. Pass a file that",
        ),
        (["find", "--run_dir=foo://a"], "`run_dir` must be a local path, or a URL"),
        (["reproduce", "no.py"], "There is no design at no.py."),
        (["reproduce", "empty.py"], "empty.py must set `design` to a tflottery.lab."),
        (["export", "no.keras", "a.tflite"], "There is no file 'no.keras' to export"),
        (["export", "junk.keras", "a.tflite"], "junk.keras is damaged, or not a file"),
        (["demo", "--run_dir=junk.keras"], "`--run_dir` must be a folder on this "),
        (["demo", "--run_dir=s3://a"], "existing or new, but it is a URL. Choose"),
        (["demo", "--run_dir=junk.keras/a"], "Could not make the folder. Choose a "),
        (["data", "cifar", "--to=."], "Did you mean 'cifar10'? To use your own data"),
        (
            ["find", "--dataset=mnist", "--data_dir=data/mnist"],
            "`data_dir` is the folder of one dataset. Pass the folder above it, ",
        ),
        (
            ["find", "--dataset=mnist", "--data_dir=junk"],
            "mnist.npz: it is not an .npz file",
        ),
        (
            ["show", "run"],
            "The search in run has not finished, so there is no ticket yet. To resume "
            "it, repeat its `tflottery find` with --run_dir=run. Its finished rounds ",
        ),
        (["show", "data"], "There is no data/ticket.safetensors. Pass a file that"),
    ],
)
def test_an_error_is_one_line_without_a_traceback_and_exits_with_1(
    capsys, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    for name in (
        "data/mnist/3.0.1/dataset_info.json",
        "junk/mnist.npz",
        "run/run.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "junk.keras").write_text("{}")
    (tmp_path / "empty.py").touch()
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run(capsys, *words)
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["cut", "flipped", "another archive", "own layer"])
def test_a_keras_file_that_does_not_load_is_one_line_and_status_1(
    capsys, tmp_path, kind
):
    path = tmp_path / "model.keras"
    message = f"Keras 3 cannot load {path} here: it is damaged, was saved by tf_keras, "
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    if kind == "own layer":
        own = type("Own", (keras.layers.Layer,), {"call": lambda self, x: x})
        model.add(own())
    model.save(path)
    data = bytearray(path.read_bytes())
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
        message = f"{path} is damaged, or not a file of Keras 3. "
    elif kind == "flipped":
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
    elif kind == "another archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
    else:
        message = "Keras says: Could not locate class 'Own'."
    status, _, err = run(capsys, "export", path, tmp_path / "a.tflite")
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_dataset_that_cannot_be_downloaded_is_one_line_and_status_1(
    capsys, tmp_path, monkeypatch
):
    tfds = pytest.importorskip("tensorflow_datasets")

    def offline(self, urls):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", offline)
    words = ["--dataset=smallnorb", f"--data_dir={tmp_path}"]
    status, _, err = run(capsys, "find", *words)
    assert status == 1
    assert "cannot be downloaded: ConnectionError: no route to host. " in err
    assert len(err.splitlines()) == 1


def test_the_help_of_find_lists_every_model_dataset_and_recipe(capsys):
    from tflottery.lab import models, recipes
    from tflottery.lab.data import datasets

    _, out, _ = run(capsys, "find", "--help")
    words = out.replace(",", " ").replace(".", " ").replace(";", " ").split()
    assert {*models.MODELS, *datasets.SOURCES, *recipes.RECIPES} <= set(words)


@pytest.mark.slow
def test_a_run_in_an_object_store_is_searched_shown_and_reported(
    capsys, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def path_of(path, name="path"):
        return pathlib.Path(os.fspath(path).replace("s3://", f"{tmp_path}/store/"))

    monkeypatch.setattr(files, "path_of", path_of)
    words = ["--epochs=1", "--rounds=1", "--target_sparsity=0.2", "--verbose=0"]
    words += ["--select=last", "--run_dir=s3://a/run"]
    status, out, _ = run(capsys, "find", *words)
    assert status == 0
    assert "1 epoch per round" in out
    assert "Ticket: s3://a/run/ticket.safetensors" in out
    assert (tmp_path / "store/a/run/report.html").exists()
    assert run(capsys, "show", "s3://a/run")[0] == 0
    assert list((tmp_path / "here").iterdir()) == []


def test_data_writes_a_file_that_find_reads(capsys, tmp_path):
    status, out, _ = run(capsys, "data", "digits", f"--to={tmp_path}")
    assert status == 0
    assert out.strip() == str(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz", allow_pickle=False) as file:
        assert set(file) == {"x_train", "y_train", "x_test", "y_test"}


@pytest.mark.slow
def test_find_keeps_its_run_and_its_ticket_is_shown_and_exported(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ("find", "--epochs=1", "--rounds=2", "--target_sparsity=0.5")
    status, out, _ = run(capsys, *words, "--select=last")
    assert status == 0
    assert "lenet_small on digits" in out
    assert "2/2" in out
    assert "Test accuracy: dense" in out
    folder = tmp_path / "runs/find_001"
    config = json.loads((folder / "run.json").read_text())["config"]
    assert (config["rounds"], config["target_sparsity"]) == (2, 0.5)
    status, out, _ = run(capsys, "show", folder)
    assert status == 0
    assert "50.00 % of the prunable weights left" in out
    assert "fc1/kernel" in out
    status, out, err = run(capsys, "report", folder, f"--out={tmp_path / 'r.html'}")
    assert (status, err) == (0, "")
    assert "<html" in (tmp_path / "r.html").read_text()
    status, out, _ = run(capsys, "export", folder, tmp_path / "a.tflite")
    assert status == 0
    assert (tmp_path / "a.tflite").stat().st_size < 41_000
    status, out, _ = run(capsys, "evaluate", tmp_path / "a.tflite")
    assert status == 0
    assert 0.1 < float(out.split()[-1]) <= 1.0
    # Another search would get another folder: nothing is written over.
    assert find.free_folder() == "runs/find_002"


def test_a_dry_run_tells_the_cost_and_keeps_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, "find", "--dry_run", "--epochs=2", "--rounds=3")
    assert status == 0
    assert out.startswith("A search would take 4 rounds, 160 steps, about ")
    assert list(tmp_path.iterdir()) == []


def test_a_backend_that_is_missing_is_one_line_with_the_remedy(capsys, monkeypatch):
    def missing(path):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(tflottery, "load_ticket", missing)
    status, _, err = run(capsys, "show", __file__)
    assert status == 1
    assert err == (
        "tflottery: No module named 'torch'. Keras is set to it. Run: pip install "
        "torch, or set KERAS_BACKEND to 'tensorflow' or 'jax'\n"
    )


def test_an_interrupt_exits_with_130(capsys, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(tflottery, "load_ticket", interrupted)
    status, _, err = run(capsys, "show", __file__)
    assert status == 130
    assert "stopped" in err


def test_the_module_runs_as_the_command_does():
    command = [sys.executable, "-m", "tflottery", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "tflottery 0.1.0\n"
