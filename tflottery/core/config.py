"""Config: the frozen record of how to search for a ticket, checked when it is made."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from tflottery.core import checks, criteria

SCOPES = ("global", "layer", "erk")
RETRAIN = ("rewind", "learning_rate", "fine_tune")
SELECT = ("sparsest_winning", "last")
_MAX_SEED = 2**32 - 1  # NumPy's limit.
_CRITERION = checks.one_of(tuple(criteria.CRITERIA))
_KINDS = {  # What each attribute must be.
    "epochs": checks.whole_from(1),
    "rewind_step": checks.WHOLE,
    "rounds": checks.or_none(checks.whole_from(1)),
    "seed": checks.or_none(checks.whole_from(0, _MAX_SEED)),
    "target_sparsity": checks.inside_0_1(
        "the share of the prunable weights that are zero in the end"
    ),
    "prune_fraction": checks.TO_PRUNE,
    "tolerance": checks.Kind(
        lambda v: checks.is_number(v) and 0 <= v < math.inf,
        "a number of at least 0: the allowed drop below the dense metric",
    ),
    "settle": checks.or_none(
        checks.inside_0_1("how much of its pruning a settled round may still change")
    ),
    "scope": checks.one_of(SCOPES),
    "retrain": checks.one_of(RETRAIN),
    "select": checks.one_of(SELECT),
    "criterion": checks.Kind(lambda v: isinstance(v, str), "a name"),
    "monitor": checks.or_none(
        checks.Kind(lambda v: isinstance(v, str) and v, "the name of a metric")
    ),
    **dict.fromkeys(
        ("skip", "include"),
        checks.Kind(
            checks.list_of(checks.TEXT).fits,
            'a tuple of patterns, such as ("output",)',
        ),
    ),
    "layer_fractions": checks.Kind(
        lambda v: isinstance(v, Mapping) and all(isinstance(p, str) for p in v),
        'a dict from patterns to fractions, such as {"output": 0.1}',
    ),
}


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
        include: Patterns of weights to prune that are not pruned by default.
        rewind_step: The optimizer step k that each round rewinds to, at least 0
            (Frankle et al. 2020, "Linear Mode Connectivity").
        retrain: `"rewind"` resets weights and optimizer to step k, `"learning_rate"`
            resets only the optimizer and its schedule, and `"fine_tune"` resets
            nothing (Renda et al. 2020, section 2).
        monitor: The metric that decides whether a ticket wins. `None`, or "auto", uses
            the validation accuracy, or the validation loss if there is no accuracy, or
            several outputs.
        tolerance: Allowed drop below the dense metric, in the metric's own unit, at
            least 0.
        select: Which round's network to return: `"sparsest_winning"` or `"last"`.
        settle: A round ends once the newest masks that it would be pruned to differ by
            at most this share, in (0, 1); see `search.settling`. `None` trains every
            round in full.
        seed: Random seed. `None` leaves the global seeds alone.

    Raises:
        ValueError: If a value is out of range.
    """

    epochs: int = 10
    target_sparsity: float = 0.9
    prune_fraction: float = 0.2
    rounds: int | None = None
    scope: str = "global"
    criterion: str = "magnitude"
    layer_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    skip: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    rewind_step: int = 0
    retrain: str = "rewind"
    monitor: str | None = None
    tolerance: float = 0.0
    select: str = "sparsest_winning"
    settle: float | None = None
    seed: int | None = None

    def __post_init__(self):
        for name, kind in _KINDS.items():
            checks.check(name, getattr(self, name), kind)
        for pattern, fraction in self.layer_fractions.items():
            checks.check(f"layer_fractions[{pattern!r}]", fraction, checks.TO_PRUNE)
        # NumPy's numbers become Python's, which JSON can hold.
        plain = {
            "layer_fractions": {p: float(f) for p, f in self.layer_fractions.items()},
            "skip": tuple(self.skip),
            "include": tuple(self.include),
            "monitor": None if self.monitor == "auto" else self.monitor,
        }
        for name in ("epochs", "rewind_step", "rounds", "seed"):
            if getattr(self, name) is not None:
                plain[name] = int(getattr(self, name))
        for name in ("target_sparsity", "prune_fraction", "tolerance", "settle"):
            if getattr(self, name) is not None:
                plain[name] = float(getattr(self, name))
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data that `LotteryConfig(**data)` accepts."""
        return dataclasses.asdict(self) | {
            "skip": list(self.skip),
            "include": list(self.include),
        }


def check_criterion(criterion: Any) -> str:
    """Returns the name of a criterion; ValueError if it is no known one or function."""
    if callable(criterion):
        return getattr(criterion, "__name__", type(criterion).__name__)
    checks.check("criterion", criterion, _CRITERION)
    return criterion


def choose_monitor(metrics: Iterable[str]) -> str:
    """Returns the metric to judge rounds by: an accuracy, or else the loss.

    Metrics on validation data take precedence. Of a model of several outputs it is the
    total loss; if there is no `loss` at all, the first that is named so, or the first.

    >>> choose_monitor(["accuracy", "loss", "val_loss", "val_accuracy"])
    'val_accuracy'
    >>> choose_monitor(["loss", "kind_loss", "size_loss", "kind_accuracy"])
    'loss'
    """
    names = list(metrics)
    prefix = "val_" if any(name.startswith("val_") for name in names) else ""
    found = [n.removeprefix(prefix) for n in names if n.startswith(prefix)] or ["loss"]
    outputs = tuple(n.removesuffix("loss") for n in found if n.endswith("_loss"))
    for name in found:
        part = "loss" in found and name.startswith(outputs)  # Only one output's.
        if name == "acc" or (name.endswith("accuracy") and not part):
            return prefix + name
    if "loss" in found:
        return prefix + "loss"
    return prefix + min(found, key=lambda name: not name.endswith("loss"))
