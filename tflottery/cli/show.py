"""show: prints a ticket."""

import argparse
import pathlib
from typing import Any

from tflottery.core import files
from tflottery.search import run_dir


def define(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `show`."""
    text = "file of `Ticket.save`, or folder of a run"
    parser.add_argument("ticket", metavar="TICKET", help=text)


def show(arguments: argparse.Namespace) -> None:
    """Prints a ticket: its layers and the metric of each round."""
    from tflottery import load_ticket

    path = files.path_of(arguments.ticket)
    load_ticket(_ticket_of(path) if path.is_dir() else path).summary()


def _ticket_of(folder: Any) -> pathlib.Path:
    """Returns the path of the ticket of a run.

    Raises:
        FileNotFoundError: If the folder has no ticket.
    """
    path = folder / "ticket.safetensors"
    if path.exists():
        return path
    if run_dir.is_run(folder):
        raise FileNotFoundError(
            f"The search in {folder} has not finished, so there is no ticket yet. To "
            f"resume it, repeat its `tflottery find` with --run_dir={folder}. Its "
            f"finished rounds are {folder / 'rounds'}/000.ticket, 001.ticket, ..."
        )
    raise FileNotFoundError(
        f"{folder} contains no ticket.safetensors. Pass a file that `Ticket.save` "
        "wrote, or the --run_dir of a `tflottery find`."
    )
