"""Checks: the one place that says "`x` must be ... Received: x=...".

A `Kind` is a test together with the words for what passes it. `check` and the
functions after it check arguments; `fields` checks the fields of a record.
"""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a value must be: a test, and the end of the sentence "`x` must be ..."."""

    fits: Callable[[Any], Any]
    words: str


def is_number(value: Any) -> bool:
    """Returns whether `value` is a real number that fits a float, and not a bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_whole(value: Any) -> bool:
    """Returns whether `value` is a whole number of at least 0."""
    return is_number(value) and isinstance(value, numbers.Integral) and int(value) >= 0


NUMBER = Kind(is_number, "a number")
WHOLE = Kind(is_whole, "a whole number of at least 0")
SHARE = Kind(lambda v: is_number(v) and 0 <= v <= 1, "a number in [0, 1]")
POSITIVE = Kind(lambda v: is_number(v) and 0 < v < math.inf, "a finite number above 0")
TEXT = Kind(lambda v: isinstance(v, str), "a string")
BOOL = Kind(lambda v: isinstance(v, bool), "True or False")
DICT = Kind(lambda v: isinstance(v, Mapping), "a dict")


def or_none(kind: Kind) -> Kind:
    """Returns the kind that admits `None` too."""
    return Kind(lambda v: v is None or kind.fits(v), f"{kind.words}, or None")


def list_of(kind: Kind) -> Kind:
    """Returns the kind of a list or tuple whose items are each of `kind`."""
    return Kind(
        lambda v: isinstance(v, list | tuple) and all(map(kind.fits, v)),
        f"a list in which each item is {kind.words}",
    )


def dict_of(kind: Kind) -> Kind:
    """Returns the kind of a dict from strings to values of `kind`."""

    def fits(value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            isinstance(name, str) and kind.fits(item) for name, item in value.items()
        )

    return Kind(fits, f"a dict in which each value is {kind.words}")


def whole_from(low: int, high: float = math.inf) -> Kind:
    """Returns the kind of a whole number from `low` to `high`."""
    limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
    words = f"a whole number {limits}"
    return Kind(lambda v: is_whole(v) and low <= v <= high, words)


def inside_0_1(meaning: str) -> Kind:
    """Returns the kind of a number strictly between 0 and 1 that means `meaning`."""
    return Kind(
        lambda v: is_number(v) and 0 < v < 1,
        f"in (0, 1), both ends excluded: {meaning}",
    )


_TO_PRUNE = "the share of the remaining weights to prune"
TO_PRUNE = inside_0_1(_TO_PRUNE)


def one_of(choices: Sequence[str]) -> Kind:
    """Returns the kind of a string that is one of `choices`."""
    return Kind(
        lambda v: isinstance(v, str) and v in choices,
        f"one of {', '.join(map(repr, choices))}",
    )


def check(name: str, value: Any, kind: Kind) -> None:
    """Raises ValueError if an argument is of another kind.

    >>> check("steps", -1, WHOLE)
    Traceback (most recent call last):
    ...
    ValueError: `steps` must be a whole number of at least 0. Received: steps=-1
    """
    if not kind.fits(value):
        raise ValueError(f"`{name}` must be {kind.words}. Received: {name}={value!r}")


def fields(record: Any, kinds: Mapping[str, Kind]) -> None:
    """Raises ValueError if an attribute of `record` is of another kind."""
    for name, kind in kinds.items():
        value = getattr(record, name)
        if not kind.fits(value):
            raise ValueError(
                f"`{name}` of a {type(record).__name__} must be {kind.words}. "
                f"Received: {name}={value!r}"
            )


def whole(name: str, value: Any, at_least: int = 0, at_most: float = math.inf) -> int:
    """Returns a whole number as an int; ValueError if it is out of range."""
    check(name, value, whole_from(at_least, at_most))
    return int(value)


def fraction(name: str, value: Any, meaning: str = _TO_PRUNE) -> float:
    """Returns a number as a float; ValueError if it is not inside (0, 1)."""
    check(name, value, inside_0_1(meaning))
    return float(value)


def choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises ValueError if an argument is not one of a few strings."""
    check(name, value, one_of(choices))
