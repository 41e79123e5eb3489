"""Selection: which round's network a search returns."""

import dataclasses
import warnings
from collections.abc import Callable

from tflottery.core.config import LotteryConfig
from tflottery.core.records import Round
from tflottery.search.trainer import Trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The rounds whose networks may be returned.

    Attributes:
        best: Among the rounds that pruned, the one with the best metric, or `None`.
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
        better: Callable[[float, float], bool],
    ) -> "Selection":
        """Returns the selection after one more round that pruned."""
        metric, drop = trained.record.metrics[monitor], config.tolerance
        # The worst metric that still wins.
        bound = dense.metrics[monitor] + (-drop if better(1.0, 0.0) else drop)
        winning = self.winning if better(bound, metric) else trained
        if self.best is None or better(metric, self.best.record.metrics[monitor]):
            return Selection(best=trained, winning=winning)
        return Selection(best=self.best, winning=winning)

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
