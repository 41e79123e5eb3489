"""Records: the results of each round of a search, as checked plain data."""

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.core import checks

# Those that affect a search.
_LIBRARIES = ("keras", "tensorflow", "tf_keras", "tensorflow-model-optimization")
_LIBRARIES += ("jax", "numpy")
_KINDS = {
    "round": checks.WHOLE,
    "sparsity": checks.SHARE,
    "density_per_layer": checks.dict_of(checks.SHARE),
    "metrics": checks.dict_of(checks.NUMBER),
    "history": checks.dict_of(checks.list_of(checks.NUMBER)),
    "steps": checks.WHOLE,
    "seconds": checks.or_none(checks.NUMBER),
    "failure": checks.or_none(checks.TEXT),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """The results of one round of training.

    The seconds are `None` in a ticket that was read from a file, so that equal searches
    write equal files.
    """

    round: int  # Its number. Round 0 is the dense network.
    sparsity: float  # Share of masked weights that are zero, in [0, 1].
    density_per_layer: Mapping[str, float]  # Share of weights kept, in [0, 1], by path.
    metrics: Mapping[str, float]  # After the round; "val_..." on validation data.
    history: Mapping[str, Sequence[float]]  # The logs of each epoch, as Keras' History.
    steps: int  # Number of optimizer steps.
    seconds: float | None = None
    failure: str | None = None  # Why the round does not count.

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Round":
        """Returns the round with the attributes `values`, read from a file.

        Raises:
            TypeError: If an attribute is missing or unknown.
            ValueError: If an attribute is of the wrong kind.
        """
        record = cls(**values)
        checks.fields(record, _KINDS)
        return record


def library_versions(names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Returns the versions of those libraries that are installed, by name."""
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
