"""Checkpoint: where a round stands, as a run directory keeps it after every epoch."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflottery.core import checks
from tflottery.core import masks as masks_lib
from tflottery.core.masks import Masks
from tflottery.core.records import Round

_NOT_IN_HEADER = ("masks", "drawn", "began", "arrays")


@dataclasses.dataclass(kw_only=True)
class Checkpoint:
    """Where a round stands.

    Attributes:
        round: Its number.
        epoch: The next epoch to train; the number of epochs if none is left.
        step: The optimizer's step count before the round.
        seconds: Time taken so far.
        history: The logs of the epochs so far, by name.
        record: The round's record, once it is finished.
        callbacks: What the callbacks had counted; see `callback_state`.
        rewound: Whether the state to rewind to had been saved.
        steps_per_epoch: The batches of an epoch, if they were known.
        again: Whether the round had been cut short, and now trains in full.
        settled: Whether its mask has settled, which ends it.
        since: The batches since masks were last drawn.
        masks: The masks that it trains with.
        drawn: The masks drawn last; see `settling`.
        began: When it would have begun if it had never been interrupted.
        arrays: The state that was read with it, and arrays that callbacks had kept.
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
    again: bool = False
    settled: bool = False
    since: int = 0
    masks: Masks = dataclasses.field(default_factory=dict)
    drawn: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
    began: float = dataclasses.field(default_factory=time.monotonic)
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def bits(self) -> dict[str, np.ndarray]:
        """Returns the arrays of the masks: those of the round, and those drawn."""
        found = {f"masks/{p}": masks_lib.pack(m) for p, m in self.masks.items()}
        for path in self.masks if self.drawn else ():
            found[f"drawn/{path}"] = np.stack([each[path] for each in self.drawn])
        return found

    def take_bits(self, state: Mapping[str, np.ndarray], paths: Sequence[str]) -> None:
        """Takes the masks from a state that has the arrays of `bits`."""
        self.masks = {
            p: masks_lib.unpack(state[f"masks/{p}"], state[f"weights/{p}"].shape)
            for p in paths
        }
        drawn = {p: state[n] for p in paths if (n := f"drawn/{p}") in state}
        self.drawn = [
            dict(zip(drawn, each, strict=True))
            for each in zip(*drawn.values(), strict=True)
        ]

    def header(self) -> dict[str, Any]:
        """Returns everything but the arrays as plain data."""
        kept = {n: v for n, v in vars(self).items() if n not in _NOT_IN_HEADER}
        return kept | {"record": self.record and dataclasses.asdict(self.record)}

    @classmethod
    def read(
        cls, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> "Checkpoint":
        """Returns the checkpoint with this `header` and these `arrays`.

        Raises:
            TypeError, ValueError: If the header is not that of a checkpoint.
        """
        at = cls(**header, arrays=arrays or {})
        if isinstance(at.record, Mapping):
            at.record = Round.read(at.record)
        checks.fields(
            at,
            {
                **dict.fromkeys(("round", "epoch", "step", "since"), checks.WHOLE),
                **dict.fromkeys(("rewound", "again", "settled"), checks.BOOL),
                "seconds": checks.NUMBER,
                "history": checks.dict_of(checks.list_of(checks.NUMBER)),
                "callbacks": checks.list_of(checks.DICT),
                "steps_per_epoch": checks.or_none(checks.WHOLE),
                "record": checks.Kind(
                    lambda record: isinstance(record, Round | None), "a record or None"
                ),
            },
        )
        return at


def load(
    run: Any, state: Mapping[str, np.ndarray], paths: Sequence[str], *, rewinds: bool
) -> tuple[list[Round], Checkpoint | None, dict, dict]:
    """Loads what a run directory holds of a search.

    Args:
        run: The `Run`.
        state: The engine's state now, whose arrays the saved ones must be like.
        paths: The paths of the masked weights.
        rewinds: Whether rounds start from a state "rewind".

    Returns:
        The records of the finished rounds, the checkpoint or `None`, and the states
        "start" and "rewind", each empty if there is none.
    """
    wanted = {name: (a.shape, a.dtype.kind) for name, a in state.items()}
    bits = {
        f"masks/{path}": ((-(-state[f"weights/{path}"].size // 8),), "u")
        for path in paths
    }
    del state  # The saved states need its memory.
    at = None
    if saved := run.load("current", wanted | bits):
        try:
            at = Checkpoint.read(saved[1], arrays=saved[0])
        except (TypeError, ValueError) as error:
            raise run.unfit("current", str(error)) from error
    records = run.check_whole(saved[1] if saved else None, rewinds=rewinds)
    start, rewind = run.load("start", wanted), None
    # Step k of an epoch that did not end will be seen again.
    if rewinds and at is not None and at.rewound:
        rewind = run.load("rewind", wanted)
    start, rewind = (found[0] if found else {} for found in (start, rewind))
    return records, at, start, rewind
