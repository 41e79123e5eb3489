"""Records: the results of each round of a search, as checked plain data."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.core import checks

_LIBRARIES = ("keras", "tensorflow", "tf_keras", "tensorflow-model-optimization")
_LIBRARIES += ("jax", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """The results of one round of training.

    Attributes:
        round: The round's number. Round 0 is the dense network.
        sparsity: Share of masked weights that are zero, in [0, 1].
        density_per_layer: Share of weights kept, in [0, 1], by path.
        metrics: Metrics after the round by name. Those on validation data start with
            `val_`.
        history: The logs of each epoch by name, as in `keras.callbacks.History`.
        steps: Number of optimizer steps.
        seconds: Duration. `None` in a ticket that was read from a file, so that equal
            searches write equal files.
        failure: Why the round does not count, or `None`.
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
        """Returns the round with the attributes `values`, read from a file.

        Raises:
            TypeError: If an attribute is missing or unknown.
            ValueError: If an attribute is of the wrong kind.
        """
        record = cls(**values)
        checks.fields(
            record,
            {
                "round": checks.WHOLE,
                "sparsity": checks.SHARE,
                "density_per_layer": checks.dict_of(checks.SHARE),
                "metrics": checks.dict_of(checks.NUMBER),
                "history": checks.dict_of(checks.list_of(checks.NUMBER)),
                "steps": checks.WHOLE,
                "seconds": checks.or_none(checks.NUMBER),
                "failure": checks.or_none(checks.TEXT),
            },
        )
        return record


def library_versions(names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Returns the versions of the installed libraries by name.

    Args:
        names: Libraries to look for; by default those that affect a search.
    """
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
