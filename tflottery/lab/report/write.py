"""Report: one HTML file on an experiment or a search."""

import itertools
import pathlib
from typing import Any

from tflottery.core import files
from tflottery.lab.report.experiment_report import experiment_page
from tflottery.lab.report.search_report import search_page

_MOST_BYTES = 64 * 2**20  # Thousands of cells take a few megabytes of JSON.


def report(run_dir: Any, *, out: Any = None) -> Any:
    """Writes the report of a run and returns its path.

    The file contains its figures; it needs no other file and no network.

    `run_dir` is the folder of an experiment, or of a search, finished or not; `out` is
    the file to write, by default `report.html` there. Either may be a URL.

    Raises:
        FileNotFoundError: If `run_dir` holds neither, or an unfinished experiment.
        FileError: If a file is damaged (a ValueError); the message names it.
        ImportError: If Matplotlib is not installed.
    """
    path = files.path_of(run_dir)
    _check_files(path)
    if (path / "results.json").exists():
        html = experiment_page(path / "results.json")
    elif (path / "run.json").exists():
        html = search_page(path)
    elif (path / "experiment.json").exists():
        raise FileNotFoundError(
            "`run_dir` holds an experiment that is not finished: it has no "
            "results.json. Run the command that started it again to resume. "
            f"Received: run_dir={str(path)!r}"
        )
    else:
        raise FileNotFoundError(
            "`run_dir` holds neither results.json, which an experiment writes, nor "
            "run.json, which a search writes. Pass the folder of a run. Received: "
            f"run_dir={str(path)!r}"
        )
    target = path / "report.html" if out is None else files.path_of(out)
    files.write(target, html)
    return target


def _check_files(path: Any) -> None:
    """Checks that no file of a local run is a pipe, a device or far too large."""
    if not isinstance(path, pathlib.Path):
        return
    patterns = ("*.json", "*.safetensors", "rounds/*.json")
    for file in itertools.chain(*map(path.glob, patterns)):
        if not file.exists():  # A broken link.
            continue
        if not file.is_file():
            raise files.FileError(f"{file} is not a regular file, so it is not read.")
        size = file.stat().st_size
        if file.suffix == ".json" and size > _MOST_BYTES:
            raise files.FileError(
                f"{file} has {size:,} bytes, but no run writes more than "
                f"{_MOST_BYTES:,}, so it is not read."
            )
