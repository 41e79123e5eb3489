"""Tickets: what is saved comes back, and what does not fit is named."""

import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from tflottery import ticket as ticket_lib
from tflottery.core import files, paths
from tflottery.core.config import LotteryConfig

ROOT = pathlib.Path(__file__).absolute().parent.parent

WEIGHTS = {
    "dense/kernel": np.array([[1.0, -2.0], [3.0, -4.0]], np.float32),
    "dense/bias": np.array([0.5, 0.25], np.float32),
}
MASKS = {"dense/kernel": np.array([[True, False], [True, True]])}


def record(number=0, **changes):
    values = {
        "round": number,
        "sparsity": 0.25 * number,
        "density_per_layer": {"dense/kernel": 1 - 0.25 * number},
        "metrics": {"val_accuracy": 0.9 + 0.01 * number, "loss": 0.5},
        "history": {"loss": [0.7, 0.5]},
        "steps": 20,
        "seconds": 1.5,
    }
    return ticket_lib.Round(**(values | changes))


def ticket(**changes):
    values = {
        "masks": MASKS,
        "initial": WEIGHTS,
        "rewind": WEIGHTS,
        "trained": WEIGHTS,
        "config": LotteryConfig(seed=1, layer_fractions={"dense": 0.25}),
        "monitor": "val_accuracy",
        "rounds": (record(0), record(1)),
        "round": 1,
        "versions": {"numpy": "2.0"},
        "origin": {"from": "elsewhere"},
    }
    return ticket_lib.Ticket(**(values | changes))


def change(path, arrays=None, **header):
    """Rewrites a ticket file with other arrays or header, its checksums right."""
    held, head = files.read_arrays(path)
    files.write_arrays(path, held | (arrays or {}), head | header)


@pytest.fixture
def saved(tmp_path):
    ticket().save(tmp_path / "t")
    return tmp_path / "t"


def test_pruned_weights_are_zero_in_all_three_sets():
    for part in ticket_lib.WEIGHTS:
        kernel = getattr(ticket(), part)["dense/kernel"]
        assert kernel.tolist() == [[1, 0], [3, -4]], part
    assert WEIGHTS["dense/kernel"][0, 1] == -2.0
    assert ticket().sparsity == 0.25
    assert ticket().density == 0.75


def test_a_ticket_comes_back_as_it_was_but_for_the_times(saved):
    given, found = ticket(), ticket_lib.load_ticket(saved)
    for name in ("config", "monitor", "round", "versions", "origin", "architecture"):
        assert getattr(found, name) == getattr(given, name), name
    assert found.rounds == tuple(
        dataclasses.replace(r, seconds=None) for r in given.rounds
    )
    for part in ("masks", *ticket_lib.WEIGHTS):
        a, b = getattr(found, part), getattr(given, part)
        assert list(a) == list(b)
        for path in a:
            assert a[path].dtype == b[path].dtype
            assert np.array_equal(a[path], b[path])


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float64", "int32", "bool", ml_dtypes.bfloat16],
    ids=str,
)
def test_weights_of_any_type_and_shape_come_back(tmp_path, dtype):
    weights = {
        "a/kernel": np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype),
        "a/count": np.array(1).astype(dtype),
        "a/none": np.zeros((0, 3)).astype(dtype),
    }
    masks = {
        "a/kernel": np.array([[True, False, True], [False, False, True]]),
        "a/none": np.ones((0, 3), bool),
    }
    given = ticket(masks=masks, initial=weights, rewind=weights, trained=weights)
    given.save(tmp_path / "t")
    found = ticket_lib.load_ticket(tmp_path / "t")
    for path, w in given.trained.items():
        assert found.trained[path].dtype == w.dtype
        assert found.trained[path].shape == w.shape
        assert found.trained[path].tobytes() == w.tobytes()


