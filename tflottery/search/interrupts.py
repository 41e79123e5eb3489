"""Stops: a search that is told to end says how to go on, and loses nothing.

All finished epochs are in the run directory already, so there is nothing to save.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_EXIT = 128 + signal.SIGTERM
_AGAIN = 2.0


@contextlib.contextmanager
def explained(folder: Callable[[], Any]) -> Iterator[None]:
    """Has Ctrl-C and SIGTERM say how to go on; SIGTERM then exits with 143.

    A handler of SIGTERM that somebody else has set stays.

    Args:
        folder: returns where the search is kept; `None` where it is not.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    again = threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGTERM))
    again.daemon = True

    def leave(number: int, frame: Any) -> NoReturn:
        # What is raised in a destructor or a collector's callback is lost.
        if not again.ident:
            again.start()
        raise SystemExit(_EXIT)

    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:
        _say(folder(), "interrupted")
        raise
    except SystemExit as stop:
        if stop.code == _EXIT:
            _say(folder(), "stopped by SIGTERM")
        raise
    finally:
        again.cancel()
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _say(folder: Any, how: str) -> None:
    if folder is None:
        text = "Nothing was kept; give a `run_dir` and the next search can go on."
    else:
        text = (
            f"Every finished epoch is in {str(folder)!r}: the same call with this "
            "`run_dir` goes on from there."
        )
    print(f"\nThe search was {how}. {text}", file=sys.stderr, flush=True)
