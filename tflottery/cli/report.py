"""report: writes the report of a run, one HTML file with plots and tables."""

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any


def define(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `report`."""
    text = "folder of a `find` or a `reproduce`"
    parser.add_argument("run_dir", metavar="RUN_DIR", help=text)
    text = "file to write; default: RUN_DIR/report.html"
    parser.add_argument("--out", metavar="FILE", help=text)


def report(arguments: argparse.Namespace) -> None:
    """Writes the report of a run again: one HTML file with plots and tables."""
    from tflottery.lab.report import write

    print(write.report(arguments.run_dir, out=arguments.out))


def print_report(command: str, write: Callable[[], Any]) -> None:
    """Writes a report and prints its path, or how to get it if Matplotlib is missing.

    Args:
        command: The words after `tflottery` that write the report later.
        write: Writes the report and returns its path.
    """
    if importlib.util.find_spec("matplotlib"):
        print(f"Report: {write()}")
    else:
        print(
            "For a report with plots: pip install 'tflottery[plots]' && tflottery "
            f"{command}"
        )


def print_report_of(run_dir: Any) -> None:
    """Writes the report of a run and prints its path."""
    from tflottery.lab.report import write

    print_report(f"report {run_dir}", lambda: write.report(run_dir))
