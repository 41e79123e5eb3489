"""Records: what the rounds of a search came to, as plain data that is checked."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

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
    """

    round: int
    sparsity: float
    density_per_layer: Mapping[str, float]
    metrics: Mapping[str, float]
    history: Mapping[str, Sequence[float]]
    steps: int
    seconds: float | None = None
    failure: str | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Round":
        """Returns the round whose attributes are `values`, as read from a file.

        Raises:
            TypeError: If an attribute is missing, or there are others.
            ValueError: If an attribute is not of its kind.
        """
        record = cls(**values)
        checks.fields(
            record,
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
        return record


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
