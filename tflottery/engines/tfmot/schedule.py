"""Schedule: the rounds of a lottery-ticket search as a tfmot PruningSchedule."""

import math
from collections.abc import Mapping
from typing import Any

from tflottery.core import checks, plan
from tflottery.core.masks import Masks
from tflottery.engines.tfmot.imported import sparsity, tf, tf_keras


@tf_keras.utils.register_keras_serializable(package="tflottery")
class LotterySchedule(sparsity.PruningSchedule):
    """Iterative magnitude pruning with rewinding, for tfmot's `prune_low_magnitude`.

    A single `fit` trains `rounds + 1` rounds of `steps_per_round` steps each: the dense
    network (round 0), then the network after each pruning. `RewindToInit` prunes and
    rewinds between the rounds. This schedule says when and how much, and keeps tfmot's
    wrapper from computing its own masks, which would move.

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
        rounds: Number of prunings, at least 1; 1 is one-shot pruning. By default as
            many as `prune_fraction` needs to reach `target_sparsity`.
        steps_per_round: Number of optimizer steps per round, at least 1. If it is a
            multiple of the steps per epoch, each round's ticket is judged by the
            metrics of its last epoch.
        prune_fraction: The share of the remaining weights to prune after each round, in
            (0, 1). By default 0.2, or whatever reaches `target_sparsity` in `rounds`.
        target_sparsity: The share of all wrapped weights to prune in the end, in
            (0, 1). It is met exactly, unless `prune_fraction` is given and some
            `layer_fractions` are lower. By default what `rounds` prunings reach.
        rewind_step: The optimizer step k to rewind to, in [0, `steps_per_round`).

    Raises:
        ValueError: If an argument is out of range.

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
        if rounds is not None:
            rounds = checks.whole("rounds", rounds, 1)
        steps_per_round = checks.whole("steps_per_round", steps_per_round, 1)
        rewind_step = checks.whole("rewind_step", rewind_step)
        if prune_fraction is not None:
            prune_fraction = checks.fraction("prune_fraction", prune_fraction)
        if target_sparsity is not None:
            target_sparsity = checks.fraction(
                "target_sparsity",
                target_sparsity,
                "the share of the wrapped weights that are zero in the end",
            )
        if (rounds is None and target_sparsity is None) or (
            None not in (rounds, prune_fraction, target_sparsity)
        ):
            raise ValueError(
                "Give `rounds`, `target_sparsity` or both. `prune_fraction` can be "
                "added to either, but not to both: it follows from them. Received: "
                f"rounds={rounds}, target_sparsity={target_sparsity}, "
                f"prune_fraction={prune_fraction}"
            )
        if rewind_step >= steps_per_round:
            raise ValueError(
                f"`rewind_step` must be within a round, which has {steps_per_round} "
                f"steps. Received: rewind_step={rewind_step}"
            )
        self._given = {
            "rounds": rounds,
            "steps_per_round": steps_per_round,
            "prune_fraction": prune_fraction,
            "target_sparsity": target_sparsity,
            "rewind_step": rewind_step,
        }
        fraction = 0.2 if prune_fraction is None else prune_fraction
        if rounds is None:
            assert target_sparsity is not None
            needed = math.log1p(-target_sparsity) / math.log1p(-fraction)
            rounds = math.ceil(needed - 1e-9)
        elif target_sparsity is None:
            target_sparsity = 1 - (1 - fraction) ** rounds
        else:
            fraction = 1 - (1 - target_sparsity) ** (1 / rounds)
        self.rounds = rounds
        self.followed = False  # Whether a RewindToInit prunes by it.
        self.steps_per_round = steps_per_round
        self.prune_fraction = fraction
        self.target_sparsity = target_sparsity
        self.rewind_step = rewind_step

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole search, including the dense round 0."""
        return (self.rounds + 1) * self.steps_per_round

    def sparsity(self, round: int) -> float:
        """Returns the sparsity during a round, in [0, 1)."""
        if round >= self.rounds:
            return self.target_sparsity
        return min(1 - (1 - self.prune_fraction) ** round, self.target_sparsity)

    @property
    def target_density(self) -> float:
        """The share of all wrapped weights that is kept at least, in [0, 1)."""
        given = self._given["target_sparsity"]
        return 0.0 if given is None else 1 - self.target_sparsity

    def fraction(
        self, masks: Masks, round: int, layer_fractions: Mapping[str, float]
    ) -> float:
        """Returns the share of the remaining weights to prune after a round, in (0, 1).

        Raises:
            ValueError: If the `layer_fractions` keep too much to reach the target.
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
        """Tells tfmot not to prune now, and the sparsity at its step.

        Raises:
            ValueError: If no `RewindToInit` follows it: nothing would be pruned.
        """
        if not self.followed:
            raise ValueError(
                "A LotterySchedule prunes between its rounds, in the callback "
                "`tflottery.RewindToInit()`; tfmot's UpdatePruningStep alone prunes "
                "nothing. Add it to the `callbacks` of `fit`."
            )
        # tfmot itself must never prune: it ranks each tensor alone, breaks ties at will
        # and revives pruned weights. A constant keeps its sorting out of the graph.
        planned = [self.sparsity(r) for r in range(self.rounds + 1)]
        number = tf.clip_by_value(
            tf.cast(step, tf.int64) // self.steps_per_round, 0, self.rounds
        )
        return tf.constant(False), tf.gather(tf.constant(planned, tf.float32), number)

    def get_config(self) -> dict[str, Any]:
        """Returns the class name and the arguments, in the form that tfmot saves."""
        return {
            "class_name": tf_keras.utils.get_registered_name(type(self)),
            "config": dict(self._given),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LotterySchedule":
        """Returns the schedule of a `get_config()`, or of only its arguments."""
        return cls(**config.get("config", config))
