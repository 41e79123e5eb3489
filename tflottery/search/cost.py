"""Cost: what a search will take, from two measured steps before it starts."""

import dataclasses
import inspect
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.core import checks, paths
from tflottery.core import masks as masks_lib
from tflottery.core import plan as plan_lib
from tflottery.core.config import LotteryConfig
from tflottery.engines import data as data_lib
from tflottery.engines.shuffling import is_ordered
from tflottery.search import settling
from tflottery.search.loop import TICKET, find_ticket, prepared
from tflottery.search.progress import duration
from tflottery.search.trainer import Trainer

_FILE = 4096  # Bytes of the names, records and checksums in one file, roughly.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a search takes at most; callbacks that stop rounds early make it less.

    Attributes:
        rounds: Rounds of training, including the dense round 0.
        steps: Optimizer steps of all rounds.
        seconds: Time for the steps and the validation on this machine, without tracing
            the first step, writing files and whatever callbacks do.
        disk_bytes: Size of the arrays in the run directory at the end.
        least_steps, least_seconds: The same with `settle`, if every round settles as
            soon as it can and the last one wins.
    """

    rounds: int
    steps: int
    seconds: float
    disk_bytes: int
    least_steps: int
    least_seconds: float

    def __str__(self) -> str:
        steps, seconds = f"{self.steps:,}", duration(self.seconds)
        if self.least_steps < self.steps:
            steps = f"{self.least_steps:,} to {steps}"
            seconds = f"{duration(self.least_seconds)} to {seconds}"
        return (
            f"{self.rounds} rounds, {steps} steps, about {seconds}; "
            f"{self.disk_bytes / 1e6:,.1f} MB in a `run_dir`"
        )


def estimate_cost(model: Any, ds: Any, y: Any = None, **arguments: Any) -> Cost:
    """Returns what `find_ticket(model, ds, y, **arguments)` would take.

    Trains three steps and times the last two, then puts everything back: the model's
    weights, optimizer and settings are what they were.

    Example:

    ```python
    print(tflottery.estimate_cost(model, ds, validation_data=val, epochs=30))
    ```

    Args:
        model: The model to search, as for `find_ticket`.
        ds: The training data, as for `find_ticket`. It must know its number of batches,
            and so must `validation_data`.
        y: The labels, as for `find_ticket`.
        **arguments: The other arguments of `find_ticket`.

    Raises:
        TypeError: If `find_ticket` has no such argument.
        ValueError: If `find_ticket` would raise it, or if data does not know its
            number of batches.
    """
    bound = inspect.signature(find_ticket).bind(model, ds, y, **arguments)
    bound.apply_defaults()
    # A ticket says what is left to prune, and must not change the model.
    given, bound.arguments["ticket"] = bound.arguments["ticket"], None
    checks.check("ticket", given, TICKET)
    trainer, _ = prepared(**bound.arguments)
    config, settings = trainer.config, trainer.engine.settings
    steps, batches = _batches("ds", trainer.ds, settings), 0
    validation_data = trainer.validation_data
    if validation_data is not None:
        judged = data_lib.FitSettings(
            batch_size=settings.validation_batch_size or settings.batch_size,
            steps_per_epoch=settings.validation_steps,
        )
        batches = _batches("validation_data", validation_data, judged)
    engine = trainer.engine
    masks = trainer.masks
    if given is not None:
        mapping = paths.align(given.trained, engine.weights())
        masks |= {mapping[path]: mask for path, mask in given.masks.items()}
    plan = plan_lib.plan(masks, config)
    step_seconds, batch_seconds, state = _measured(trainer)
    skipped = 0
    if config.retrain == "rewind":
        skipped = engine.batches(config.rewind_step) // steps
    later, short = config.epochs - skipped, len(plan) - 2
    most = least = config.epochs + (len(plan) - 1) * later
    if config.settle is not None:
        dense = config.epochs * steps // engine.batches(1)
        every = settling.interval(dense, masks_lib.size(masks))
        soonest = engine.batches((settling.BEFORE + 1) * every) / steps
        least -= short * max(0, later - soonest)
        if config.select != "last":  # A bisection over all but the last round.
            most += short.bit_length() * later

    def seconds(epochs: float) -> float:
        evaluations = epochs + len(plan)  # After every epoch, and after every round.
        return epochs * steps * step_seconds + evaluations * batches * batch_seconds

    return Cost(
        rounds=len(plan),
        steps=most * steps // engine.batches(1),
        seconds=seconds(most),
        disk_bytes=_disk(engine.weights(), masks, plan, state, config),
        least_steps=round(least * steps) // engine.batches(1),
        least_seconds=seconds(least),
    )


def _batches(name: str, data: Any, settings: data_lib.FitSettings) -> int:
    """Returns the number of batches of the argument `name`."""
    batches = data_lib.steps_per_epoch(data, settings)
    if batches is None:
        raise ValueError(
            f"`{name}` does not know how many batches it has, so its cost is unknown. "
            f"Use `{name}.apply(tf.data.experimental.assert_cardinality(batches))`."
        )
    return batches


def _measured(trainer: Trainer) -> tuple[float, float, dict[str, np.ndarray]]:
    """Returns the seconds of a step and of a validation batch, and the state."""
    engine, ds, validation_data = trainer.engine, trainer.ds, trainer.validation_data
    model, times = engine.model, []

    class Probe(engine.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            times.append(time.perf_counter())
            if len(times) == 3:
                model.stop_training = True

    compiled = getattr(model, "optimizer", None) is not None
    epoch = ds.epoch if is_ordered(ds) else None
    trainer.callbacks = [Probe()]  # It asks for every batch: one step per execution.
    state: dict[str, np.ndarray] = {}
    batch_seconds = 0.0
    try:
        engine.prepare(
            ds,
            validation_data=validation_data,
            rewind_step=trainer.config.rewind_step,
            callbacks=trainer.callbacks,
        )
        state = engine.state()
        engine.fit(
            ds,
            validation_data=None,
            epochs=3,  # As an epoch may have fewer than three steps.
            initial_epoch=0,
            callbacks=trainer.callbacks,
            verbose=0,
        )
        if validation_data is not None:
            given = engine.settings
            rows = given.validation_batch_size or given.batch_size or 32
            batch_seconds = _of_validation(model, validation_data, rows)
    finally:
        if state:
            engine.restore(state)
        trainer.put_back()
        if epoch is not None:
            ds.epoch = epoch
        if not compiled:
            for name in ("compiled", "_is_compiled"):  # Of Keras 3, and of tf_keras.
                if name in vars(model):
                    setattr(model, name, False)
            model.optimizer = None
    return (times[-1] - times[0]) / (len(times) - 1 or 1), batch_seconds, state


def _of_validation(model: Any, data: Any, rows: int) -> float:
    if isinstance(data, tuple | list):
        data = data_lib.map_arrays(lambda a: data_lib.rows(a, 0, rows), data)
        data = data_lib.map_arrays(
            lambda a: a.toarray() if hasattr(a, "tocsr") else a, data
        )
    x, y = data_lib.first_batch(data, "validation_data")
    seconds = 0.0
    for _ in range(2):  # The first one is traced.
        began = time.perf_counter()
        model.test_on_batch(x, y)
        seconds = time.perf_counter() - began
    model.reset_metrics()
    return seconds


def _disk(
    weights: dict[str, np.ndarray],
    masks: masks_lib.Masks,
    plan: Sequence[float],
    state: dict[str, np.ndarray],
    config: LotteryConfig,
) -> int:
    """Returns the bytes of the files in a run directory."""
    bits = masks_lib.size(masks) / 8
    masked = sum(weights[path].nbytes for path in masks)
    whole = sum(w.nbytes for w in weights.values()) - masked

    def ticket(density: float) -> float:
        return bits + 3 * (density * masked + whole) + _FILE

    states = 3 if config.rewind_step > 0 else 2
    states *= sum(a.nbytes for a in state.values()) + _FILE
    return int(sum(map(ticket, plan)) + ticket(plan[-1]) + states + bits)
