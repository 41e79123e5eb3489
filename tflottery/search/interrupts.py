"""Interrupts: a search that is told to stop says how to go on.

Every finished epoch is already in the run directory, so there is nothing left to save.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def explained(folder: Any) -> Iterator[None]:
    """Prints how to resume when Ctrl-C or SIGTERM stops the search.

    Nothing can stop SIGTERM from ending the process then, except a handler that was
    set before: it stays in place. `folder` is the run directory, or `None`.
    """
    searching = os.getpid()

    def end(number: int, frame: Any) -> None:
        # An exception could be caught, and in a destructor it would be lost.
        signal.signal(number, signal.SIG_DFL)
        try:
            if os.getpid() == searching:  # Not in a worker process forked from it.
                say_how_to_resume(folder, "stopped by SIGTERM")
        finally:
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # Process 1 of a container ignores the signal.

    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        say_how_to_resume(folder, "interrupted")
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def say_how_to_resume(folder: Any, how: str) -> None:
    """Prints that the search was stopped, and how to resume it."""
    hint = "Nothing was saved; with a `run_dir` the next search could resume."
    if folder is not None:
        hint = (
            f"Every finished epoch is saved in {str(folder)!r}. To resume, repeat the "
            "call with this `run_dir`."
        )
    print(f"\nThe search was {how}. {hint}", file=sys.stderr, flush=True)
