"""Config: the frozen record of how a ticket is searched for, checked when made."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from tflottery.core import criteria, pruning
from tflottery.core.records import is_number

RETRAIN = ("rewind", "learning_rate", "fine_tune")
_MOST_SEED = 2**32 - 1  # NumPy's.
SELECT = ("sparsest_winning", "last")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LotteryConfig:
    """How a ticket is searched for.

    Attributes:
        epochs: epochs of each round, at least 1.
        target_sparsity: the share of the prunable weights to prune in the end, in
            (0, 1).
        prune_fraction: the share of the weights left to prune after each round, in
            (0, 1). Not used where `rounds` is given.
        rounds: how many times to prune; `None` prunes `prune_fraction` a round until
            `target_sparsity` is reached.
        scope: `"global"` ranks all weights together, `"layer"` each layer's alone,
            `"erk"` divides what is kept by the Erdős-Rényi-kernel rule.
        criterion: a name of `criteria.CRITERIA`, or that of the user's own function.
        layer_fractions: prune fractions of their own for the layers that a pattern
            matches, as `{"output": 0.1}`.
        skip: patterns of layers that are not pruned at all.
        rewind_step: the optimizer step k whose state the rounds start from, at least
            0 (Frankle et al. 2020, "Linear Mode Connectivity").
        retrain: `"rewind"` takes weights and optimizer back to step k,
            `"learning_rate"` the optimizer and its schedule alone, `"fine_tune"`
            nothing (Renda et al. 2020, section 2).
        monitor: the metric that tells a winning ticket; `None` is the validation
            accuracy, or else the validation loss.
        tolerance: how much worse than round 0 a winning ticket may be, in the
            metric's own unit, at least 0.
        select: `"sparsest_winning"` or `"last"`: which round's network is returned.
        seed: what makes two searches alike; `None` leaves the global seeds alone.

    >>> LotteryConfig(prune_fraction=0.0)
    Traceback (most recent call last):
    ...
    ValueError: `prune_fraction` must be in (0, 1), both ends excluded: the share of \
the remaining weights to prune. Received: prune_fraction=0.0
    """

    epochs: int = 10
    target_sparsity: float = 0.9
    prune_fraction: float = 0.2
    rounds: int | None = None
    scope: str = "global"
    criterion: str = "magnitude"
    layer_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    skip: tuple[str, ...] = ()
    rewind_step: int = 0
    retrain: str = "rewind"
    monitor: str | None = None
    tolerance: float = 0.0
    select: str = "sparsest_winning"
    seed: int | None = None

    def __post_init__(self):
        # NumPy's numbers become Python's, which JSON can write.
        for name, at_least in (("epochs", 1), ("rewind_step", 0)):
            self._set(name, _count(name, getattr(self, name), at_least=at_least))
        for name, at_least in (("rounds", 1), ("seed", 0)):
            if getattr(self, name) is not None:
                self._set(name, _count(name, getattr(self, name), at_least=at_least))
        if not (is_number(self.target_sparsity) and 0 < self.target_sparsity < 1):
            raise ValueError(
                "`target_sparsity` must be in (0, 1), both ends excluded: the share "
                "of the prunable weights that are zero in the end. Received: "
                f"target_sparsity={self.target_sparsity!r}"
            )
        if self.seed is not None and self.seed > _MOST_SEED:
            raise ValueError(
                f"`seed` must be at most {_MOST_SEED}. Received: seed={self.seed}"
            )
        pruning.check_fraction("prune_fraction", self.prune_fraction)
        if not isinstance(self.layer_fractions, Mapping) or not all(
            isinstance(pattern, str) for pattern in self.layer_fractions
        ):
            raise ValueError(
                "`layer_fractions` must be a dict from patterns to fractions, as "
                f'{{"output": 0.1}}. Received: {self.layer_fractions!r}'
            )
        for pattern, fraction in self.layer_fractions.items():
            pruning.check_fraction(f"layer_fractions[{pattern!r}]", fraction)
        if not isinstance(self.skip, list | tuple) or not all(
            isinstance(pattern, str) for pattern in self.skip
        ):
            raise ValueError(
                '`skip` must be a tuple of patterns, as ("output",). '
                f"Received: skip={self.skip!r}"
            )
        if not (is_number(self.tolerance) and 0 <= self.tolerance < math.inf):
            raise ValueError(
                "`tolerance` must be at least 0: how much worse than the dense network "
                f"a ticket may be. Received: tolerance={self.tolerance!r}"
            )
        if self.monitor == "" or not isinstance(self.monitor, str | None):
            raise ValueError(
                "`monitor` must be the name of a metric, or None. "
                f"Received: monitor={self.monitor!r}"
            )
        if not isinstance(self.criterion, str):
            raise ValueError(
                f"`criterion` must be a name. Received: criterion={self.criterion!r}"
            )
        _check_choice("scope", self.scope, pruning.SCOPES)
        _check_choice("retrain", self.retrain, RETRAIN)
        _check_choice("select", self.select, SELECT)
        for name in ("target_sparsity", "prune_fraction", "tolerance"):
            self._set(name, float(getattr(self, name)))
        fractions = {p: float(f) for p, f in self.layer_fractions.items()}
        self._set("layer_fractions", fractions)
        self._set("skip", tuple(self.skip))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, which `LotteryConfig(**data)` reads."""
        return dataclasses.asdict(self) | {"skip": list(self.skip)}


def check_criterion(criterion: Any) -> str:
    """Returns the name of a criterion: a known name, or a function's own.

    >>> check_criterion("random")
    'random'
    """
    if callable(criterion):
        return getattr(criterion, "__name__", type(criterion).__name__)
    _check_choice("criterion", criterion, tuple(criteria.CRITERIA))
    return criterion


def _count(name: str, value: Any, *, at_least: int) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < at_least:
        raise ValueError(
            f"`{name}` must be a whole number of at least {at_least}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={value!r}"
        )
