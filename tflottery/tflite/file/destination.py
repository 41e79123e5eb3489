"""Destination: the file that a path to write stands for."""

from __future__ import annotations

import os
import pathlib


def destination(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the file that `path` points to, which need not exist; follows links.

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If its folder does not exist.
        ValueError: If `path` is not a regular file.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            '`path` must be the path of a file, such as "student.tflite". '
            f"Received: path={path!r}"
        )
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
