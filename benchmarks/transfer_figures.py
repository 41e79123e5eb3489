"""Writes a finished experiment down: results, figures and a table for docs/results/.

tflottery reproduce sparse_transfer --preset cpu --data_dir DATA --run_dir RUN
python benchmarks/transfer_figures.py RUN docs/results
"""

import argparse
import pathlib

from tflottery.core import files
from tflottery.lab.report import figures, intervals
from tflottery.lab.report import results as results_lib

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run_dir", type=pathlib.Path)
parser.add_argument("out", type=pathlib.Path)
arguments = parser.parse_args()

results = files.read_json(arguments.run_dir / "results.json")
header, rows = results["header"], results["rows"]
name = f"{header['experiment']}_{header['preset']}"
# A dozen layers in a hundred cells: the tickets' masks say it better.
slim = [{k: v for k, v in r.items() if k != "density_per_layer"} for r in rows]
files.write_json(arguments.out / f"{name}.json", results | {"rows": slim})


def percent(found: intervals.Interval | None, sign: str = "") -> str:
    """Returns a mean of accuracies with its interval, in percent."""
    if found is None:
        return ""
    half = "" if found.half is None else f" ± {100 * found.half:.2f}"
    return f"{100 * found.mean:{sign}.2f}{half}"


(setting,) = results_lib.settings(results_lib.read(rows))
for what, picture in (
    ("accuracy", figures.accuracy(setting)),
    ("steps", figures.steps_to_best(setting)),
):
    if picture is not None:
        files.write(arguments.out / f"{name}_{what}.svg", picture.svg)
assert setting.dense is not None
dense = intervals.interval(setting.dense.by_seed("metric").values())
names = [figures.label(curve, setting) for curve in setting.curves]
lines = [
    f"# Table of {header['experiment']}, preset {header['preset']}",
    "",
    f"Dense: {percent(dense)} % over {dense.count} seeds. The columns: test accuracy "
    "less dense of the same seed, in points, with 95 % intervals by Student's t.",
    "",
    "| % left | " + " | ".join(names) + " |",
    "|---" * (len(names) + 1) + "|",
]
for points in zip(*(curve.points for curve in setting.curves), strict=True):
    differences = [
        percent(intervals.compare(point, setting.dense).test, "+") for point in points
    ]
    lines.append(f"| {100 * points[0].density:.1f} | {' | '.join(differences)} |")
files.write(arguments.out / f"{name}.md", ("\n".join(lines) + "\n").encode())
print("\n".join(lines))
