"""Records: what the rounds of a search came to, as plain data that is checked."""

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence

from tflottery.core import checks

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
        checks.fields(
            self,
            {
                "round": checks.WHOLE,
                "sparsity": checks.SHARE,
                "density_per_layer": checks.dict_of(checks.NUMBER),
                "metrics": checks.dict_of(checks.NUMBER),
                "history": checks.dict_of(checks.list_of(checks.NUMBER)),
                "steps": checks.WHOLE,
                "seconds": checks.or_none(checks.NUMBER),
                "failure": checks.or_none(checks.TEXT),
            },
        )


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
