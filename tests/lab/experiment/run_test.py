"""An experiment skips what is done, pairs its arms, and chooses without the test."""

import contextlib
import dataclasses
import importlib.util
import io
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest

from tflottery import controls, load_ticket
from tflottery.core import files
from tflottery.core import masks as masks_lib
from tflottery.lab import recipes
from tflottery.lab.data import datasets
from tflottery.lab.experiment import bench, cost, designs
from tflottery.lab.experiment import run as run_lib
from tflottery.lab.experiment.progress import Progress
from tflottery.lab.report import results as results_lib
from tflottery.lab.training import SGD, Adam

SMOKE = designs.design("sparse_transfer", "smoke")
# Adam's update takes longer to trace.
QUICK = {"steps": 10, "optimizer": SGD(learning_rate=0.05)}
TINY = dataclasses.replace(
    SMOKE,
    source=dataclasses.replace(SMOKE.source, rewind_step=3, **QUICK),
    targets=(dataclasses.replace(SMOKE.targets[0], **QUICK),),
    prunings=2,
    rounds=(2,),
    arms=("trained", "randomly_masked"),
    regimes=("fine_tuned",),
    seeds=1,
)
ONE_HEAD = dataclasses.replace(TINY, heads=("linear",))
ONE_TICKET = dataclasses.replace(ONE_HEAD, arms=("trained",))


def run(design, folder, **options):
    return files.read_json(run_lib.run(design, run_dir=folder, verbose=0, **options))


def once_pruned(name, *, steps, **changes):
    """Returns the smoke preset of a design with one pruning and one seed."""
    small = designs.design(name, "smoke")
    source = dataclasses.replace(small.source, steps=steps)
    changes |= {"prunings": 1, "rounds": (1,), "seeds": 1}
    return dataclasses.replace(small, source=source, **changes)


