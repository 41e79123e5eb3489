"""Every example runs, as a reader would run it."""

import dataclasses
import json
import pathlib
import re
import runpy
import sys

import pytest

from tflottery.cli import main
from tflottery.lab import recipes
from tflottery.lab.experiment import designs

EXAMPLES = sorted((pathlib.Path(__file__).parent.parent / "examples").glob("*.py"))


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
@pytest.mark.filterwarnings("default")
def test_the_demo_ends_with_files_that_answer_right(tmp_path, monkeypatch, capsys):
    digits = dataclasses.replace(recipes.recipe("digits"), target_sparsity=0.5)
    monkeypatch.setitem(recipes.RECIPES, "digits", digits)  # Fewer rounds.
    monkeypatch.chdir(tmp_path)
    assert main.main(["demo"]) == 0
    out = capsys.readouterr().out
    names = {path.name for path in (tmp_path / "runs/demo").glob("*.tflite")}
    targets = {"size", "int8", "sparse_speed", "float16", "w8"}
    assert names == {f"student_{target}.tflite" for target in targets}
    told = re.findall(r"test accuracy ([\d.]+) %", out)
    dense, ticket, random, *exported = map(float, told)
    assert len(exported) == 5
    assert max(ticket, *exported) - min(ticket, *exported) < 2
    assert min(dense, ticket, random) > 75
    words = [line.partition(":")[0] for line in out.splitlines()[-4:]]
    assert words == ["Found", "Smaller", "Kept", "Next"]
    report = (tmp_path / "runs/demo/report.html").read_text()
    assert all(f"runs/demo/{name}" in report for name in names)


@pytest.mark.slow
def test_the_smoke_preset_reproduces_the_paper_on_digits(tmp_path, monkeypatch, capsys):
    whole = designs.design("sparse_transfer", "smoke")
    quick = dataclasses.replace(whole, prunings=2, rounds=(2,), heads=("linear",))
    monkeypatch.setitem(designs.DESIGNS["sparse_transfer"], "smoke", quick)
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", "sparse_transfer", "--preset=smoke", "--seeds=1"]
    assert main.main(command) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "runs/sparse_transfer-smoke"
    results = json.loads((folder / "results.json").read_text())
    assert results["header"]["finished"]
    # Dense, and five arms: frozen or not.
    assert len(results["rows"]) == (1 + 5) * 2
    assert "1 seed: no interval" in (folder / "report.html").read_text()
    assert str(folder / "report.html").endswith(out.split("Report: ")[1].strip())
