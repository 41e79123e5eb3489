"""Locks: one process at a time in a run directory.

In a local folder the lock is the kernel's, which lets go of it when the process ends,
however that ends. An object store has no such lock; there a small object names the
owner, who renews it, and one that is not renewed any more counts for nothing.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from tflottery import files

try:
    import fcntl
except ImportError:  # Windows has none; there a run directory is not locked.
    fcntl = None

_NAME = "lock"
_RENEW = 30.0
_ABANDONED = 180.0
_SETTLE = 0.5
_held_here: set[str] = set()
_open_here: set[int] = set()


class LockError(RuntimeError):
    """A folder that another process, or another search in this one, is using."""


@contextlib.contextmanager
def held(folder: Any) -> Iterator[None]:
    """Holds the lock of a folder that exists.

    Args:
        folder: a `pathlib.Path`, or for an object store an `etils.epath.Path`.

    Raises:
        LockError: where somebody else holds it; it says who.
        OSError: where the folder cannot be written; it says so.
    """
    local = isinstance(folder, pathlib.Path)
    name = str(folder.resolve()) if local else str(folder)
    if name in _held_here:
        raise _taken(folder, "another search in this process", local)
    _held_here.add(name)
    try:
        with _held_locally(folder) if local else _held_remotely(folder):
            yield
    finally:
        _held_here.discard(name)


def _taken(folder: Any, owner: str, local: bool) -> LockError:
    remedy = "Wait until it ends, stop it, or choose another folder."
    if not local:
        remedy += f" If it has died, its lock ends within {_ABANDONED:.0f} seconds."
    return LockError(f"`run_dir` {str(folder)!r} is in use by {owner}. {remedy}")


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextlib.contextmanager
def _held_locally(folder: pathlib.Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    # Of this opening of the file, unlike lockf, whose lock is gone once the process
    # closes any other, as where somebody copies the folder. A child has it too, until
    # `_let_go`.
    try:
        file = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise files.explained(error, "Could not lock the folder", folder) from error
    _open_here.add(file)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.write(file, _me().encode())
        except BlockingIOError:
            owner = os.read(file, 1000).decode(errors="replace")
            raise _taken(folder, owner or "another process", True) from None
        except OSError as error:
            raise files.explained(error, "Could not lock the folder", folder) from error
        yield
    finally:
        if file in _open_here:
            _open_here.remove(file)
            os.close(file)


def _let_go() -> None:
    """Closes the locks in a child, which may outlive its parent."""
    while _open_here:
        os.close(_open_here.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def _held_remotely(folder: Any) -> Iterator[None]:
    path, key = folder / _NAME, uuid.uuid4().hex

    def renew() -> None:
        owner = {"owner": _me(), "key": key, "time": time.time()}
        path.write_bytes(json.dumps(owner).encode())

    def owner() -> dict[str, Any]:
        try:
            return json.loads(path.read_bytes()) if path.exists() else {}
        except (ValueError, OSError):
            return {}

    found = owner()
    if found and time.time() - found.get("time", 0) < _ABANDONED:
        raise _taken(folder, found.get("owner", "another process"), False)
    renew()
    time.sleep(_SETTLE)  # Of two at once the later writer has it.
    found = owner()
    if found.get("key") != key:
        raise _taken(folder, found.get("owner", "another process"), False)
    done = threading.Event()

    def keep() -> None:
        while not done.wait(_RENEW):
            with contextlib.suppress(OSError):
                renew()

    thread = threading.Thread(target=keep, name="tflottery-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()
