"""Settling: ends a round once the masks that pruning would give no longer change.

You et al. 2020, "Drawing Early-Bird Tickets", section 3.3, compare the newest mask with
the four before it. Zhang et al. 2021, "Efficient Lottery Ticket Finding: Less Data is
More", end the rounds of an iterative search so.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig
from tflottery.core.masks import Masks, Weights
from tflottery.search.checkpoint import Checkpoint

BEFORE = 4  # The newest masks are compared with so many before them.
_A_ROUND = 100  # So often are masks drawn in a round as long as the dense one, at most.

Drawn = list[dict[str, np.ndarray]]
"""The bits of the masks that were drawn last, at most `BEFORE` of them."""


def interval(steps: int, weights: int) -> int:
    """Returns the number of steps from one draw of masks to the next.

    It follows from counts alone, so that a search that resumes, or runs on another
    machine, decides the same. Drawing must take at most 2 % of the time. Its own time,
    and that of a step, are a constant and a part that grows with the weights.

    Args:
        steps: Optimizer steps of the dense round.
        weights: Weights that the masks cover.

    >>> interval(9170, 266_200), interval(400, 20_000)
    (92, 23)
    """
    drawing, step = 0.2 + 6e-6 * weights, 0.6 + 5e-6 * weights  # In ms.
    return max(math.ceil(steps / _A_ROUND), math.ceil(50 * drawing / step))


def settles(
    drawn: Drawn,
    weights: Weights,
    draw: Callable[[Weights], Masks],
    masks: Masks,
    limit: float,
) -> bool:
    """Draws the masks that pruning now would give; returns whether they have settled.

    They have if the new ones differ from each of the four before by at most `limit`.
    The difference is the Hamming distance, of the weights that are pruned, divided by
    the number of weights that the round has left, as in both papers. Where less than a
    fifth of these is pruned, five times the pruned ones take their place: else masks of
    small fractions would be alike from the start.

    Args:
        drawn: The masks drawn before; the new ones are added.
        weights: The weights now. If one is not finite, nothing is drawn.
        draw: Returns the masks that pruning them would give.
        masks: The masks of the round.
        limit: As above.

    >>> now, drawn = {"w": np.ones(4, bool)}, []
    >>> new = {"w": np.array([True, True, True, False])}
    >>> [settles(drawn, {}, lambda weights: new, now, 0.1) for _ in range(6)]
    [False, False, False, False, True, True]
    """
    if not all(np.isfinite(np.sum(w, dtype=np.float64)) for w in weights.values()):
        return False  # The round diverges, as its end will tell.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pruning itself will warn.
        new = draw(weights)
    bits = {path: masks_lib.pack(mask) for path, mask in new.items()}
    left = masks_lib.kept(masks)
    most = limit * min(left, 5 * (left - masks_lib.kept(new)))
    settled = len(drawn) == BEFORE and all(
        sum(
            np.unpackbits(np.bitwise_xor(bits[p], b)).sum(dtype=np.int64)
            for p, b in each.items()
        )
        <= most
        for each in drawn
    )
    drawn[:] = [*drawn, bits][-BEFORE:]
    return settled


def ends_when_settled(
    engine: Any,
    at: Checkpoint,
    steps: int,
    draw: Callable[[Weights], Masks],
    config: LotteryConfig,
) -> Any:
    """Returns a callback that ends a round once its masks have settled.

    Args:
        engine: Trains the model.
        at: Where the round stands; it keeps what is drawn.
        steps: Optimizer steps of the dense round.
        draw: Returns the masks that pruning some weights would give.
        config: How to search.
    """
    apart = interval(steps, masks_lib.size(at.masks))
    every = engine.batches(apart)
    if at.round == 1 and (BEFORE + 1) * apart >= steps:
        warnings.warn(
            f"`settle` cannot end any round: masks are drawn every {apart} steps, at "
            f"least {BEFORE + 1} times, and a round has {steps} steps. All rounds "
            "train in full. Leave `settle` out, or train for more `epochs`.",
            stacklevel=7,
        )
    assert config.settle is not None
    limit = config.settle

    class Draws(engine.keras.callbacks.Callback):
        _supports_tf_logs = True  # tf_keras need not convert logs at every step.

        def on_epoch_begin(self, epoch, logs=None):
            self._seen, left = -1, self.params["epochs"] - epoch - 1
            # There is nothing left to cut after this batch; unknown without "steps".
            self._last = math.inf if left else self.params.get("steps") or math.inf

        def on_train_batch_end(self, batch, logs=None):
            at.since, self._seen = at.since + batch - self._seen, batch
            if at.since < every or batch + 1 >= self._last:
                return
            at.since, model = 0, self.model  # On JAX, brings variables up to date.
            at.settled = settles(at.drawn, engine.averaged(), draw, at.masks, limit)
            model.stop_training = model.stop_training or at.settled

    return Draws()
