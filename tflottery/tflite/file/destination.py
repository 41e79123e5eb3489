"""The destination: which file a path to write stands for."""

from __future__ import annotations

import os
import pathlib


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
