"""Locks: one search at a time in a run directory.

In a local folder the operating system holds the lock, and drops it when the process
ends, however it ends. In an object store the lock is an object that only one process
can create; a process that is killed leaves it behind, to be deleted by hand.
"""

import contextlib
import datetime
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import filelock

from tflottery.core import files

_NAME = "lock"


class LockError(RuntimeError):
    """Another search is using the folder."""


@contextlib.contextmanager
def held(folder: Any) -> Iterator[None]:
    """Holds the lock of a folder that exists.

    Args:
        folder: A `pathlib.Path`, or a `upath.UPath` in an object store.

    Raises:
        LockError: If another search holds it. Says who.
        FileError: If the folder has a file of that name that is not a lock.
        OSError: If the folder is not writable.
    """
    process = f"process {os.getpid()} on {socket.gethostname()}"
    lock = _local if isinstance(folder, pathlib.Path) else _remote
    with lock(folder / _NAME, process):
        yield


@contextlib.contextmanager
def _local(path: pathlib.Path, process: str) -> Iterator[None]:
    def sign(file: int) -> None:
        os.ftruncate(file, 0)
        os.write(file, process.encode())

    _owner(path)  # Raises if the file is somebody else's.
    lock = filelock.FileLock(path, blocking=False, on_acquired=sign)
    try:
        lock.acquire()
    except filelock.Timeout:
        owner = _owner(path)
        this = "another search in this process"
        raise _taken(path, this if owner == process else owner) from None
    except OSError as error:
        what = "Could not lock the folder"
        raise files.explained(error, what, path.parent) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _remote(path: Any, process: str) -> Iterator[None]:
    now = datetime.datetime.now(datetime.UTC)
    signature = f"{process} since {now.isoformat(' ')}"
    try:
        with path.fs.open(path.path, "xb") as file:  # Fails if it exists.
            file.write(signature.encode())
    except Exception as error:  # Stores raise different errors if the object exists.
        owner = _owner(path)
        if not owner:
            raise
        if owner != signature:  # Equal if the client retried a request that succeeded.
            remedy = f" If it was killed, delete {str(path)!r} by hand."
            raise _taken(path, owner, remedy) from error
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            if _owner(path) == signature:
                path.unlink()


def _owner(path: Any) -> str:
    """Returns who has signed a lock, or "" if it is missing or cannot be read."""
    try:
        owner = path.read_bytes()[:1000].decode(errors="replace")
    except OSError:
        return ""
    if owner and not owner.startswith("process "):
        raise files.FileError(
            f"{path} is not a lock of tflottery and would be overwritten. Move it "
            "away, or choose another `run_dir`."
        )
    return owner


def _taken(path: Any, owner: str, remedy: str = "") -> LockError:
    return LockError(
        f"`run_dir` {str(path.parent)!r} is in use by {owner or 'another process'}. "
        f"Wait until it ends, stop it, or choose another folder.{remedy}"
    )
