"""Stages: where a round stands, as a run directory keeps it after every epoch."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflottery.core import checks
from tflottery.core.masks import Masks
from tflottery.core.records import Round

_COUNTS = ("round", "epoch", "step")
_NOT_IN_HEADER = ("masks", "began", "arrays")


@dataclasses.dataclass(kw_only=True)
class Stage:
    """Where a round stands.

    Attributes:
        round: its number.
        epoch: the next epoch to train; beyond the last where nothing is left.
        step: the optimizer's steps before the round.
        seconds: time taken so far.
        history: the logs of the epochs so far by name.
        record: what the round came to, once it has.
        callbacks: what the callbacks had counted when it stopped.
        rewound: whether the state to rewind to was there when it stopped.
        steps_per_epoch: batches in an epoch, as far as was known when it stopped.
        masks: what it trains under.
        began: when it would have begun, had it never stopped.
        arrays: what callbacks had kept of the weights when it stopped.

    Raises:
        TypeError, ValueError: for what is not of its kind, as from a damaged file.
    """

    round: int
    epoch: int
    step: int
    seconds: float = 0.0
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    record: Round | None = None
    callbacks: list[dict] = dataclasses.field(default_factory=list)
    rewound: bool = False
    steps_per_epoch: int | None = None
    masks: Masks = dataclasses.field(default_factory=dict)
    began: float = dataclasses.field(default_factory=time.monotonic)
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if isinstance(self.record, Mapping):
            self.record = Round(**self.record)
        record = checks.Kind(lambda v: isinstance(v, Round), "a Round")
        kinds = dict.fromkeys(_COUNTS, checks.WHOLE) | {
            "seconds": checks.NUMBER,
            "history": checks.dict_of(checks.list_of(checks.NUMBER)),
            "record": checks.or_none(record),
            "callbacks": checks.list_of(checks.DICT),
            "rewound": checks.BOOL,
            "steps_per_epoch": checks.or_none(checks.WHOLE),
        }
        checks.fields(self, kinds)

    def header(self) -> dict[str, Any]:
        """Returns what is kept of it, but for its arrays, as plain data."""
        kept = {n: v for n, v in vars(self).items() if n not in _NOT_IN_HEADER}
        return kept | {"record": self.record and dataclasses.asdict(self.record)}
