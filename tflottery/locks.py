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

try:
    import fcntl
except ImportError:  # Windows has none; there a run directory is not locked.
    fcntl = None

_NAME = "lock"
_RENEW = 30.0
_ABANDONED = 180.0
_SETTLE = 0.5
_held_here: set[str] = set()


class LockError(RuntimeError):
    """A folder that another process, or another search in this one, is using."""


@contextlib.contextmanager
def held(folder: Any) -> Iterator[None]:
    """Holds the lock of a folder that exists.

    Args:
        folder: a `pathlib.Path`, or for an object store an `etils.epath.Path`.

    Raises:
        LockError: where somebody else holds it; it says who.
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
    with open(folder / _NAME, "a+", encoding="utf-8") as file:
        try:
            # Of a process, unlike flock: a child that outlives it holds nothing.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise _taken(folder, file.read() or "another process", True) from None
        file.truncate(0)
        file.write(_me())
        file.flush()
        yield


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
