"""Writes an experiment down, finished or not: results, figures and tables.

tflottery reproduce sparse_transfer --preset cpu --data_dir DATA --run_dir RUN
python benchmarks/transfer_figures.py RUN docs/results [--text docs/results/transfer.md]

With --text, what stands in that file between `<!-- NAME_PRESET -->` and `<!-- end -->`
is written anew: the verdicts, the number of seeds and cells, and the figure.
"""

import argparse
import functools
import json
import pathlib
import re

from tflottery.core import files
from tflottery.lab.report import experiment_report, figures, intervals, verdicts
from tflottery.lab.report import results as results_lib

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run_dir", type=pathlib.Path)
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--text", type=pathlib.Path)
arguments = parser.parse_args()

results = files.read_json(arguments.run_dir / "results.json")
header, rows = results["header"], results["rows"]
name = f"{header['experiment']}_{header['preset']}"
header["command"] = f"tflottery reproduce {header['experiment']}"
header["command"] += f" --preset {header['preset']} --data_dir DATA --run_dir RUN"


def slim(row: dict) -> str:
    """Returns a cell in one line, without what the tickets' masks say better."""
    row = {k: v for k, v in row.items() if k != "density_per_layer"}
    row["val_metrics"] = [round(v, 4) for v in row.get("val_metrics") or ()]
    return json.dumps(row)


def percent(found: intervals.Interval | None, sign: str = "") -> str:
    """Returns a mean of accuracies with its interval, in percent."""
    if found is None:
        return ""
    half = "" if found.half is None else f" ± {100 * found.half:.2f}"
    return f"{100 * found.mean:{sign}.2f}{half}"


def table(setting: results_lib.Setting, title: str) -> list[str]:
    """Returns the arms of a setting less dense, by density, as Markdown."""
    assert setting.dense is not None
    dense = intervals.interval(setting.dense.by_seed("metric").values())
    text = (
        f"Dense: {percent(dense)} % over {dense.count} seed{'s' * (dense.count > 1)}. "
    )
    curves = []
    for curve in setting.curves:
        if curve.arm == "dense":
            found = intervals.compare(curve.points[0], setting.dense).test
            start = figures.label(curve).capitalize()
            text += f"{start}: {percent(found, '+')} points. "
        else:
            curves.append(curve)
    lines = [f"## {title}", ""] if title else []
    text += (
        "The columns: test accuracy less dense of the same seed, in points, with 95 % "
        "intervals by Student's t."
    )
    names = [figures.label(curve, setting) for curve in curves]
    lines += [text, "", "| % left | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    by_density: dict[str, dict[str, str]] = {}
    for curve, column in zip(curves, names, strict=True):
        for point in curve.points:
            at = by_density.setdefault(f"{100 * point.density:.1f}", {})
            at[column] = percent(intervals.compare(point, setting.dense).test, "+")
    for density, cells in by_density.items():
        found = " | ".join(cells.get(column, "") for column in names)
        lines.append(f"| {density} | {found} |")
    return [*lines, ""]


settings = [s for s in results_lib.settings(results_lib.read(rows)) if s.dense]
title = functools.partial(experiment_report.setting_name, settings)
body = ",\n".join(map(slim, rows))
text = f'{{"header": {json.dumps(header, ensure_ascii=False)},\n"rows": [\n{body}\n]}}'
files.write(arguments.out / f"{name}.json", f"{text}\n".encode())
gain = figures.gain(settings)
pictures = {"gain": gain} if gain else {}
lines = [f"# Table of {header['experiment']}, preset {header['preset']}", ""]
for setting in settings:
    lines += table(setting, title(setting))
    if setting.regime != "frozen":
        size = setting.images_per_class
        end = f"_{size or 'all'}" if len(settings) > 1 else ""
        pictures[f"accuracy{end}"] = figures.accuracy(setting)
        if len(settings) == 1:
            pictures["steps"] = figures.steps_to_best(setting)
        pictures[f"cost{end}"] = figures.cost(setting)
for what, picture in pictures.items():
    if picture is not None:
        files.write(arguments.out / f"{name}_{what}.svg", picture.svg)
judged = verdicts.verdicts(
    settings, experiment_report.tolerance_of(header), experiment_report.setting_name
)
seeds = sorted({row["seed"] for row in rows})
state = "finished" if header["finished"] else "unfinished"
listed = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
verdict = [f"{len(rows)} cells, {listed}, {state}."] if judged else []
verdict += [f"- **{claim}**: {sentence}" for claim, sentence in judged]
files.write(arguments.out / f"{name}.md", ("\n".join(lines).rstrip() + "\n").encode())
if arguments.text:
    if gain:
        verdict = [f"![{gain.alt}]({name}_gain.svg)", "", *verdict]
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    block = "\n".join(verdict)
    text = arguments.text.read_text()
    assert marks.search(text), f"{arguments.text} has no <!-- {name} -->"
    text = marks.sub(lambda m: f"{m[1]}{block}\n{m[2]}", text)
    files.write(arguments.text, text.encode())
print("\n".join([*verdict, *lines]))
