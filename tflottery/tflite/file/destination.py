"""Destination: where a file is written, completely or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator


def destination(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the file that `path` points to, which need not exist; follows links.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If `path` is not a regular file.
    """
    final = pathlib.Path(path).resolve()
    if not final.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(final.parent)!r}. Received: path={path!r}"
        )
    if final.exists() and not final.is_file():
        raise ValueError(
            "`path` must be a regular file or not exist yet; a folder or a device is "
            f"never overwritten. Received: path={path!r}"
        )
    return final


@contextlib.contextmanager
def replacing(final: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary file that replaces `final` unless an error is raised."""
    temporary = final.with_name(f"{uuid.uuid4().hex}.tflite")
    # With the mode that this process gives to new files.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        if final.exists():
            temporary.chmod(final.stat().st_mode & 0o7777)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