def test_ten_lines_of_safetensors_and_numpy_read_a_ticket(saved):
    from safetensors import safe_open

    with safe_open(saved, "np") as file:
        header = json.loads(file.metadata()["tflottery"])["header"]
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights, masks = {}, {}
    for path, shape in header["shapes"].items():
        values = weights[path] = arrays[f"trained/{path}"]  # or "rewind/", "initial/"
        if path in header["masked"]:  # Bits, and the kept values in order.
            bits = np.unpackbits(arrays[f"masks/{path}"], count=math.prod(shape))
            masks[path] = bits.astype(bool).reshape(shape)
            weights[path] = np.zeros(shape, values.dtype)
            weights[path][masks[path]] = values
    found = ticket_lib.load_ticket(saved)
    for mine, theirs in ((masks, found.masks), (weights, found.trained)):
        assert mine.keys() == theirs.keys()
        for path in mine:
            assert np.array_equal(mine[path], theirs[path])
            assert mine[path].dtype == theirs[path].dtype


def test_a_ticket_may_lie_wherever_fsspec_reads_and_writes(saved, tmp_path):
    url = f"memory:/{tmp_path}/a.ticket"
    ticket().save(url)
    assert files.path_of(url).read_bytes() == saved.read_bytes()
    assert ticket_lib.load_ticket(url).rounds == ticket_lib.load_ticket(saved).rounds


def test_a_url_of_the_hugging_face_hub_is_of_its_file_system():
    hub = pytest.importorskip("huggingface_hub")
    path = files.path_of("hf://user/repository/a.ticket")
    assert isinstance(path.fs, hub.HfFileSystem)
    assert str(path.parent / "b") == "hf://user/repository/b"


def test_a_sparse_ticket_is_small(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(300, 100)).astype("float32")
    masks = {"k/kernel": np.zeros(kernel.shape, bool)}
    masks["k/kernel"][:3] = True
    weights = {"k/kernel": kernel}
    ticket(masks=masks, initial=weights, rewind=weights, trained=weights).save(
        tmp_path / "t"
    )
    # 30,000 bits, three times 300 values, and the header.
    assert (tmp_path / "t").stat().st_size < 30_000 / 8 + 3 * 300 * 4 + 4_000


