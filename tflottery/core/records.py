"""Records: what the rounds of a search came to, as plain data that is checked."""

import dataclasses
import importlib.metadata
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_LIBRARIES = ("keras", "tensorflow", "tf_keras", "tensorflow-model-optimization")
_LIBRARIES += ("jax", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of training came to.

    Attributes:
        round: its number; round 0 is the dense network.
        sparsity: the share of masked weights that are zero, in [0, 1].
        density_per_layer: the share kept by path, each in [0, 1].
        metrics: the metrics after the round by name, with `val_` before those on
            validation data.
        history: the logs of each epoch by name, as `keras.callbacks.History`.
        steps: optimizer steps trained.
        seconds: time taken; `None` in a ticket read from a file, as equal searches
            write equal files.
        failure: why the round does not count, or `None`.

    Raises:
        ValueError: for a value that is not of its kind, as from a damaged file.
    """

    round: int
    sparsity: float
    density_per_layer: Mapping[str, float]
    metrics: Mapping[str, float]
    history: Mapping[str, Sequence[float]]
    steps: int
    seconds: float | None = None
    failure: str | None = None

    def __post_init__(self):
        fits = {
            "round": is_whole(self.round),
            "sparsity": is_number(self.sparsity) and 0 <= self.sparsity <= 1,
            "density_per_layer": is_dict(self.density_per_layer, is_number),
            "metrics": is_dict(self.metrics, is_number),
            "history": is_dict(
                self.history,
                lambda logs: (
                    isinstance(logs, list | tuple) and all(map(is_number, logs))
                ),
            ),
            "steps": is_whole(self.steps),
            "seconds": self.seconds is None or is_number(self.seconds),
            "failure": self.failure is None or isinstance(self.failure, str),
        }
        check_kinds(self, fits)


def library_versions(names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Returns the versions of those libraries that are installed.

    Args:
        names: which; by default those that a search depends on.
    """
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def check_kinds(record: Any, fits: Mapping[str, bool]) -> None:
    """Raises ValueError for the first attribute of `record` that does not fit."""
    for name, fit in fits.items():
        if not fit:
            raise ValueError(
                f"`{name}` of a {type(record).__name__} is not of its kind. "
                f"Received: {name}={getattr(record, name)!r}"
            )


def choose_monitor(metrics: Iterable[str]) -> str:
    """Returns the metric to judge rounds by: an accuracy, or else the loss.

    Args:
        metrics: their names; those on validation data, where there are any, decide.

    >>> choose_monitor(["accuracy", "loss", "val_loss", "val_accuracy"])
    'val_accuracy'
    """
    names = list(metrics)
    prefix = "val_" if any(name.startswith("val_") for name in names) else ""
    for name in names:
        metric = name.removeprefix(prefix)
        if name.startswith(prefix) and (metric.endswith("accuracy") or metric == "acc"):
            return name
    return prefix + "loss"


def is_number(value: Any) -> bool:
    """Returns whether `value` is a real number that a float can hold, and no bool."""
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


def is_dict(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Returns whether `value` is a dict from names to what `fits`."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and fits(item) for name, item in value.items()
    )
