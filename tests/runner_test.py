"""tests/runner.py fails if pytest fails or if there is nothing to test."""

import pathlib
import subprocess
import sys

import pytest

RUNNER = pathlib.Path(__file__).absolute().with_name("runner.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("def test_fact(): assert True", pytest.ExitCode.OK),
        ("def test_fact(): assert False", pytest.ExitCode.TESTS_FAILED),
        ("def test_fact():\n    import warnings; warnings.warn('x')", 1),
        ("", pytest.ExitCode.NO_TESTS_COLLECTED),
    ],
    ids=["passing", "failing", "warning", "empty"],
)
def test_the_runner_exits_with_pytests_status(
    tmp_path: pathlib.Path, text: str, status: int
):
    file = tmp_path / "fact_test.py"
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, str(RUNNER), str(file)]
    assert subprocess.run(command, capture_output=True).returncode == status


def test_the_runner_wants_a_file():
    answer = subprocess.run(
        [sys.executable, str(RUNNER)], capture_output=True, text=True
    )
    assert answer.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Name at least one test file" in answer.stderr
