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

from tflottery.core import files

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
_leases: "dict[str, _Lease]" = {}


class LockError(RuntimeError):
    """A folder that another process, or another search in this one, is using."""


@contextlib.contextmanager
def held(folder: Any) -> Iterator[None]:
    """Holds the lock of a folder that exists.

    Args:
        folder: a `pathlib.Path`, or for an object store an `etils.epath.Path`.

    Raises:
        LockError: where somebody else holds it; it says who.
        FileError: where the folder has a file of that name that is no lock.
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


def check(folder: Any) -> None:
    """Checks that a folder that is `held` has not been taken over meanwhile.

    Raises:
        LockError: where it has, as can happen in an object store; it says by whom.
    """
    if str(folder) in _leases:
        _leases[str(folder)].check()


def _taken(folder: Any, owner: str, local: bool) -> LockError:
    remedy = "Wait until it ends, stop it, or choose another folder."
    if not local:
        remedy += f" If it has died, its lock ends within {_ABANDONED:.0f} seconds."
    return LockError(f"`run_dir` {str(folder)!r} is in use by {owner}. {remedy}")


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _is_lock(data: bytes) -> bool:
    """Returns whether a file begins as a lock does, in a folder or in a store."""
    return not data or data.startswith((b"process ", b'{"owner": "process '))


def _foreign(path: Any) -> files.FileError:
    return files.FileError(
        f"{path} is no lock of tflottery's, which would overwrite it. Move it away, or "
        "choose another `run_dir`."
    )


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
            if not _is_lock(os.read(file, 1000)):
                raise _foreign(folder / _NAME)
            os.ftruncate(file, 0)
            os.pwrite(file, _me().encode(), 0)
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
    lease = _Lease(folder)
    lease.take()
    done = threading.Event()

    def keep() -> None:
        while not done.wait(_RENEW):
            # A store has errors of many kinds; what counts is that one try succeeds.
            with contextlib.suppress(Exception):
                lease.renew()

    thread = threading.Thread(target=keep, name="tflottery-lock", daemon=True)
    thread.start()
    _leases[str(folder)] = lease
    try:
        yield
    finally:
        _leases.pop(str(folder), None)
        done.set()
        thread.join()
        with contextlib.suppress(Exception):
            lease.end()


class _Lease:
    """The object that names the owner of a folder in an object store.

    Attributes:
        renewed: when it was written last.
        taken_by: who has it now, where another took it as it was not renewed; or "".
    """

    def __init__(self, folder: Any):
        self.renewed = 0.0
        self.taken_by = ""
        self._folder = folder
        self._path = folder / _NAME
        self._key = uuid.uuid4().hex

    def take(self) -> None:
        """Writes the object, where nobody else has it."""
        data = self._read()
        if not _is_lock(data):
            raise _foreign(self._path)
        found = _owner(data)
        if found and time.time() - found.get("time", 0) < _ABANDONED:
            raise _taken(self._folder, found.get("owner", "another process"), False)
        self._write()
        time.sleep(_SETTLE)  # Of two at once the later writer has it.
        found = _owner(self._read())
        if found.get("key") != self._key:
            raise _taken(self._folder, found.get("owner", "another process"), False)

    def renew(self) -> None:
        """Writes the object again, unless it is another's by now."""
        # One that cannot be seen may still be there: stores have bad moments.
        found = _owner(self._read())
        if found.get("key", self._key) != self._key:
            self.taken_by = found.get("owner", "another process")
        if not self.taken_by:
            self._write()

    def check(self) -> None:
        """Raises where the object is another's by now."""
        if not self.taken_by and time.time() - self.renewed > _ABANDONED:
            self.renew()  # The process slept, and its thread has not woken yet.
        if self.taken_by:
            raise LockError(
                f"`run_dir` {str(self._folder)!r} was taken over by {self.taken_by}, "
                f"as this search could not renew its lock for {_ABANDONED:.0f} "
                "seconds. Nothing more was written. Call again when the other ends."
            )

    def end(self) -> None:
        """Removes the object, unless it is another's by now."""
        if _owner(self._read()).get("key") == self._key:
            self._path.unlink()

    def _write(self) -> None:
        owner = {"owner": _me(), "key": self._key, "time": time.time()}
        self._path.write_bytes(json.dumps(owner).encode())
        self.renewed = time.time()

    def _read(self) -> bytes:
        with contextlib.suppress(OSError):
            return self._path.read_bytes() if self._path.exists() else b""
        return b""


def _owner(data: bytes) -> dict[str, Any]:
    """Returns what a lock in an object store says of its owner; empty for no lock."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
