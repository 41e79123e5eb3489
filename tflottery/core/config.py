"""Config: the frozen record of how to search for a ticket, checked when it is made."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tflottery.core import checks, criteria, pruning

RETRAIN = ("rewind", "learning_rate", "fine_tune")
SELECT = ("sparsest_winning", "last")
_MAX_SEED = 2**32 - 1  # NumPy's limit.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LotteryConfig:
    """How to search for a ticket.

    Attributes:
        epochs: Number of epochs per round, at least 1.
        target_sparsity: Share of the prunable weights that are zero in the end, in
            (0, 1).
        prune_fraction: Share of the remaining weights to prune after each round, in
            (0, 1). Ignored if `rounds` is given.
        rounds: Number of prunings. `None` prunes `prune_fraction` per round until
            `target_sparsity` is reached.
        scope: `"global"` ranks all weights together, `"layer"` ranks each layer's
            separately, and `"erk"` gives each layer a budget by the
            Erdős-Rényi-kernel rule.
        criterion: A name in `criteria.CRITERIA`, or the name of your own function.
        layer_fractions: Separate prune fractions for the layers that match a pattern,
            for example `{"output": 0.1}`.
        skip: Patterns of layers that are never pruned.
        rewind_step: The optimizer step k that each round rewinds to, at least 0
            (Frankle et al. 2020, "Linear Mode Connectivity").
        retrain: `"rewind"` resets weights and optimizer to step k, `"learning_rate"`
            resets only the optimizer and its schedule, and `"fine_tune"` resets
            nothing (Renda et al. 2020, section 2).
        monitor: The metric that decides whether a ticket wins. `None` uses the
            validation accuracy, or the validation loss if there is no accuracy.
        tolerance: Allowed drop below the dense metric, in the metric's own unit, at
            least 0.
        select: Which round's network to return: `"sparsest_winning"` or `"last"`.
        seed: Random seed. `None` leaves the global seeds alone.

    Raises:
        ValueError: If a value is out of range.

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
        checks.check("layer_fractions", self.layer_fractions, _BY_PATTERN)
        checks.check("skip", self.skip, _PATTERNS)
        checks.check("monitor", self.monitor, checks.or_none(_METRIC))
        checks.check("criterion", self.criterion, _NAME)
        checks.choice("scope", self.scope, pruning.SCOPES)
        checks.choice("retrain", self.retrain, RETRAIN)
        checks.choice("select", self.select, SELECT)
        # NumPy's numbers become Python's, which JSON can hold.
        plain = {
            "epochs": checks.whole("epochs", self.epochs, at_least=1),
            "rewind_step": checks.whole("rewind_step", self.rewind_step),
            "target_sparsity": checks.fraction(
                "target_sparsity",
                self.target_sparsity,
                "the share of the prunable weights that are zero in the end",
            ),
            "prune_fraction": checks.fraction("prune_fraction", self.prune_fraction),
            "layer_fractions": {
                pattern: checks.fraction(f"layer_fractions[{pattern!r}]", fraction)
                for pattern, fraction in self.layer_fractions.items()
            },
            "tolerance": checks.not_negative(
                "tolerance", self.tolerance, "the allowed drop below the dense metric"
            ),
            "skip": tuple(self.skip),
        }
        if self.rounds is not None:
            plain["rounds"] = checks.whole("rounds", self.rounds, at_least=1)
        if self.seed is not None:
            plain["seed"] = checks.whole("seed", self.seed, at_most=_MAX_SEED)
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data that `LotteryConfig(**data)` accepts."""
        return dataclasses.asdict(self) | {"skip": list(self.skip)}


_NAME = checks.Kind(lambda v: isinstance(v, str), "a name")
_METRIC = checks.Kind(lambda v: isinstance(v, str) and v, "the name of a metric")
_PATTERNS = checks.Kind(
    checks.list_of(_NAME).fits, 'a tuple of patterns, such as ("output",)'
)
_BY_PATTERN = checks.Kind(
    lambda v: checks.is_dict(v, lambda _: True),
    'a dict from patterns to fractions, such as {"output": 0.1}',
)


def check_criterion(criterion: Any) -> str:
    """Returns the name of a criterion, which is a known name or a function.

    Raises:
        ValueError: If it is neither.

    >>> check_criterion("random")
    'random'
    """
    if callable(criterion):
        return getattr(criterion, "__name__", type(criterion).__name__)
    checks.choice("criterion", criterion, tuple(criteria.CRITERIA))
    return criterion
