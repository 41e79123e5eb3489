"""Every program through every step: it goes well, or says what is expected."""

import os
import re

import pytest
from making.programs import steps
from making.programs.catalogue import OK, PROGRAMS

pytestmark = pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow",
    reason="Their training steps are TensorFlow's.",
)
CASES = [(p, generation) for p in PROGRAMS.values() for generation in p.generations]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "generation"),
    [pytest.param(p, g, id=f"{p.name}-{g}") for p, g in CASES],
)
def test_a_program_goes_through_every_step(program, generation, tmp_path):
    if program.name == "keras_hub_backbone":
        pytest.importorskip("keras_hub")
    tested = [step for step in steps.STEPS if step not in program.untested]
    found = steps.outcomes(program.name, generation, tmp_path, tested)
    for step, outcome in found.items():
        wanted = program.expected.get(step, OK)
        wrong = f"{step}: {outcome}\nexpected: {wanted}"
        assert outcome == OK if wanted == OK else re.search(wanted, outcome), wrong
