"""show: prints a ticket."""

import argparse

from tflottery.core import files
from tflottery.search import run_dir


def define(parser: argparse.ArgumentParser) -> None:
    text = "file of `Ticket.save`, or folder of a run"
    parser.add_argument("ticket", metavar="TICKET", help=text)


def show(arguments: argparse.Namespace) -> None:
    """Prints a ticket: its layers and the metric of each round."""
    from tflottery import load_ticket

    folder = path = files.path_of(arguments.ticket)
    if folder.is_dir():
        path = folder / "ticket.safetensors"
        if not path.exists() and run_dir.is_run(folder):
            raise FileNotFoundError(
                f"The search in {folder} has not finished, so there is no ticket yet. "
                f"To resume it, repeat its `tflottery find` with --run_dir={folder}. "
                f"Its finished rounds are {folder / 'rounds'}/000.ticket, 001.ticket, "
                "..."
            )
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path}. Pass a file that `Ticket.save` wrote, or the "
            "--run_dir of a `tflottery find`."
        )
    load_ticket(path).summary()
