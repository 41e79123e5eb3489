"""Runs: what is finished counts, what is half written does not, nothing is mixed."""

import json
import re

import numpy as np
import pytest

from tests.ticket_test import record, ticket
from tflottery.core import files
from tflottery.search import run_dir

MANIFEST = {"config": {"epochs": 3, "skip": ("a",)}, "ds": {"size": 10}, "seed": None}


def test_a_state_comes_back_with_its_header(tmp_path):
    run = run_dir.Run(tmp_path / "run", MANIFEST)
    assert run.load("current") is None
    run.save("current", {"weights/a": np.arange(3)}, {"epoch": 2})
    state, header = run_dir.Run(str(tmp_path / "run"), MANIFEST).load("current") or (
        {},
        0,
    )
    assert state["weights/a"].tolist() == [0, 1, 2]
    assert header == {"epoch": 2}


def test_another_search_is_refused_with_one_line_per_difference(tmp_path):
    run_dir.Run(tmp_path, MANIFEST)
    before = (tmp_path / "run.json").read_bytes()
    other = {"config": {"epochs": 4, "skip": ["b"]}, "ds": {"size": 10, "dtype": "u1"}}
    with pytest.raises(run_dir.RunError) as caught:
        run_dir.Run(tmp_path, other)
    first, *lines = str(caught.value).splitlines()
    assert re.search(
        "`run_dir` '.*' holds another search. Choose another folder", first
    )
    assert lines == [
        "  config.epochs: 3 there, 4 now",
        "  config.skip: ['a'] there, ['b'] now",
        "  ds.dtype: None there, 'u1' now",
    ]
    assert (tmp_path / "run.json").read_bytes() == before


def test_the_same_search_is_taken_up(tmp_path):
    run_dir.Run(tmp_path, MANIFEST)
    run_dir.Run(tmp_path, json.loads(json.dumps(MANIFEST)))


def save_rounds(run, count):
    for number in range(count):
        records = tuple(record(n) for n in range(number + 1))
        run.save_round(ticket(round=number, rounds=records))


def test_finished_rounds_come_back_in_order_with_their_times(tmp_path):
    run = run_dir.Run(tmp_path, MANIFEST)
    save_rounds(run, 3)
    assert run.rounds() == [record(n) for n in range(3)]
    assert run.load_round(2).round == 2
    assert sorted(p.name for p in (tmp_path / "rounds").iterdir()) == [
        *("000.json", "000.ticket", "001.json", "001.ticket", "002.json", "002.ticket"),
    ]


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (("001.json",), "001.json: the record of a round"),
        (("001.json", "001.ticket"), "001.json: the record of a round"),
        (("000.json", "001.json", "002.json"), "000.json: the record of a round"),
        (("002.ticket",), "002.ticket: the ticket of a round"),
    ],
)
def test_a_gap_in_the_rounds_is_an_error(tmp_path, missing, told):
    run = run_dir.Run(tmp_path, MANIFEST)
    save_rounds(run, 3)
    for name in missing:
        (tmp_path / "rounds" / name).unlink()
    with pytest.raises(run_dir.RunError) as caught:
        run.rounds()
    assert str(caught.value) == (
        f"`run_dir` {str(tmp_path)!r} holds a search, but lacks rounds/{told}. "
        "Restore the right file from a copy, or choose another `run_dir`."
    )


def test_the_ticket_of_another_round_is_an_error(tmp_path):
    run = run_dir.Run(tmp_path, MANIFEST)
    save_rounds(run, 3)
    path = tmp_path / "rounds" / "001.ticket"
    (tmp_path / "rounds" / "002.ticket").replace(path)
    with pytest.raises(files.FileError) as caught:
        run.load_round(1)
    assert str(caught.value) == (
        f"{path} is the ticket of round 2. Restore the right file from a copy, or "
        "choose another `run_dir`."
    )


