"""Records: every field of a round is checked when it is read."""

import numpy as np
import pytest

from tflottery.core.records import Round

GOOD = {
    "round": 0,
    "sparsity": 0.0,
    "density_per_layer": {"a": 1.0},
    "metrics": {"loss": float("nan")},
    "history": {"loss": [1.0, float("inf")]},
    "steps": 3,
}
WORDS = {
    "round": "a whole number of at least 0",
    "sparsity": "a number in [0, 1]",
    "density_per_layer": "a dict in which each value is a number in [0, 1]",
    "metrics": "a dict in which each value is a number",
    "history": "a dict in which each value is a list in which each item is a number",
    "steps": "a whole number of at least 0",
    "seconds": "a number, or None",
    "failure": "a string, or None",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("round", v) for v in (-1, 0.0, "0", True, None)),
        *(("sparsity", v) for v in (-0.1, 1.1, float("nan"), "0", None)),
        *(("density_per_layer", v) for v in ([], {"a": "1"}, {1: 1.0}, None)),
        *(("metrics", v) for v in ({"loss": None}, {"loss": 10**400}, "loss")),
        *(("history", v) for v in ({"loss": 1.0}, {"loss": "11"}, {"loss": [None]})),
        *(("steps", v) for v in (-1, 1.5)),
        *(("seconds", v) for v in ("1", [1])),
        *(("failure", v) for v in (1, False)),
    ],
)
def test_a_field_of_another_kind_is_an_error(name, value):
    with pytest.raises(ValueError, match=f"^`{name}` of a Round must be ") as caught:
        Round.read(GOOD | {name: value})
    words, received = str(caught.value).split(" must be ")[1].split(". Received: ")
    assert words == WORDS[name]
    assert received == f"{name}={value!r}"


def test_numbers_may_be_numpys():
    Round.read(GOOD | {"steps": np.int64(3), "metrics": {"loss": np.float32(0.5)}})