def by_name(results):
    return {
        (r["arm"], r["source_round"], r["seed"], r["regime"], r["head"]): r
        for r in results["rows"]
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(dataclasses.replace(TINY, regimes=designs.REGIMES), folder)


@pytest.fixture(scope="module")
def one_ticket(tmp_path_factory):
    """ONE_TICKET as it has run: its folder, its results and the lines it printed."""
    folder, out = tmp_path_factory.mktemp("one_ticket"), io.StringIO()
    with contextlib.redirect_stdout(out):
        path = run_lib.run(ONE_TICKET, run_dir=folder, verbose=2)
    return folder, files.read_json(path), out.getvalue().splitlines()


@pytest.fixture
def copied(one_ticket, tmp_path):
    """A copy of the folder of `one_ticket`, for a test that changes it."""
    return shutil.copytree(one_ticket[0], tmp_path / "copied")


@pytest.mark.slow
def test_there_is_a_row_for_each_arm_density_regime_and_head(finished):
    _, results = finished
    rows = by_name(results)
    assert len(rows) == len(results["rows"]) == 2 * 2 * (1 + 2)
    assert all(r["metric"] is not None for r in rows.values())
    dense = rows["dense", 0, 0, "frozen", "two_layer"]
    assert dense["density"] == 1
    assert dense["weights"] == "trained"
    sparse = rows["ticket", 2, 0, "fine_tuned", "linear"]
    # A tenth of all, of which the old head had more than its share.
    assert 0.08 < sparse["density"] < 0.1
    # The head of two layers is dense, and no part of the backbone that masks cover.
    assert sparse["density_per_layer"].keys() == {"fc1/kernel", "fc2/kernel"}
    assert len(results_lib.read(results["rows"])) == len(rows)
    assert results["header"]["finished"]


@pytest.mark.slow
def test_the_masks_of_a_cell_hold_to_the_end_and_differ_from_the_cell_before(finished):
    folder, _ = finished
    found = load_ticket(folder / "searches" / TINY.ticket(0, 2))
    images = datasets.load("digits").of_classes(TINY.target_classes)
    place = bench.Bench(
        TINY,
        TINY.targets[0],
        5,
        images,
        regime="fine_tuned",
        head="linear",
        ticket=found,
    )
    before = None
    for trial in (t for t in ONE_HEAD.trials(0) if t.round == 2):
        place.train(trial, found)
        kept = controls.weights_of(place.model)["fc1/kernel"] != 0
        assert kept.mean() < 0.1
        if trial.arm == "ticket":
            assert not np.any(kept & ~found.masks["fc1/kernel"])
        assert before is None or np.any(kept != before)
        before = kept


@pytest.mark.slow
def test_random_masks_have_the_tickets_densities_and_other_accuracies(finished):
    rows = by_name(finished[1])
    ticket = rows["ticket", 2, 0, "fine_tuned", "linear"]
    control = rows["randomly_masked", 2, 0, "fine_tuned", "linear"]
    assert control["density_per_layer"] == ticket["density_per_layer"]
    assert control["metric"] != ticket["metric"]


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again(finished, monkeypatch):
    folder, results = finished
    monkeypatch.setattr(bench, "Bench", None)
    monkeypatch.setattr(bench, "search", None)
    design = dataclasses.replace(TINY, regimes=designs.REGIMES)
    assert run(design, folder) == results


@pytest.mark.slow
def test_another_experiment_in_the_folder_is_an_error_that_names_what_differs(finished):
    with pytest.raises(ValueError, match=r"another experiment: its regimes differ"):
        run(TINY, finished[0])


@pytest.mark.slow
def test_a_stop_keeps_what_is_done_and_a_cell_does_not_depend_on_those_before(
    one_ticket, copied, monkeypatch
):
    shutil.rmtree(copied / "cells")
    train, trained = bench.Bench.train, []

    def stopping(self, trial, ticket):
        if trained:
            raise KeyboardInterrupt
        trained.append(trial.name)
        return train(self, trial, ticket)

    monkeypatch.setattr(bench.Bench, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(ONE_TICKET, copied)
    partial = files.read_json(copied / "results.json")
    assert len(partial["rows"]) == 1
    assert not partial["header"]["finished"]
    assert "Stopped" in (copied / "log.txt").read_text()
    monkeypatch.setattr(bench.Bench, "train", train)
    whole = run(ONE_TICKET, copied)
    assert whole["rows"][:1] == partial["rows"]
    # The ticket's cell now ran on a network that had trained none before it.
    for row, before in zip(whole["rows"], one_ticket[1]["rows"], strict=True):
        for name in ("metric", "val_metric", "steps_to_best"):
            assert row[name] == before[name]


@pytest.mark.slow
def test_more_seeds_are_added_and_results_are_there_after_every_cell(
    one_ticket, copied, monkeypatch
):
    train, rows = bench.Bench.train, []

    def watching(self, trial, ticket):
        rows.append(len(files.read_json(copied / "results.json")["rows"]))
        return train(self, trial, ticket)

    monkeypatch.setattr(bench.Bench, "train", watching)
    two = run(ONE_TICKET, copied, seeds=2)
    assert rows == [2, 3]
    assert len(two["rows"]) == 4
    assert two["rows"][:2] == one_ticket[1]["rows"]
    tickets = [
        load_ticket(copied / "searches" / ONE_TICKET.ticket(seed, 2)) for seed in (0, 1)
    ]
    overlap = masks_lib.overlap(*(t.masks for t in tickets))
    assert two["header"]["mask_overlap"] == [[0, 1, tickets[0].density, overlap]]
    # The seeds of earlier calls stay.
    again = run(ONE_TICKET, copied, seeds=1)
    assert again["header"]["seeds"] == [0, 1]
    assert again["rows"] == two["rows"]
    assert len(rows) == 2


@pytest.mark.slow
def test_the_test_images_choose_nothing(one_ticket, tmp_path, monkeypatch):
    honest = one_ticket[1]
    load = datasets.load

    def shuffled(*args, **kwargs):
        images = load(*args, **kwargs)
        return dataclasses.replace(images, y_test=np.roll(images.y_test, 7))

    monkeypatch.setattr(datasets, "load", shuffled)
    wrong = run(ONE_TICKET, tmp_path)
    for a, b in zip(honest["rows"], wrong["rows"], strict=True):
        assert a["metric"] != b["metric"]
        for name in ("val_metric", "steps_to_best", "density_per_layer"):
            assert a[name] == b[name]


def test_the_cost_counts_the_steps_that_the_results_then_have(one_ticket):
    found = cost.cost(ONE_TICKET)
    rows = one_ticket[1]["rows"]
    # A round of this search is an epoch, of 11 or 12 steps, as a cell's is.
    searched = found.steps - sum(row["steps"] for row in rows)
    assert searched % 3 == 0
    assert (found.searches, found.rounds, found.cells) == (1, 3, 2)
    assert 0 < found.seconds < 60
    assert "1 searches of 3 rounds in all, 2 cells" in str(found)


@pytest.mark.slow
def test_the_dense_network_can_be_trained_as_long_as_the_last_ticket(tmp_path):
    source = dataclasses.replace(
        ONE_TICKET.source, retrain="learning_rate", rewind_step=0
    )
    design = dataclasses.replace(
        ONE_TICKET, source=source, arms=("trained", "trained_longer")
    )
    found = cost.cost(design)
    rows = run(design, tmp_path)["rows"]
    assert [(r["arm"], r["weights"], r["density"] == 1) for r in rows] == [
        ("dense", "trained", True),
        ("dense", "longer", True),
        ("ticket", "trained", False),
    ]
    assert rows[0]["val_metrics"] != rows[1]["val_metrics"]
    # Three rounds of the search, and two more of the dense network.
    assert (found.steps - sum(row["steps"] for row in rows)) % 5 == 0
    longer = load_ticket(tmp_path / "searches/seed0-longer.ticket")
    dense = load_ticket(tmp_path / "searches" / design.ticket(0, 0))
    for path, mask in longer.masks.items():
        assert mask.all()
        assert np.any(longer.trained[path] != dense.trained[path])
        assert np.array_equal(longer.initial[path], dense.initial[path])


def test_rounds_that_a_search_never_reached_are_failed_cells(copied):
    (copied / "searches/seed0/rounds/002.ticket").unlink()
    trial = next(t for t in ONE_TICKET.trials(0) if t.round == 2)
    (copied / "cells" / trial.name / "result.json").unlink()
    rows = run(ONE_TICKET, copied)["rows"]
    assert rows[0]["failure"] is None
    assert rows[1]["failure"] == "the search ended before this round"
    assert results_lib.read(rows)[1].failed


@pytest.mark.slow
def test_one_shot_prunes_from_the_dense_network(tmp_path):
    design = dataclasses.replace(ONE_TICKET, one_shot=True)
    dense, sparse = run(design, tmp_path)["rows"]
    assert dense["density"] == 1
    assert 0.08 < sparse["density"] < 0.11
    once = load_ticket(tmp_path / "searches" / design.ticket(0, 2))
    assert once.round == 1


@pytest.mark.slow
@pytest.mark.without_tensorflow
def test_frankle_and_carbins_arms_train_on_the_source_task_itself(tmp_path):
    small = once_pruned("lenet_mnist", steps=20)
    results = run(small, tmp_path)
    rows = {row["arm"]: row for row in results["rows"]}
    assert rows.keys() == {"dense", "ticket", "reinitialized", "randomly_masked"}
    assert rows["ticket"]["weights"] == "initial"
    assert rows["ticket"]["density_per_layer"].keys() == {
        "fc1/kernel",
        "fc2/kernel",
        "output/kernel",
    }


@pytest.mark.slow
def test_every_method_reaches_the_searchs_densities_for_the_steps_that_it_says(
    tmp_path,
):
    methods = ("ticket", "gradual_twice", "ac_dc", "randomly_masked")
    small = once_pruned("cost_accuracy", steps=30, methods=methods)
    rows = {row["arm"]: row for row in run(small, tmp_path)["rows"]}
    assert {arm: row["cost"] for arm, row in rows.items()} == {
        "dense": 1,
        "ticket": pytest.approx(1 + 2 / 3),  # It goes on from the first of 3 epochs.
        "gradual_twice": 2,
        "ac_dc": 1,
        "randomly_masked": 1,
    }
    assert rows.pop("dense")["density"] == 1
    for row in rows.values():
        assert row["failure"] is None
        assert row["density"] == pytest.approx(0.03, abs=0.0005)
    densities = rows["randomly_masked"]["density_per_layer"]
    assert rows["ac_dc"]["density_per_layer"] == densities
    assert rows["gradual_twice"]["density_per_layer"] == pytest.approx(
        densities, abs=0.01
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "`seeds` must be a whole number of at least 1"),
        ({"executor": "slurm"}, "`executor` must be one of local, ray, stacked"),
        ({"executor": "stacked"}, "set KERAS_BACKEND=jax, and install tflottery.jax."),
    ],
)
def test_bad_arguments_are_errors_that_name_them(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_lib.run(TINY, run_dir=tmp_path, **options)


def test_side_by_side_no_round_can_go_on_at_the_last_rate(tmp_path):
    source = dataclasses.replace(TINY.source, retrain="fine_tune", rewind_step=0)
    design = dataclasses.replace(TINY, source=source)
    with pytest.raises(ValueError, match="Set retrain='learning_rate' or 'rewind'"):
        run_lib.run(design, run_dir=tmp_path / "run", executor="stacked")
    assert not (tmp_path / "run").exists()


def test_lines_of_the_log_say_what_is_done_and_how_long_it_takes(one_ticket):
    folder, _, lines = one_ticket
    assert lines[0] == "0 of 3 rounds done, 0 of 2 cells done"
    assert "3 of 3 rounds: seed0" in lines[3]
    assert "1 of 2 cells: seed 0, 100.00 % left, dense (trained)" in lines[4]
    assert lines[4].endswith(" left")
    log = (folder / "log.txt").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in log] == lines


