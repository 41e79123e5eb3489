"""Every example runs, as a reader would run it."""

import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from tflottery.cli import main

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


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # As for a reader.
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_prints_what_it_found(
    tmp_path, monkeypatch, capsys, example
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    assert "%" in capsys.readouterr().out


@pytest.mark.slow
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
    report = (tmp_path / "runs/demo/report.html").read_text()
    assert all(f"runs/demo/{name}" in report for name in names)


@pytest.mark.slow
def test_the_smoke_preset_reproduces_the_paper_on_digits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", "sparse_transfer", "--preset=smoke", "--seeds=1"]
    assert main.main(command) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "runs/sparse_transfer-smoke"
    results = json.loads((folder / "results.json").read_text())
    assert results["header"]["finished"]
    # Dense, and five arms at two densities: frozen or not, under two heads.
    assert len(results["rows"]) == (1 + 5 * 2) * 2 * 2
    assert "1 seed: no interval" in (folder / "report.html").read_text()
    assert str(folder / "report.html").endswith(out.split("Report: ")[1].strip())
