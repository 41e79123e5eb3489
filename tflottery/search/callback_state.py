"""Callbacks: saves what the user's callbacks remember, so that a round can resume.

`EarlyStopping`, for example, counts the epochs without improvement and keeps the best
weights. In a new process its callback would know neither.
"""

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# No strings: they name files, and a run directory may come from somebody else.
_NUMBERS = (int, float, type(None), np.generic)
_SET_BY_FIT = ("model", "_model", "params")


_REFUSED = {
    "BackupAndRestore": "would load its own file over what the search restores. Use "
    "`run_dir`, which resumes after the last finished epoch",
    "SwapEMAWeights": "would swap averages of an earlier round into the weights. Leave "
    "it out: with `use_ema`, every round ends with the averages",
}


def check(callbacks: Sequence[Any]) -> None:
    """Checks that the callbacks can be told of several trainings.

    Raises:
        ValueError: If one keeps a state that a rewind would break. Says what to use.
    """
    for callback in callbacks:
        for name in (base.__name__ for base in type(callback).__mro__):
            if name in _REFUSED:
                raise ValueError(f"`callbacks` has a {name}, which {_REFUSED[name]}.")


@contextlib.contextmanager
def one_round(
    callbacks: Sequence[Any], numbers: Sequence[Mapping], *, number: int, midway: bool
) -> Iterator[None]:
    """Prepares callbacks that expect a single training for one of several.

    In it a `CSVLogger` goes on with its file, a `TensorBoard` writes to a folder of the
    round's own, and `ModelCheckpoint` looks for the best epoch of each round.

    Args:
        callbacks: Keras callbacks.
        numbers: What `numbers_in` told of them when the search began.
        number: The number of the round.
        midway: Whether the round goes on after an interruption.
    """
    changed = []
    for callback, given in zip(callbacks, numbers, strict=True):
        names = {base.__name__ for base in type(callback).__mro__}
        if "CSVLogger" in names and (midway or number > 0):
            changed.append((callback, "append", callback.append))
            callback.append = True
        if "TensorBoard" in names:
            changed.append((callback, "log_dir", callback.log_dir))
            callback.log_dir = os.path.join(callback.log_dir, f"round_{number:03d}")
        if "ModelCheckpoint" in names and "best" in given and not midway:
            callback.best = given["best"]
    try:
        yield
    finally:
        for callback, name, value in changed:
            setattr(callback, name, value)


def numbers_in(callbacks: Sequence[Any]) -> list[dict]:
    """Returns the numbers in each callback's attributes.

    Attributes with the name of one of the constructor's arguments are left out.

    >>> class Stop:
    ...     def __init__(self, patience):
    ...         self.patience, self.wait = patience, 2
    >>> numbers_in([Stop(3)])
    [{'wait': 2}]
    """
    return [
        {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in _state(callback, vars(callback)).items()
            if isinstance(value, _NUMBERS)
        }
        for callback in callbacks
    ]


def unchanged(callbacks: Sequence[Any], numbers: Sequence[Mapping]) -> list[dict]:
    """Returns those of the `numbers` that have not changed since."""
    return [
        {
            name: value
            for name, value in before.items()
            if name in now and now[name] == value
        }
        for before, now in zip(numbers, numbers_in(callbacks), strict=True)
    ]


def remembered(
    callbacks: Sequence[Any], settings: Sequence[Mapping] = ()
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Returns the numbers and the lists of arrays in each callback's attributes.

    Args:
        callbacks: Keras callbacks.
        settings: Numbers that have not changed since the search began. They are left
            out, because the call that resumes may set them differently.

    >>> class Stop:
    ...     wait, best_weights = 0, None
    >>> stop = Stop()
    >>> stop.wait, stop.best_weights = 2, [np.ones(3)]
    >>> remembered([stop])
    ([{'wait': 2}], {'callbacks/0/best_weights/00000': array([1., 1., 1.])})
    """
    kept = unchanged(callbacks, settings or [{}] * len(callbacks))
    numbers = [
        {name: value for name, value in now.items() if name not in still}
        for now, still in zip(numbers_in(callbacks), kept, strict=True)
    ]
    arrays: dict[str, np.ndarray] = {}
    for index, callback in enumerate(callbacks):
        for name, value in _state(callback, vars(callback)).items():
            if isinstance(value, list):
                prefix = f"callbacks/{index}/{name}/"
                arrays |= {f"{prefix}{i:05d}": a for i, a in enumerate(value)}
    return numbers, arrays


def remind(
    callbacks: Sequence[Any], numbers: Sequence[Mapping], arrays: Mapping
) -> None:
    """Sets in the callbacks what `remembered` returned, and nothing else."""
    for index, (callback, plain) in enumerate(zip(callbacks, numbers, strict=False)):
        prefix = f"callbacks/{index}/"
        lists: dict[str, list] = {}
        for path in sorted(path for path in arrays if path.startswith(prefix)):
            name = path.removeprefix(prefix).split("/")[0]
            lists.setdefault(name, []).append(arrays[path])
        for name, value in _state(callback, {**plain, **lists}).items():
            setattr(callback, name, value)


def _state(callback: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the `values` by name that a callback remembers."""
    # The call that resumes passes the constructor's arguments again. EarlyStopping
    # negates its `min_delta`, which must not happen twice.
    given = inspect.signature(type(callback)).parameters
    return {
        name: value
        for name, value in values.items()
        if name not in given
        and name not in _SET_BY_FIT
        and _can_be_kept(value)
        # A number must not replace a method or a string.
        and _can_be_kept(inspect.getattr_static(callback, name, None))
    }


def _can_be_kept(value: Any) -> bool:
    return isinstance(value, _NUMBERS) or (
        isinstance(value, list) and all(isinstance(a, np.ndarray) for a in value)
    )