def test_a_terminal_shows_bars(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    shown = Progress(
        "auto",
        tmp_path / "log.txt",
        total={"rounds": 3, "cells": 2},
        done={"rounds": 2, "cells": 0},
    )
    with shown.bars:
        shown.add("rounds", "seed0 [b]")
        shown.add("cells", "seed 0")
    out = capsys.readouterr().out
    for text in ("3/3", "1/2", "3 of 3 rounds: seed0 [b]", "1 of 2 cells: seed 0"):
        assert text in out


def smallnorb_files():
    """Returns the function of datasets_test.py that writes SmallNORB's real format."""
    path = pathlib.Path(__file__).parents[1] / "data" / "datasets_test.py"
    spec = importlib.util.spec_from_file_location("datasets_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_norb


@pytest.mark.slow
def test_smallnorb_in_its_real_format_goes_through_the_whole_experiment(
    tmp_path, monkeypatch
):
    tfds = pytest.importorskip("tensorflow_datasets")
    raw = tmp_path / "raw"
    raw.mkdir()
    smallnorb_files()(raw, "training", 60, 0)
    smallnorb_files()(raw, "testing", 20, 1)
    monkeypatch.setattr(
        tfds.download.DownloadManager,
        "download_and_extract",
        lambda self, urls: {key: os.fspath(raw / key) for key in urls},
    )
    mehta = recipes.recipe("mehta_resnet18_smallnorb")
    changes = {"model": "lenet_small", "batch_size": 16, "steps": 3}
    changes |= {"input_shape": (8, 8, 3), "optimizer": Adam(learning_rate=1e-3)}
    design = dataclasses.replace(
        ONE_HEAD,
        source=dataclasses.replace(
            mehta, dataset="digits", target_sparsity=0.5, validation=0.2, **changes
        ),
        targets=(dataclasses.replace(mehta, validation=1 / 6, **changes),),
        prunings=1,
        rounds=(1,),
        arms=("trained",),
        images=64,
        source_classes=None,
        target_classes=None,
    )
    rows = run(design, tmp_path / "run", data_dir=tmp_path / "data")["rows"]
    assert [row["dataset"] for row in rows] == ["smallnorb", "smallnorb"]
    assert rows[1]["density"] == pytest.approx(0.5, abs=0.001)
    # 50 of its 60 training images, in batches of 16, once.
    assert rows[1]["steps"] == 4


@pytest.mark.filterwarnings("ignore")
def test_cells_run_on_a_ray_cluster_of_two_workers(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        results = run(ONE_TICKET, tmp_path, executor="ray")
    finally:
        ray.shutdown()
    assert len(results["rows"]) == 2
    assert results["header"]["finished"]
