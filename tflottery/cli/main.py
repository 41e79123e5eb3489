"""The `tflottery` command: parses a command line, runs a command, reports errors."""

import argparse
import difflib
import functools
import os
import sys
from collections.abc import Iterable, Sequence

import tflottery
from tflottery.cli import data, demo, edge, find, report, reproduce, show
from tflottery.core import extras

# What runs each command, and what defines its arguments.
_COMMANDS = (
    (find.find, find.define),
    (show.show, show.define),
    (data.data, data.define),
    (reproduce.reproduce, reproduce.define),
    (report.report, report.define),
    (edge.export, edge.define_export),
    (edge.evaluate, edge.define_evaluate),
    (edge.benchmark, edge.define_benchmark),
    (demo.demo, demo.define),
)
_formatter = functools.partial(argparse.HelpFormatter, max_help_position=18)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line: the words after `tflottery`, by default this process's.

    Returns the exit status: 0 for success, 1 for an error that the message explains,
    130 for an interrupt. `--help`, `--version` and an invalid line raise SystemExit.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = _parse(list(sys.argv[1:] if argv is None else argv))
    try:
        arguments.run(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("TFLOTTERY_TRACEBACK"):
            raise
        print(f"tflottery: {error}{extras.remedy(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tflottery: stopped.", file=sys.stderr)
        return 130
    return 0


def _parse(words: list[str]) -> argparse.Namespace:
    """Returns the arguments, with the function to call with them as `run`."""
    parser = argparse.ArgumentParser(
        prog="tflottery",
        formatter_class=_formatter,
        add_help=False,
        description="Finds, transfers and exports lottery tickets: sparse networks in "
        "Keras that train to the accuracy of dense ones.",
        usage="tflottery COMMAND [ARGUMENT ...] [--flag=value ...]",
    )
    version = f"tflottery {tflottery.__version__}"
    parser.add_argument("--version", action="version", version=version)
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(
        title="commands",
        metavar="COMMAND --help",
        help="describe a command and its flags",
        prog="tflottery",
    )
    for run, define in _COMMANDS:
        summary, *details = (run.__doc__ or "").splitlines()
        command = commands.add_parser(
            run.__name__,
            help=summary,
            description=f"{summary} {' '.join(details)}",
            formatter_class=_formatter,
            add_help=False,
        )
        command.set_defaults(run=run)
        define(command)
    for each in (parser, *commands.choices.values()):
        each.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    known = [*commands.choices, "help"]
    if words and not words[0].startswith("-") and words[0] not in known:
        parser.error(
            f"There is no command {words[0]!r}. The commands are: "
            f"{', '.join(commands.choices)}.{_suggestion(words[0], known)}"
        )
    arguments, unknown = parser.parse_known_args([] if words == ["help"] else words)
    if unknown:
        flags = [f"--{name}" for name in vars(arguments)]
        commands.choices.get(words[0], parser).error(
            f"unknown argument: {unknown[0]}.{_suggestion(unknown[0], flags)}"
        )
    return arguments


def _suggestion(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word.partition("=")[0], list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


if __name__ == "__main__":
    sys.exit(main())
