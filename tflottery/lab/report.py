"""Report: one HTML file that says what an experiment or a search came to."""

from typing import Any

from tflottery import files
from tflottery.lab.experiment_report import experiment_page
from tflottery.lab.search_report import search_page


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
