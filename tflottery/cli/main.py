"""The `tflottery` command: reads the words of a command line, calls a verb, prints."""

import difflib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

USAGE = """\
Lottery tickets in Keras: find, transfer and export sparse networks.

Usage: tflottery COMMAND [ARGUMENTS] [--flag=value ...]

Commands:
{commands}

`tflottery COMMAND --help` lists the flags of a command.
"""


class Command:
    """One command: its name, its line in the help, its flags, and what it runs.

    Args:
        run: called with the parsed flags and the positional arguments; its docstring's
            first line is the help's.
        define: called with a `FlagValues` to put flags in.
        arguments: the names of the positional arguments, as the usage shows them.
    """

    def __init__(
        self,
        run: Callable[[Any, Sequence[str]], None],
        define: Callable[[flags.FlagValues], Any] | None = None,
        arguments: Sequence[str] = (),
    ):
        self.run = run
        self.name = run.__name__
        self.summary = (run.__doc__ or "").splitlines()[0]
        self.arguments = tuple(arguments)
        self.define = define

    def _flags(self) -> flags.FlagValues:
        values = flags.FlagValues()
        if self.define is not None:
            self.define(values)
        return values

    def help(self) -> str:
        """Returns the help text of the command."""
        words = ["tflottery", self.name, *self.arguments, "[--flag=value ...]"]
        text = f"{self.summary}\n\nUsage: {' '.join(words)}\n"
        details = textwrap.dedent("\n".join((self.run.__doc__ or "").splitlines()[1:]))
        if details.strip():
            text += f"\n{details.strip()}\n"
        values = self._flags()
        names = sorted(values)
        if names:
            text += "\nFlags:\n"
        for name in names:
            flag = values[name]
            default = "" if flag.default is None else f" Default: {flag.default}."
            text += textwrap.fill(
                f"{flag.help}{default}",
                width=88,
                initial_indent=f"  --{name:<17} ",
                subsequent_indent=" " * 22,
            )
            text += "\n"
        return text

    def call(self, words: Sequence[str]) -> None:
        """Parses the words after the command's name, and runs it.

        Raises:
            UsageError: for words that are not the command's.
        """
        values = self._flags()
        try:
            _, *arguments = values([self.name, *words])
        except flags.Error as error:
            raise UsageError(f"{error} See `tflottery {self.name} --help`.") from error
        if len(arguments) != len(self.arguments):
            wanted = " ".join(self.arguments) or "no argument"
            raise UsageError(
                f"`tflottery {self.name}` takes {wanted}. "
                f"Received: {' '.join(arguments) or 'nothing'}. "
                f"See `tflottery {self.name} --help`."
            )
        self.run(values, arguments)


class UsageError(Exception):
    """A command line that cannot be read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status.

    0 is success, 1 an error that the message explains, 2 a command line that cannot be
    read, 130 an interrupt.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tflottery.cli import commands, demo, edge

    every = (*commands.BASIC, *edge.EDGE, *demo.DEMO)
    table = {command.name: command for command in every}

    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("--help", "-h", "-help", "help"):
            lines = [f"  {name:<10} {c.summary}" for name, c in table.items()]
            print(USAGE.format(commands="\n".join(lines)), end="")
            return 0
        if words[0] == "--version":
            from tflottery import __version__

            print(f"tflottery {__version__}")
            return 0
        if words[0] not in table:
            near = difflib.get_close_matches(words[0], table, n=1)
            raise UsageError(
                f"There is no command {words[0]!r}. The commands are: "
                f"{', '.join(table)}." + (f" Did you mean {near[0]!r}?" if near else "")
            )
        command = table[words[0]]
        if any(word in ("--help", "-h", "-help") for word in words[1:]):
            print(command.help(), end="")
            return 0
        command.call(words[1:])
    except UsageError as error:
        print(f"tflottery: {error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("TFLOTTERY_TRACEBACK"):
            raise
        print(f"tflottery: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tflottery: stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
