"""report: writes the report of a run, one HTML file with plots and tables."""

import argparse
import importlib.util
from typing import Any


def define(parser: argparse.ArgumentParser) -> None:
    text = "folder of a `find` or a `reproduce`"
    parser.add_argument("run_dir", metavar="RUN_DIR", help=text)
    text = "file to write; default: RUN_DIR/report.html"
    parser.add_argument("--out", metavar="FILE", help=text)


def report(arguments: argparse.Namespace) -> None:
    """Writes the report of a run again: one HTML file with plots and tables."""
    from tflottery.lab.report import write

    print(write.report(arguments.run_dir, out=arguments.out))


def is_possible(command: str) -> bool:
    """Returns whether Matplotlib is there; if not, prints how `command` reports."""
    if importlib.util.find_spec("matplotlib"):
        return True
    print(f"For a report with plots: pip install 'tflottery[plots]' && {command}")
    return False


def print_report_of(run_dir: Any) -> None:
    """Writes the report of a run and prints its path."""
    if is_possible(f"tflottery report {run_dir}"):
        from tflottery.lab.report import write

        print(f"Report: {write.report(run_dir)}")