def test_equal_tickets_are_equal_bytes_in_fresh_processes(tmp_path):
    program = (
        "import importlib.util, pathlib, sys\n"
        "spec = importlib.util.spec_from_file_location('f', sys.argv[1])\n"
        "fuzz = importlib.util.module_from_spec(spec); spec.loader.exec_module(fuzz)\n"
        "fuzz.ticket().save(sys.argv[2])\n"
    )
    for name in ("one", "two"):
        command = [sys.executable, "-c", program]
        command += [str(ROOT / "benchmarks/fuzz_tickets.py"), str(tmp_path / name)]
        subprocess.run(command, check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_saving_what_was_loaded_changes_no_byte(saved, tmp_path):
    ticket_lib.load_ticket(saved).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


HUGE = [10**6, 10**6]
KERNEL = "dense/kernel"


@pytest.mark.parametrize(
    ("arrays", "header", "message"),
    [
        ({}, {"format": "tflottery ticket 9"}, "format is 'tflottery ticket 9'; this"),
        ({}, {"format": None}, "Its format is None"),
        ({}, {"shapes": {KERNEL: HUGE}}, "A mask of shape .* needs 125000000000 bytes"),
        (
            {},
            {"shapes": {KERNEL: [2, 2], "dense/bias": HUGE}},
            r"'dense/bias' has values of shape \(2,\) instead of \(1000000, 1000000\)",
        ),
        ({}, {"shapes": {KERNEL: [-2, -2]}}, r"'dense/kernel' has the shape \[-2, -2"),
        ({}, {"shapes": {KERNEL: "22"}}, "'dense/kernel' has the shape '22'"),
        ({}, {"shapes": {KERNEL: [2.0, 2.0]}}, r"has the shape \[2\.0, 2\.0\]"),
        ({}, {"shapes": {}}, "it lacks 'dense/kernel'"),
        ({}, {"shapes": [1]}, "has no attribute 'items'"),
        ({}, {"masked": ["other/kernel"]}, "it lacks 'masks/other/kernel'"),
        (
            {},
            {"masked": []},
            r"'dense/kernel' has values of shape \(3,\) instead of \(2, 2",
        ),
        ({}, {"rounds": [{"round": 0}]}, "missing 5 required keyword-only arguments"),
        ({}, {"rounds": 3}, "object is not iterable"),
        (
            {},
            {"round": -1},
            "`round` of a Ticket must be a whole number of at least 0. Rec.*: round=-1",
        ),
        (
            {},
            {"versions": {"a": 1}},
            "`versions` of a Ticket must be a dict in which each value is a string",
        ),
        ({}, {"config": {"epochs": 0}}, "`epochs` must be a whole number"),
        ({}, {"config": {"code": 0}}, "unexpected keyword argument 'code'"),
        ({}, {"architecture": "0"}, "weights do not match its architecture hash"),
        ({"masks/x": np.zeros(1, "u1")}, {}, "arrays that no ticket has: masks/x"),
        ({f"masks/{KERNEL}": np.zeros(9, "u1")}, {}, "needs 1 bytes of bits"),
        (
            {f"masks/{KERNEL}": np.zeros(1, "u1")},
            {},
            r"of shape \(3,\) instead of \(0,\)",
        ),
        ({}, {"round": 99}, "It is of round 99, but has 2 records"),
        ({}, {"round": 2}, "It is of round 2, but has 2 records"),
        (
            {},
            {"rounds": [dataclasses.asdict(record())] * 3},
            "Record 1 is of round 0",
        ),
        (
            {},
            {"origin": None, "round": 0},
            "Its masks have the sparsity 0.25, but the record of its round says 0.0",
        ),
        ({}, {"monitor": "\x1b[2J"}, r"must be printable.* Received: '\\x1b\[2J'"),
        ({}, {"versions": {"a": "\x07"}}, r"must be printable.* Received: '\\x07'"),
        ({}, {"versions": {"\x9b": "1"}}, r"must be printable.* Received: '\\x9b'"),
        *(
            (
                {},
                {"rounds": [dataclasses.asdict(record(**changes))]},
                r"must be printable text\. Received: 'a\\nb'",
            )
            for changes in (
                {"failure": "a\nb"},
                {"metrics": {"a\nb": 1.0}},
                {"history": {"a\nb": [1.0]}},
                {"density_per_layer": {"a\nb": 1.0}},
            )
        ),
        (
            {"trained/dense/bias": np.array([1, np.inf], "f4")},
            {},
            "The trained weight 'dense/bias' contains infinity",
        ),
        # One value must not be spread over the three places that are kept.
        (
            {f"rewind/{KERNEL}": np.ones(1, "f4")},
            {},
            r"of shape \(1,\) instead of \(3,\)",
        ),
        (
            {f"rewind/{KERNEL}": np.ones(3, "f2")},
            {},
            "The rewind weights differ from th",
        ),
        (
            {f"initial/{KERNEL}": np.array([1, np.nan, 1], "f4")},
            {},
            "The initial weight 'dense/kernel' contains NaN",
        ),
        (
            {"trained/dense/bias": np.array([1, np.nan], "f4")},
            {},
            "The trained weight 'dense/bias' contains NaN",
        ),
    ],
)
def test_a_forged_ticket_is_refused_and_takes_no_memory(saved, arrays, header, message):
    change(saved, arrays, **header)
    tracemalloc.start()
    try:
        ticket_lib.load_ticket(saved)
    except files.FileError as error:
        told, peak = str(error), tracemalloc.get_traced_memory()[1]
    else:
        pytest.fail("The ticket was not refused.")
    finally:
        tracemalloc.stop()
    assert re.search(f"/t is not a valid ticket.*{message}", told)
    # What is asked for in vain would take a terabyte.
    assert peak < 10_000_000


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a//x", "a\\x", "\x1b[2J/x", ""])
def test_a_name_that_leads_elsewhere_is_refused(saved, name):
    held, head = files.read_arrays(saved)
    for part in ticket_lib.WEIGHTS:
        held[f"{part}/{name}"] = held.pop(f"{part}/dense/bias")
    head["shapes"] = {KERNEL: [2, 2], name: [2]}
    files.write_arrays(saved, held, head)
    with pytest.raises(files.FileError, match="is not the path of a weight"):
        ticket_lib.load_ticket(saved)


def test_nan_of_bfloat16_is_noticed(tmp_path):
    weights = {"a/b": np.array([1, np.nan]).astype(ml_dtypes.bfloat16)}
    ticket(masks={}, initial=weights, rewind=weights, trained=weights).save(
        tmp_path / "t"
    )
    with pytest.raises(files.FileError, match="The initial weight 'a/b' contains NaN"):
        ticket_lib.load_ticket(tmp_path / "t")


def test_infinity_may_be_a_weight_before_the_training(tmp_path):
    weights = {"attention/bias": np.array([0.0, -np.inf])}
    trained = {"attention/bias": np.array([0.0, -9.0])}
    ticket(masks={}, initial=weights, rewind=weights, trained=trained).save(
        tmp_path / "t"
    )
    assert ticket_lib.load_ticket(tmp_path / "t").rewind["attention/bias"][1] == -np.inf


def test_a_round_that_diverged_is_kept_with_its_nan(tmp_path):
    weights = {KERNEL: np.full((2, 2), np.nan, np.float32)}
    failed = record(1, failure="diverged", metrics={"loss": float("nan")})
    ticket(
        initial=weights, rewind=weights, trained=weights, rounds=(record(), failed)
    ).save(tmp_path / "t")
    found = ticket_lib.load_ticket(tmp_path / "t")
    assert np.isnan(found.trained[KERNEL][0, 0])
    assert found.rounds[1].failure == "diverged"


def test_a_ticket_whose_round_agrees_with_its_masks_comes_back(tmp_path):
    ticket(origin=None).save(tmp_path / "t")
    assert ticket_lib.load_ticket(tmp_path / "t").origin is None


@pytest.mark.parametrize("path", [None, 5, b"x", ""])
@pytest.mark.parametrize("call", [ticket_lib.load_ticket, ticket().save])
def test_what_is_no_path_is_refused(call, path):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(path)
    assert str(caught.value) == (
        "`path` must be a local path, or a URL that fsspec knows, such as "
        '"runs/a", "s3://bucket/a" or "hf://user/repository/a". Received: '
        f"path={path!r}"
    )


def test_a_folder_or_a_pipe_is_no_ticket(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, what in ((".", "a folder"), ("pipe", "a pipe or a device")):
        path = str(tmp_path / name)
        with pytest.raises(ValueError, match="must be a regular file") as caught:
            ticket_lib.load_ticket(path)
        assert str(caught.value) == (
            "`path` must be a regular file, such as RUN_DIR/ticket.safetensors. "
            f"Received: path={path!r}, which is {what}"
        )


def test_what_is_no_ticket_is_refused(tmp_path):
    files.write_arrays(tmp_path / "t", {}, None)
    with pytest.raises(
        files.FileError, match=r"t is not a valid ticket\. Its format is"
    ):
        ticket_lib.load_ticket(tmp_path / "t")
    with pytest.raises(FileNotFoundError):
        ticket_lib.load_ticket(tmp_path / "none")


@pytest.mark.slow
def test_no_damaged_or_forged_ticket_gets_in():
    # In a process of its own: it traces memory, which slows what is loaded here.
    command = [sys.executable, str(ROOT / "benchmarks/fuzz_tickets.py")]
    done = subprocess.run(
        [*command, "--inputs", "2000", "--seed", "7"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *counts, total = done.stdout.splitlines()
    assert re.fullmatch(r" +2,000  inputs in \d+ s; no crash", total)
    assert len(counts) > 30
    [still] = [line for line in counts if line.endswith("a ticket still")]
    assert 0 < int(still.split()[0]) < 200


def test_weights_that_do_not_fit_together_are_an_error():
    other = {KERNEL: WEIGHTS[KERNEL]}
    with pytest.raises(
        ValueError, match=r"initial weights .* at 'dense/bias': none ins"
    ):
        ticket(initial=other)
    with pytest.raises(ValueError, match=r"rewind weights differ .* 'dense/more'"):
        ticket(rewind=WEIGHTS | {"dense/more": np.ones(1)})
    with pytest.raises(ValueError, match="There is a mask for 'x', but no such weight"):
        ticket(masks={"x": np.ones(1, bool)})


def test_tickets_can_be_compared_by_identity():
    one = ticket()
    assert one == one
    assert one != ticket()


def test_summary_shows_layers_rounds_and_which_is_the_ticket():
    lines = []
    ticket().summary(print_fn=lines.append)
    rows = [line.split() for line in lines[0].splitlines()]
    assert "weights can be pruned. The largest others: " in lines[0]
    assert lines[0].startswith("Ticket: 75.00 % of the prunable weights left\n")
    assert ["dense/kernel", "2x2", "3", "4", "75.00"] in rows
    assert ["all", "masked", "3", "4", "75.00"] in rows
    assert ["0", "100.00", "0.9000", "+0.0000", "1.5"] in rows
    assert ["1", "75.00", "0.9100", "+0.0100", "1.5", "<-", "this", "ticket"] in rows


def test_summary_prints_names_as_they_are(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = []
    names = ("[red]x[/red]/kernel", ":smile:/kernel", "<script>/kernel", "[/]/k")
    weights = {name: np.ones(2) for name in names}
    masks = {name: np.ones(2, bool) for name in names}
    ticket(masks=masks, initial=weights, rewind=weights, trained=weights).summary(
        print_fn=lines.append
    )
    assert all(name in lines[0] for name in names)
    assert "\x1b" not in lines[0]


def test_summary_gives_its_text_to_print_fn_in_a_notebook_too(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    lines = []
    ticket().summary(print_fn=lines.append)
    assert "left %" in "".join(lines)


def test_summary_of_a_ticket_without_rounds_or_metric():
    lines = []
    ticket(rounds=()).summary(print_fn=lines.append)
    ticket(monitor="unknown").summary(print_fn=lines.append)
    ticket(rounds=(record(0), record(1, failure="diverged"))).summary(
        print_fn=lines.append
    )
    assert "this ticket" not in lines[0]
    assert "this ticket" in lines[1]
    assert "diverged" in lines[2]


def test_align_reads_the_tickets_weights():
    again = {"dense_3/kernel": np.ones((2, 2)), "dense_3/bias": np.ones(2)}
    assert paths.align(ticket().trained, again) == {
        "dense/kernel": "dense_3/kernel",
        "dense/bias": "dense_3/bias",
    }


HOSTILE = ("[red]x[/red]/kernel", "<script>/kernel", "a|b/kernel", "$x_1$/kernel")


def hostile():
    weights = {name: np.ones((2, 2)) for name in HOSTILE}
    masks = {name: np.ones((2, 2), bool) for name in HOSTILE}
    return ticket(masks=masks, initial=weights, rewind=weights, trained=weights)


def test_a_notebook_shows_the_tables_of_the_summary_with_names_escaped():
    lines = []
    ticket().summary(print_fn=lines.append)
    shown = ticket()._repr_html_()
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", shown)
    assert {"dense/kernel", "75.00", "0.9100", "&lt;- this ticket"} <= set(cells)
    words = " ".join(cells).replace("&lt;", "<").split()
    assert set(words) <= set(lines[0].split())
    assert "&lt;script&gt;/kernel" in hostile()._repr_html_()
    assert "<script>" not in hostile()._repr_html_()


def test_a_plot_has_the_metric_the_layers_and_the_first_masks():
    pytest.importorskip("matplotlib")
    parts = ticket().plot().subfigs
    labels = [part.axes[0].get_xlabel() for part in parts]
    assert labels == [
        "weights left (%), log scale",
        "weights left in the layer (%)",
        "mask of dense/kernel, kept is black",
    ]
    [picture] = parts[2].axes[0].get_images()
    assert picture.get_array().tolist() == [[1, 0], [1, 1]]
    assert len(ticket(rounds=()).plot().subfigs) == 2
    assert len(hostile().plot().subfigs) == 3


def test_a_model_card_starts_with_metadata_and_has_the_tables():
    yaml = pytest.importorskip("yaml")
    card = ticket().model_card()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "tflottery"
    assert "| dense/kernel | 2x2 | 3 | 4 | 75.00 |" in body
    assert "`val_accuracy`: 0.9100; the dense network: 0.9000." in body
    assert "- seed: `1`" in body
    assert "| a\\|b/kernel |" in hostile().model_card()
    assert "<script>" not in hostile().model_card()
    assert "keeps 75.0 % of the weights" in ticket(rounds=()).model_card()
