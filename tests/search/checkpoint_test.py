"""Checkpoints: what a header keeps comes back, and nothing else is taken for one."""

import json

import pytest

from tests.ticket_test import record
from tflottery.search.checkpoint import Checkpoint


def test_a_checkpoint_comes_back_from_its_header():
    at = Checkpoint(round=2, epoch=1, step=7, record=record(2), steps_per_epoch=4)
    header = json.loads(json.dumps(at.header()))
    assert Checkpoint.read(header).header() == at.header()
    assert Checkpoint.read(header).record == record(2)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"x": 1}, TypeError),
        ({"epoch": -1}, ValueError),
        ({"callbacks": ["abc"]}, ValueError),
        ({"history": {"loss": 1.0}}, ValueError),
        ({"record": {"round": 0}}, TypeError),
        ({"record": 5}, ValueError),
    ],
)
def test_what_is_no_header_is_an_error(header, error):
    with pytest.raises(error):
        Checkpoint.read({"round": 2, "epoch": 1, "step": 7, **header})
