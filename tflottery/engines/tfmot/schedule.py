"""Schedule: the rounds of a lottery-ticket search as a tfmot PruningSchedule."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from tflottery.core import checks, plan
from tflottery.core.masks import Masks
from tflottery.engines.tfmot.imported import sparsity, tf, tf_keras


@tf_keras.utils.register_keras_serializable(package="tflottery")
class LotterySchedule(sparsity.PruningSchedule):
    """Iterative magnitude pruning with rewinding, for tfmot's `prune_low_magnitude`.

    In a single `fit` the network is trained for `rounds + 1` times `steps_per_round`
    steps: first dense (round 0), then after each pruning. `RewindToInit` prunes and
    rewinds between the rounds; this schedule says when and how much, and keeps tfmot's
    wrapper from computing masks of its own, as those would move.

    Example:

    ```python
    schedule = tflottery.LotterySchedule(rounds=5, steps_per_round=469)
    model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    search = tflottery.RewindToInit()
    model.fit(ds, epochs=schedule.total_steps // 469, callbacks=[search])
    search.ticket.summary()
    ```

    Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", section 1; rewinding to
    step k from Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket
    Hypothesis".

    Args:
        rounds: how many times to prune, at least 1; 1 is one-shot pruning. By default
            as often as `prune_fraction` takes to reach `target_sparsity`.
        steps_per_round: optimizer steps of each training between prunings, at least 1.
            With a multiple of an epoch's steps, each round's ticket is judged by the
            metrics of its last epoch.
        prune_fraction: the share of the weights left to prune after each round, in
            (0, 1). By default 0.2, or what takes `rounds` to `target_sparsity`.
        target_sparsity: the share of all wrapped weights to prune in the end, in
            (0, 1). It is met exactly, unless `prune_fraction` is given and some
            `layer_fractions` are lower. By default what the rounds come to.
        rewind_step: the optimizer step k to rewind to, in [0, `steps_per_round`).

    Raises:
        ValueError: for an argument out of range.

    >>> schedule = LotterySchedule(rounds=2, steps_per_round=100, prune_fraction=0.5)
    >>> [schedule.sparsity(r) for r in range(3)], schedule.total_steps
    ([0.0, 0.5, 0.75], 300)
    """

    def __init__(
        self,
        *,
        rounds: int | None = None,
        steps_per_round: int,
        prune_fraction: float | None = None,
        target_sparsity: float | None = None,
        rewind_step: int = 0,
    ):
        if prune_fraction is not None:
            checks.fraction("prune_fraction", prune_fraction)
        if target_sparsity is not None and not 0 < target_sparsity < 1:
            raise ValueError(
                "`target_sparsity` must be in (0, 1), both ends excluded: the share "
                "of the wrapped weights that are zero in the end. Received: "
                f"target_sparsity={target_sparsity!r}"
            )
        given = (rounds, prune_fraction, target_sparsity)
        if None not in given or (rounds is None and target_sparsity is None):
            raise ValueError(
                "`rounds`, `target_sparsity` or both must be given, and of these and "
                "`prune_fraction` two at most, as the third follows. Received: "
                f"rounds={rounds}, target_sparsity={target_sparsity}, "
                f"prune_fraction={prune_fraction}"
            )
        self._given = {
            "rounds": None if rounds is None else _count("rounds", rounds, 1),
            "steps_per_round": _count("steps_per_round", steps_per_round, 1),
            "prune_fraction": prune_fraction,
            "target_sparsity": target_sparsity,
            "rewind_step": _count("rewind_step", rewind_step, 0),
        }
        if rewind_step >= steps_per_round:
            raise ValueError(
                f"`rewind_step` must lie within a round, which has {steps_per_round} "
                f"steps. Received: rewind_step={rewind_step}"
            )
        fraction = 0.2 if prune_fraction is None else prune_fraction
        if target_sparsity is None:
            target_sparsity = 1 - (1 - fraction) ** int(rounds or 1)
        elif rounds is None:
            needed = math.log1p(-target_sparsity) / math.log1p(-fraction)
            rounds = math.ceil(needed - 1e-9)
        else:
            fraction = 1 - (1 - target_sparsity) ** (1 / rounds)
        self.rounds = int(rounds or 1)
        self.steps_per_round = int(steps_per_round)
        self.prune_fraction = float(fraction)
        self.target_sparsity = float(target_sparsity)
        self.rewind_step = int(rewind_step)

    @property
    def total_steps(self) -> int:
        """The steps that the whole search takes, the dense round 0 included."""
        return (self.rounds + 1) * self.steps_per_round

    def sparsity(self, round: int) -> float:
        """Returns the sparsity that is held in a round, in [0, 1)."""
        if round >= self.rounds:
            return self.target_sparsity
        return min(1 - (1 - self.prune_fraction) ** round, self.target_sparsity)

    @property
    def target_density(self) -> float:
        """The share of all wrapped weights to keep at least, in [0, 1)."""
        return (
            0.0 if self._given["target_sparsity"] is None else 1 - self.target_sparsity
        )

    def fraction(
        self, masks: Masks, round: int, layer_fractions: Mapping[str, float]
    ) -> float:
        """Returns the share of the weights left to prune after a round, in (0, 1).

        Args:
            masks: what the round has held.
            round: its number.
            layer_fractions: prune fractions of their own for layers.

        Raises:
            ValueError: where those keep more than the target allows.
        """
        given = self._given
        last = round + 1 == self.rounds and not layer_fractions
        if given["target_sparsity"] is None or (given["rounds"] is None and not last):
            return self.prune_fraction
        return plan.fraction_for(
            masks,
            self.rounds - round,
            layer_fractions=layer_fractions,
            target_density=self.target_density,
        )

    @tf.autograph.experimental.do_not_convert
    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Returns that tfmot is not to prune now, and the sparsity at its step.

        Args:
            step: an integer tensor, how often the wrapper was called in training.

        Returns:
            A boolean tensor, always false, and a float32 tensor in [0, 1).
        """
        # Never in the step: tfmot ranks each tensor alone, prunes ties at will and
        # brings pruned weights back. A constant, so that its sorting is left out.
        planned = [self.sparsity(r) for r in range(self.rounds + 1)]
        number = tf.clip_by_value(
            tf.cast(step, tf.int64) // self.steps_per_round, 0, self.rounds
        )
        return tf.constant(False), tf.gather(tf.constant(planned, tf.float32), number)

    def get_config(self) -> dict[str, Any]:
        """Returns the class's name and the arguments, as tfmot's wrapper saves them."""
        return {
            "class_name": tf_keras.utils.get_registered_name(type(self)),
            "config": dict(self._given),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LotterySchedule":
        """Returns the schedule of a `get_config()`, or of its arguments alone."""
        return cls(**config.get("config", config))


def _count(name: str, value: Any, least: int) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. "
            f"Received: {name}={value!r}"
        )
    return int(value)
