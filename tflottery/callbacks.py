"""Callbacks: what a user's callbacks remember, so that a round can go on with it.

`EarlyStopping` counts epochs without gain and keeps the best weights, and a round that
is taken up again starts with callbacks that know of neither.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PLAIN = (int, float, str, type(None))
_OF_FIT = ("model", "_model", "params")  # `fit` sets these itself.


def remembered(callbacks: Sequence[Any]) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Returns what each callback holds in attributes, numbers and lists of arrays.

    What has the name of an argument that it is made with does not count.

    >>> class Stop:
    ...     wait, best_weights = 0, None
    >>> stop = Stop()
    >>> stop.wait, stop.best_weights = 2, [np.ones(3)]
    >>> remembered([stop])
    ([{'wait': 2}], {'callbacks/0/best_weights/00000': array([1., 1., 1.])})
    """
    numbers: list[dict] = []
    arrays: dict[str, np.ndarray] = {}
    for index, callback in enumerate(callbacks):
        plain = {}
        # The call gives again what a callback is made with; and EarlyStopping turns
        # its `min_delta` around, which must not happen twice.
        given = inspect.signature(type(callback)).parameters
        for name, value in vars(callback).items():
            if name in given or name in _OF_FIT:
                continue
            if isinstance(value, np.generic):
                value = value.item()
            if isinstance(value, _PLAIN):
                plain[name] = value
            elif _is_arrays(value):
                prefix = f"callbacks/{index}/{name}/"
                arrays |= {f"{prefix}{i:05d}": a for i, a in enumerate(value)}
        numbers.append(plain)
    return numbers, arrays


def remind(
    callbacks: Sequence[Any], numbers: Sequence[Mapping], arrays: Mapping
) -> None:
    """Gives the callbacks back what `remembered` found in them."""
    for index, (callback, plain) in enumerate(zip(callbacks, numbers, strict=False)):
        for name, value in plain.items():
            setattr(callback, name, value)
        prefix = f"callbacks/{index}/"
        lists: dict[str, list] = {}
        for path in sorted(path for path in arrays if path.startswith(prefix)):
            name = path.removeprefix(prefix).split("/")[0]
            lists.setdefault(name, []).append(arrays[path])
        for name, values in lists.items():
            setattr(callback, name, values)


def _is_arrays(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(a, np.ndarray) for a in value)
    )
