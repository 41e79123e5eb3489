"""Every example runs, as a reader would run it."""

import os
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = sorted((pathlib.Path(__file__).parent.parent / "examples").glob("*.py"))


def run(command, folder):
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_prints_what_it_found(tmp_path, example):
    assert "%" in run([sys.executable, str(example)], tmp_path)


def test_the_demo_ends_with_files_that_answer_right(tmp_path):
    out = run([sys.executable, "-m", "tflottery", "demo"], tmp_path)
    names = {path.name for path in (tmp_path / "runs/demo").glob("*.tflite")}
    targets = {"size", "int8", "sparse_speed", "float16", "w8"}
    assert names == {f"student_{target}.tflite" for target in targets}
    accuracies = [
        float(line.split("test accuracy ")[1].split(" %")[0])
        for line in out.splitlines()
        if "test accuracy " in line
    ]
    assert len(accuracies) == 5
    assert max(accuracies) - min(accuracies) < 2
    assert min(accuracies) > 75
