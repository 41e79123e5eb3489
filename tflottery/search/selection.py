"""Selection: which round's network a search returns."""

import warnings
from collections.abc import Callable

from tflottery.core.config import LotteryConfig
from tflottery.core.records import Round
from tflottery.search.trainer import Trained


class Selection:
    """Of the rounds so far, the network kept for each reason to return it.

    Args:
        config: the search's; `select` and `tolerance` decide.

    Attributes:
        last: the last round, diverged or not.
        best: the one with the best metric of those that pruned.
        winning: the sparsest that reaches the dense network's metric.
    """

    def __init__(self, config: LotteryConfig):
        self._config = config
        self.last: Trained | None = None
        self.best: Trained | None = None
        self.winning: Trained | None = None

    def add(
        self,
        trained: Trained,
        dense: Round,
        monitor: str,
        better: Callable[[float, float], bool],
    ) -> None:
        """Considers a round that has not diverged, and is not the dense one."""
        metric = trained.record.metrics[monitor]
        tolerance = self._config.tolerance
        # The worst metric that still wins: `better` may be either direction.
        bound = dense.metrics[monitor]
        bound += -tolerance if better(1.0, 0.0) else tolerance
        if not better(bound, metric):
            self.winning = trained
        if self.best is None or better(metric, self.best.record.metrics[monitor]):
            self.best = trained

    def chosen(self, dense: Round, monitor: str) -> Trained:
        """Returns the round to return; a warning says where no ticket wins."""
        assert self.last is not None
        if self._config.select == "last" and self.last.record.failure is None:
            return self.last
        if self.winning is not None:
            return self.winning
        assert self.best is not None
        warnings.warn(
            f"No ticket reaches the dense network's {monitor} of "
            f"{dense.metrics[monitor]:.4f} within `tolerance` "
            f"{self._config.tolerance}. The best one is returned: round "
            f"{self.best.record.round}, {self.best.record.metrics[monitor]:.4f}. Train "
            "longer (`epochs`), rewind later (`rewind_step`) or allow more.",
            stacklevel=5,
        )
        return self.best
