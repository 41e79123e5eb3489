"""Extras: packages that only a part of tflottery needs, installed on request."""

import contextlib
from collections.abc import Iterator

BACKENDS = ("tensorflow", "jax", "torch")


def remedy(error: Exception) -> str:
    """Returns what to do if Keras could not import its backend, else nothing.

    >>> remedy(ModuleNotFoundError(name="jax"))
    ". Keras is set to it. Run: pip install jax, or set KERAS_BACKEND to 'tensorflow'"
    """
    missing = getattr(error, "name", None)
    if missing not in BACKENDS:
        return ""
    others = " or ".join(f"{name!r}" for name in BACKENDS[:2] if name != missing)
    return (
        f". Keras is set to it. Run: pip install {missing}, or set KERAS_BACKEND to "
        f"{others}"
    )


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
