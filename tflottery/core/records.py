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
    "settled": checks.or_none(checks.WHOLE),
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
    steps: int  # Number of optimizer steps, of both trainings if it was trained twice.
    # After how many of them its mask had settled, which cut it short, if that happened.
    settled: int | None = None
    seconds: float | None = None
    failure: str | None = None  # Why the round does not count.

    @property
    def in_full(self) -> bool:
        """Whether the network was trained in full, perhaps after it was cut short."""
        return self.settled is None or self.steps > self.settled

    def after(self, cut: "Round") -> "Round":
        """Returns the record of both trainings of a round that was `cut` short."""
        return dataclasses.replace(
            self,
            steps=cut.steps + self.steps,
            settled=cut.settled,
            seconds=(cut.seconds or 0.0) + (self.seconds or 0.0),
        )

    @property
    def how(self) -> str:
        """How a round that was cut short was trained; `""` for others."""
        if self.settled is None:
            return ""
        cut = f"settled after {self.settled:,} steps"
        more = f", then {self.steps - self.settled:,} in full"
        return cut + (more if self.in_full else "")

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


def steps_told(rounds: Sequence[Round]) -> str:
    """Returns a sentence on what a search that cut rounds short took, else `""`.

    In what a full search takes, about, a round that was cut short counts as the mean of
    the sparse ones trained in full.
    """
    full = [r.steps - (r.settled or 0) for r in rounds if r.in_full]
    if all(r.settled is None for r in rounds):
        return ""
    mean = sum(full[1:] or full) / len(full[1:] or full)
    taken = sum(r.steps for r in rounds)
    whole = round(sum(full) + (len(rounds) - len(full)) * mean)
    numbers = ", ".join(str(r.round) for r in rounds if r.in_full)
    return (
        f"{taken:,} steps, {taken / whole:.2f} of the {whole:,} of a full search; "
        f"trained in full: rounds {numbers}."
    )


def library_versions(names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Returns the versions of those libraries that are installed, by name."""
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