@pytest.mark.parametrize(
    ("current", "message"),
    [
        (
            {"round": 4, "record": None},
            r"lacks rounds/003\.json: the record of a r",
        ),
        ({"round": 2, "record": None}, "older than the finished round 2"),
        ({"round": 1, "record": {}}, "older than the finished round 2"),
        (None, r"lacks current\.safetensors: the state to resume from"),
    ],
)
def test_a_state_of_another_time_than_the_rounds_is_an_error(
    tmp_path, current, message
):
    run = run_dir.Run(tmp_path, MANIFEST)
    run.save("start", {}, {})
    save_rounds(run, 3)
    with pytest.raises(run_dir.RunError, match=message):
        run.check_whole(current and {**current, "rewound": True}, rewinds=False)
    for whole in ({"round": 3, "record": None}, {"round": 2, "record": {}}):
        run.check_whole({**whole, "rewound": True}, rewinds=False)


def test_a_folder_with_no_run_json_is_not_a_place_to_start_in(tmp_path):
    run = run_dir.Run(tmp_path, MANIFEST)
    save_rounds(run, 1)
    (tmp_path / "run.json").unlink()
    with pytest.raises(run_dir.RunError, match=r"lacks run\.json: what was searched\."):
        run_dir.Run(tmp_path, MANIFEST)
    with run_dir.opened(tmp_path, MANIFEST, resume="never") as other:
        assert other.path == tmp_path.with_name(tmp_path.name + "-2")


def test_long_lists_are_compared_item_by_item(tmp_path):
    metrics = ["accuracy", {"class_name": "AUC", "config": {"curve": "ROC"}}]
    other = ["accuracy", {"class_name": "AUC", "config": {"curve": "PR"}}]
    run_dir.Run(tmp_path, {"metrics": metrics})
    with pytest.raises(run_dir.RunError) as caught:
        run_dir.Run(tmp_path, {"metrics": other})
    assert str(caught.value).splitlines()[1:] == [
        "  metrics.1.config.curve: 'ROC' there, 'PR' now"
    ]


def test_a_round_whose_record_was_not_written_does_not_count(tmp_path, monkeypatch):
    run = run_dir.Run(tmp_path, MANIFEST)
    save_rounds(run, 1)
    whole = files.write

    def break_off(path, data):
        if str(path).endswith("001.json"):
            raise KeyboardInterrupt
        whole(path, data)

    monkeypatch.setattr(files, "write", break_off)
    with pytest.raises(KeyboardInterrupt):
        run.save_round(ticket(rounds=(record(0), record(1))))
    # The ticket is there, its record, which comes last, is not.
    assert (tmp_path / "rounds" / "001.ticket").exists()
    assert [r.round for r in run.rounds()] == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"000\.json is not .* a JSON file|000\.json is not a JSON file"),
        ("[]", r"000\.json is not the record of a round"),
        ("{}", r"000\.json is not the record of a round.*missing 6 required"),
        ('{"code": 1}', r"000\.json is not the record of a round.*'code'"),
    ],
)
def test_a_damaged_record_is_an_error_that_names_it(tmp_path, text, message):
    run = run_dir.Run(tmp_path, MANIFEST)
    (tmp_path / "rounds" / "000.json").write_text(text)
    with pytest.raises(files.FileError, match=message):
        run.rounds()


def test_the_record_of_another_round_is_an_error(tmp_path):
    run = run_dir.Run(tmp_path, MANIFEST)
    save_rounds(run, 2)
    (tmp_path / "rounds" / "001.json").replace(tmp_path / "rounds" / "000.json")
    with pytest.raises(files.FileError, match=r"000\.json is the record of round 1\."):
        run.rounds()


def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path):
    run_dir.Run(tmp_path, MANIFEST)
    (tmp_path / "run.json").write_bytes(b"{")
    with pytest.raises(files.FileError, match=r"run\.json is not a JSON file"):
        run_dir.Run(tmp_path, MANIFEST)


def test_a_folder_that_cannot_be_made_is_an_error_with_the_remedy(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        OSError, match=r"Could not make the folder. Choose a place that"
    ):
        run_dir.Run(tmp_path / "file" / "run", MANIFEST)


def test_the_finished_ticket_is_written(tmp_path):
    run_dir.Run(tmp_path, MANIFEST).finish(ticket())
    assert (tmp_path / "ticket.safetensors").exists()
