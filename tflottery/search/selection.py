"""Selection: which rounds train in full, and which one's network a search returns."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence

from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig
from tflottery.core.masks import Masks
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


def next_in_full(
    records: Sequence[Round], config: LotteryConfig, monitor: str, better: Better
) -> int:
    """Returns the round to train in full next, or 0 if none is left."""
    last = records[-1]
    if config.select == "last" and last.in_full and last.failure is None:
        return 0
    return bisected(measured(records, config, monitor, better), last.round)


def bisected(known: Mapping[int, bool], last: int) -> int:
    """Returns the round to measure next, or 0, if it is `known` of some if they win.

    The last one comes first. If it does not win, a bisection follows: between the
    sparsest round that is known to win and the next one, which is known not to.

    >>> bisected({}, 9), bisected({9: False}, 9), bisected({9: True}, 9)
    (9, 4, 0)
    >>> bisected({9: False, 4: True}, 9), bisected({5: False, 4: True}, 5)
    (6, 0)
    """
    if last not in known:
        return last
    won = max((number for number, wins in known.items() if wins), default=0)
    lost = min((number for number in known if number > won), default=won)
    middle = (won + lost) // 2
    return middle if middle > won else 0


def say_not_monotone(
    records: Sequence[Round], config: LotteryConfig, monitor: str, better: Better
) -> None:
    """Warns if a round wins although a denser one is known not to."""
    known = measured(records, config, monitor, better)
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


def _say_diverged(record: Round, selection: "Selection", number: int) -> None:
    """Warns that a round diverged; raises if there is no ticket to return.

    `number` is that of the next round to train in full, if there is one.
    """
    why = "the loss or a weight is NaN or infinite"
    if selection.best is None and not number:
        raise ValueError(
            f"Training diverged in round {record.round}, before there was any ticket: "
            f"{why}. Lower the learning rate of `model`'s optimizer, or look for NaN "
            "in `ds`."
        )
    ends = "stops with the best ticket so far"
    if number:
        ends = f"goes on with round {number}, trained in full"
    warnings.warn(
        f"Training diverged in round {record.round}: {why}. The search {ends}. "
        "A later `rewind_step` or a lower learning rate may take it further.",
        stacklevel=5,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The rounds whose networks may be returned.

    Attributes:
        best: Among the rounds that pruned, the one with the best metric, or `None`; the
            densest of equal ones.
        winning: The sparsest round that reaches the dense network's metric, or `None`.
        cut: The rounds that were not trained in full, by number: their masks as bits,
            which take little memory, and their weights unless rounds are rewound.
    """

    best: Trained | None = None
    winning: Trained | None = None
    cut: Mapping[int, Trained] = dataclasses.field(default_factory=dict)

    def masks_of(self, number: int, like: Masks) -> Masks:
        """Returns the masks of a round in `cut`, of the same shapes as those `like`."""
        bits = self.cut[number].masks
        return {p: masks_lib.unpack(bits[p], mask.shape) for p, mask in like.items()}

    def after(
        self,
        trained: Trained,
        records: Sequence[Round],
        config: LotteryConfig,
        monitor: str,
        better: Better,
    ) -> "Selection":
        """Returns the selection after one more round, in any order."""
        record, given = trained.record, (config, monitor, better)
        cut = {n: each for n, each in self.cut.items() if n != record.round}
        if record.failure is not None:
            _say_diverged(record, self, next_in_full(records, *given))
            return dataclasses.replace(self, cut=cut)
        if not record.in_full:
            bits = {path: masks_lib.pack(mask) for path, mask in trained.masks.items()}
            weights = {} if config.retrain == "rewind" else trained.weights
            cut[record.round] = Trained(record, bits, weights)
            return dataclasses.replace(self, cut=cut)
        best, winning = self.best, self.winning
        if wins(record, records[0], *given) and (
            winning is None or record.round > winning.record.round
        ):
            winning = trained
        if best is not None:
            metrics = record.metrics[monitor], best.record.metrics[monitor]
            denser = record.round < best.record.round
            if better(*metrics) or (denser and not better(*reversed(metrics))):
                best = None
        return Selection(best=best or trained, winning=winning, cut=cut)

    def chosen(
        self,
        last: Trained,
        records: Sequence[Round],
        config: LotteryConfig,
        monitor: str,
        better: Better,
    ) -> Trained:
        """Returns the round whose network to return, and warns if no ticket wins."""
        if config.select == "last" and last.record.failure is None:
            return last
        if self.winning is not None:
            if config.settle is not None:
                say_not_monotone(records, config, monitor, better)
            return self.winning
        assert self.best is not None
        best, dense = self.best.record, records[0]
        warnings.warn(
            f"No ticket reaches the dense network's {monitor} of "
            f"{dense.metrics[monitor]:.4f} within `tolerance` {config.tolerance}. The "
            f"best one is returned: round {best.round}, {best.metrics[monitor]:.4f}. "
            "Train longer (`epochs`), rewind later (`rewind_step`) or allow a larger "
            "drop (`tolerance`).",
            stacklevel=4,
        )
        return self.best
