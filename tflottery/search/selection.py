"""Selection: which rounds train in full, and which one's network a search returns."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence

from tflottery.core.config import LotteryConfig
from tflottery.core.records import Round
from tflottery.search.trainer import Trained

Better = Callable[[float, float], bool]


def wins(
    record: Round, dense: Round, config: LotteryConfig, monitor: str, better: Better
) -> bool:
    """Returns whether a round reaches the dense network's metric."""
    drop = config.tolerance
    # The worst metric that still wins.
    bound = dense.metrics[monitor] + (-drop if better(1.0, 0.0) else drop)
    return record.failure is None and not better(bound, record.metrics[monitor])


def measured(
    records: Sequence[Round], config: LotteryConfig, monitor: str, better: Better
) -> dict[int, bool]:
    """Returns whether it wins for each round that pruned and was trained in full."""
    dense, *others = records
    given = dense, config, monitor, better
    return {r.round: wins(r, *given) for r in others if r.in_full}


def next_in_full(known: Mapping[int, bool], last: int) -> int:
    """Returns the round to train in full next, or 0 if none is left.

    The last one comes first. If it does not win, a bisection follows: between the
    sparsest round that is known to win and the next one, which is known not to.

    >>> next_in_full({}, 9), next_in_full({9: False}, 9), next_in_full({9: True}, 9)
    (9, 4, 0)
    >>> next_in_full({9: False, 4: True}, 9), next_in_full({5: False, 4: True}, 5)
    (6, 0)
    """
    if last not in known:
        return last
    won = max((number for number, wins in known.items() if wins), default=0)
    lost = min((number for number in known if number > won), default=won)
    middle = (won + lost) // 2
    return middle if middle > won else 0


def say_not_monotone(known: Mapping[int, bool], records: Sequence[Round]) -> None:
    """Warns if a round wins although a denser one is known not to."""
    won = max((number for number, wins in known.items() if wins), default=0)
    lost = [number for number, wins in known.items() if not wins and number < won]
    if lost:
        told = ", ".join(
            f"{number} ({100 * (1 - records[number].sparsity):.2f} % left)"
            for number in lost
        )
        warnings.warn(
            f"Winning does not follow the density here: trained in full, round {won} "
            f"({100 * (1 - records[won].sparsity):.2f} % left) wins, but the denser "
            f"round {told} does not. The sparsest that was measured to win is "
            "returned; rounds that `settle` cut short may win, too.",
            stacklevel=4,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The rounds whose networks may be returned.

    Attributes:
        best: Among the rounds that pruned, the one with the best metric, or `None`; the
            densest of equal ones.
        winning: The sparsest round that reaches the dense network's metric, or `None`.
    """

    best: Trained | None = None
    winning: Trained | None = None

    def after(
        self,
        trained: Trained,
        dense: Round,
        config: LotteryConfig,
        monitor: str,
        better: Better,
    ) -> "Selection":
        """Returns the selection after one more round that pruned, in any order."""
        record, best, winning = trained.record, self.best, self.winning
        if wins(record, dense, config, monitor, better) and (
            winning is None or record.round > winning.record.round
        ):
            winning = trained
        if best is not None:
            metrics = record.metrics[monitor], best.record.metrics[monitor]
            denser = record.round < best.record.round
            if better(*metrics) or (denser and not better(*reversed(metrics))):
                best = None
        return Selection(best=best or trained, winning=winning)

    def chosen(
        self, last: Trained, dense: Round, config: LotteryConfig, monitor: str
    ) -> Trained:
        """Returns the round whose network to return, and warns if no ticket wins."""
        if config.select == "last" and last.record.failure is None:
            return last
        if self.winning is not None:
            return self.winning
        assert self.best is not None
        best = self.best.record
        warnings.warn(
            f"No ticket reaches the dense network's {monitor} of "
            f"{dense.metrics[monitor]:.4f} within `tolerance` {config.tolerance}. The "
            f"best one is returned: round {best.round}, {best.metrics[monitor]:.4f}. "
            "Train longer (`epochs`), rewind later (`rewind_step`) or allow a larger "
            "drop (`tolerance`).",
            stacklevel=4,
        )
        return self.best
