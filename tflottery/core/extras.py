"""Extras: packages that only a part of tflottery needs, installed on request."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed(extra: str, what: str) -> Iterator[None]:
    """Around imports: if one fails, names the extra that brings it.

    Raises:
        ImportError: If an import fails. Says that `what` needs `tflottery[extra]`.

    >>> with needed("plots", "A figure"):
    ...     import no_such_package
    Traceback (most recent call last):
    ImportError: A figure needs a package that is missing (No module named \
'no_such_package'). Run: pip install 'tflottery[plots]'
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{what} needs a package that is missing ({error}). Run: pip install "
            f"'tflottery[{extra}]'",
            name=error.name,
        ) from error
