"""The destination: where a file is written, complete or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator


def destination(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the regular file that `path` means, there or not yet; links are followed.

    Raises:
      FileNotFoundError: If its folder does not exist.
      ValueError: If something else than a regular file is there.
    """
    final = pathlib.Path(path).resolve()
    if not final.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(final.parent)!r}. Received: path={path!r}"
        )
    if final.exists() and not final.is_file():
        raise ValueError(
            "`path` must be a regular file, or none yet: a folder or a device is "
            f"not written over. Received: path={path!r}"
        )
    return final


@contextlib.contextmanager
def replacing(final: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary file beside `final`, which takes its place if all went well."""
    temporary = final.with_name(f"{uuid.uuid4().hex}.tflite")
    # Made like any new file, for the mode that the process gives those.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        if final.exists():
            temporary.chmod(final.stat().st_mode & 0o7777)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
