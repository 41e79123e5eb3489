"""Report: one HTML file that says what an experiment or a search came to."""

import itertools
import pathlib
from typing import Any

from tflottery.core import files
from tflottery.lab.report.experiment_report import experiment_page
from tflottery.lab.report.search_report import search_page

_MOST_BYTES = 64 * 2**20  # Of a JSON file: thousands of cells have a few megabytes.


def report(run_dir: Any, *, out: Any = None) -> Any:
    """Writes the report of a run and returns its path.

    The file needs nothing beside it and no network: figures are within it.

    Args:
        run_dir: a folder with the `results.json` of an experiment, or the `run_dir`
            of a search, finished or not; a path or a URL such as `gs://bucket/run`.
        out: the file to write; `None` is `report.html` in `run_dir`.

    Returns:
        The path of the file written.

    Raises:
        FileNotFoundError: where `run_dir` holds neither, or an unfinished experiment.
        FileError: (a ValueError) naming the file, and the value, that is damaged.
        ImportError: where Matplotlib is not installed.
    """
    path = files.path_of(run_dir)
    _check_files(path)
    if (path / "results.json").exists():
        html = experiment_page(path / "results.json")
    elif (path / "run.json").exists():
        html = search_page(path)
    else:
        if (path / "experiment.json").exists():
            raise FileNotFoundError(
                "`run_dir` holds an experiment that is not finished, so there is no "
                "results.json. Give the command that began it again: it goes on where "
                f"it stopped. Received: run_dir={str(path)!r}"
            )
        raise FileNotFoundError(
            f"`run_dir` holds neither results.json, which an experiment writes, nor "
            f"run.json, which a search writes. Received: run_dir={str(path)!r}"
        )
    target = path / "report.html" if out is None else files.path_of(out)
    files.write(target, html)
    return target


def _check_files(path: Any) -> None:
    """Checks that what is read of a local run ends, and fits in memory.

    Raises:
        FileError: naming a file that is a pipe, a device or far too large.
    """
    if not isinstance(path, pathlib.Path):
        return
    for file in itertools.chain(
        path.glob("*.json"), path.glob("*.safetensors"), path.glob("rounds/*.json")
    ):
        if file.exists() and not file.is_file():
            raise files.FileError(f"{file} is no regular file, so it is not read.")
        if file.suffix == ".json" and file.exists():
            size = file.stat().st_size
            if size > _MOST_BYTES:
                raise files.FileError(
                    f"{file} has {size:,} bytes; no run's has more than "
                    f"{_MOST_BYTES:,}, so it is not read."
                )
