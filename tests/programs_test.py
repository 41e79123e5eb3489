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
QUICK = tuple(step for step in steps.STEPS if step != "export")
CASES = [(p, generation) for p in PROGRAMS.values() for generation in p.generations]


def check(program, generation, tmp_path, names):
    if program.name == "keras_hub_backbone":
        pytest.importorskip("keras_hub")
    found = steps.outcomes(program.name, generation, tmp_path, names)
    for step, outcome in found.items():
        wanted = program.expected.get(step, OK)
        wrong = f"{step}: {outcome}\nexpected: {wanted}"
        assert outcome == OK if wanted == OK else re.search(wanted, outcome), wrong


@pytest.mark.parametrize(
    ("program", "generation"),
    [
        pytest.param(
            program,
            generation,
            id=f"{program.name}-{generation}",
            marks=[pytest.mark.slow] if program.slow else [],
        )
        for program, generation in CASES
    ],
)
def test_a_program_goes_through_every_step_but_export(program, generation, tmp_path):
    check(program, generation, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "generation"),
    [pytest.param(p, g, id=f"{p.name}-{g}") for p, g in CASES],
)
def test_a_searched_program_is_exported(program, generation, tmp_path):
    check(program, generation, tmp_path, ("export",))
