"""Cost: what a search will take, told from two measured steps before it starts."""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.core import masks as masks_lib
from tflottery.core import plan as plan_lib
from tflottery.core.config import LotteryConfig, check_criterion
from tflottery.core.records import Round
from tflottery.engines import data as data_lib
from tflottery.engines import network
from tflottery.engines.shuffling import is_ordered
from tflottery.search import arguments as arguments_lib
from tflottery.search import loop
from tflottery.search.progress import Progress, duration
from tflottery.search.trainer import Trainer

_HEADER = 4096  # Bytes of the names and checksums in one file, roughly.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a search takes at most; callbacks that stop a round early make it less.

    Attributes:
        rounds: rounds of training, the dense round 0 included.
        steps: optimizer steps of all rounds.
        seconds: time for the steps and the validation on this machine; the first
            step's tracing, the writing of files and what callbacks do are not in it.
        disk_bytes: size of the run directory in the end.
    """

    rounds: int
    steps: int
    seconds: float
    disk_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.steps:,} steps, about "
            f"{duration(self.seconds)}; {self.disk_bytes / 1e6:,.1f} MB in a `run_dir`"
        )


def estimate_cost(model: Any, ds: Any, **arguments: Any) -> Cost:
    """Returns what `find_ticket(model, ds, **arguments)` would take.

    Three steps are trained and the last two timed, then everything is put back: the
    model's weights, optimizer and settings are what they were.

    Example:

    ```python
    print(tflottery.estimate_cost(model, ds, validation_data=val, epochs=30))
    ```

    Args:
        model: the model to search, as for `find_ticket`.
        ds: the data to train on, likewise; it must know its number of batches, and
            `validation_data` too.
        **arguments: the arguments of `find_ticket`.

    Returns:
        The `Cost`.

    Raises:
        TypeError: for an argument that `find_ticket` does not have.
        ValueError: as `find_ticket`, and where data does not know how many batches it
            has.
    """
    config, validation_data = _read(arguments)
    trainer = loop.trainer_for(
        model, ds, config, validation_data, arguments.get("callbacks", ())
    )
    steps, batches = _batches("ds", ds), 0
    if validation_data is not None:
        batches = _batches("validation_data", validation_data)
    engine, masks = trainer.engine, trainer.dense()
    plan = plan_lib.plan(masks, config)
    step_seconds, batch_seconds, state, logs = _measured(trainer)
    skipped = 0
    if config.retrain == "rewind":
        skipped = engine.batches(config.rewind_step) // steps
    later = config.epochs - skipped
    epochs = config.epochs + (len(plan) - 1) * later
    looks = epochs + len(plan)  # After every epoch, and after every round.
    disk = _arrays(engine.weights(), masks, plan, state, config)
    disk += _records(len(plan), config.epochs, later, logs, masks)
    return Cost(
        rounds=len(plan),
        steps=epochs * steps // engine.batches(1),
        seconds=epochs * steps * step_seconds + looks * batches * batch_seconds,
        disk_bytes=disk,
    )


def _batches(name: str, data: Any) -> int:
    """Returns the number of batches of the argument `name`."""
    batches = data_lib.steps_per_epoch(data)
    if batches is None:
        raise ValueError(
            f"`{name}` does not know how many batches it has, so its cost cannot be "
            f"told. Use `{name}.apply(tf.data.experimental.assert_cardinality("
            "batches))`."
        )
    return batches


def _read(arguments: dict[str, Any]) -> tuple[LotteryConfig, Any]:
    known = {field.name for field in dataclasses.fields(LotteryConfig)}
    settings = {n: v for n, v in arguments.items() if n in known}
    if "criterion" in settings:
        settings["criterion"] = check_criterion(settings["criterion"])
    others = {"validation_data", "run_dir", "resume", "callbacks", "verbose"}
    for name in arguments:
        if name not in known | others:
            raise TypeError(f"`find_ticket` has no argument {name!r}.")
    arguments_lib.check(
        arguments.get("criterion", "magnitude"),
        arguments.get("run_dir"),
        arguments.get("resume", "auto"),
    )
    Progress(arguments.get("verbose", "auto"))
    return LotteryConfig(**settings), arguments.get("validation_data")


def _measured(
    trainer: Trainer,
) -> tuple[float, float, dict[str, np.ndarray], list[str]]:
    """Returns the seconds of a step and of a validation batch, the state, the logs."""
    engine, ds, validation_data = trainer.engine, trainer.ds, trainer.validation_data
    model, keras = engine.model, network.keras_of(engine.model)
    times: list[float] = []
    names: list[str] = []

    class Probe(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            times.append(time.perf_counter())
            if len(times) == 3:
                engine.stop()

        def on_epoch_end(self, epoch, logs=None):
            names[:] = logs or {}

    given = getattr(model, "optimizer", None)
    epoch = ds.epoch if is_ordered(ds) else None
    trainer.callbacks = [Probe()]  # It asks for every batch, so executions are single.
    state: dict[str, np.ndarray] = {}
    batch_seconds = 0.0
    try:
        trainer.prepare()
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
            batch_seconds = _of_validation(model, validation_data)
            names += [f"val_{name}" for name in names]
    finally:
        if state:
            engine.restore(state, parts=("weights", "optimizer", "seeds"))
        engine.leave()
        if epoch is not None:
            ds.epoch = epoch
        if given is None:
            _uncompile(model)
    step_seconds = (times[-1] - times[0]) / (len(times) - 1 or 1)
    return step_seconds, batch_seconds, state, names


def _uncompile(model: Any) -> None:
    for name in ("compiled", "_is_compiled"):  # Of Keras 3, and of tf_keras.
        if name in vars(model):
            setattr(model, name, False)
    model.optimizer = None


def _of_validation(model: Any, data: Any) -> float:
    x, y = data_lib.first_batch(data, "validation_data")
    if isinstance(data, tuple | list):
        x, y = (part[:32] if hasattr(part, "shape") else part for part in (x, y))
    seconds = 0.0
    for _ in range(2):  # The first one is traced.
        began = time.perf_counter()
        model.test_on_batch(x, y)
        seconds = time.perf_counter() - began
    model.reset_metrics()
    return seconds


def _arrays(
    weights: dict[str, np.ndarray],
    masks: masks_lib.Masks,
    plan: Sequence[float],
    state: dict[str, np.ndarray],
    config: LotteryConfig,
) -> int:
    """Returns the bytes of the arrays in a run directory."""
    bits = masks_lib.size(masks) / 8
    masked = sum(weights[path].nbytes for path in masks)
    whole = sum(w.nbytes for w in weights.values()) - masked

    def ticket(density: float) -> float:
        return bits + 3 * (density * masked + whole) + _HEADER

    states = 3 if config.rewind_step > 0 else 2
    states *= sum(a.nbytes for a in state.values()) + _HEADER
    return int(sum(map(ticket, plan)) + ticket(plan[-1]) + states + bits)


def _records(
    rounds: int, first: int, later: int, logs: Sequence[str], masks: masks_lib.Masks
) -> int:
    """Returns the bytes of the rounds' records; each is in all tickets from its own on.

    Args:
        rounds: rounds of training.
        first: epochs of the dense round.
        later: epochs of each other round.
        logs: the names of what an epoch logs.
        masks: the paths of the densities.
    """
    number = 2 / 3  # As long as most numbers are.

    def size(epochs: int) -> int:
        record = Round(
            round=0,
            sparsity=number,
            density_per_layer=dict.fromkeys(masks, number),
            metrics=dict.fromkeys(logs, number),
            history={name: [number] * epochs for name in logs},
            steps=0,
        )
        return len(json.dumps(dataclasses.asdict(record)))

    # In its own file, in the tickets of its round and the later ones, in the chosen
    # one; and the last one, its history twice, in the state.
    pairs = rounds * (rounds - 1) // 2
    times_first, times_later = rounds + 2, pairs + 2 * (rounds - 1) + 2
    return times_first * size(first) + times_later * size(later)
