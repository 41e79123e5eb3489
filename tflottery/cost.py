"""Cost: what a search will take, told from two measured steps before it starts."""

import dataclasses
import time
from typing import Any

import numpy as np

from tflottery import calls, engines, plans, search
from tflottery import masks as masks_lib
from tflottery.config import LotteryConfig, check_criterion
from tflottery.engines import data as data_lib
from tflottery.engines import network
from tflottery.engines.ordered import is_ordered
from tflottery.progress import Progress, duration

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
        ds: the data to train on, likewise; it must know its number of batches.
        **arguments: the arguments of `find_ticket`.

    Returns:
        The `Cost`.

    Raises:
        TypeError: for an argument that `find_ticket` does not have.
        ValueError: as `find_ticket`, and where `ds` does not know how many batches it
            has.
    """
    config, validation_data = _read(arguments)
    engine = search.trainer_for(
        model, ds, config, validation_data, arguments.get("callbacks", ())
    ).engine
    steps = data_lib.steps_per_epoch(ds)
    if steps is None:
        raise ValueError(
            "`ds` does not know how many batches it has, so its cost cannot be told. "
            "Use `ds.apply(tf.data.experimental.assert_cardinality(batches))`."
        )
    paths = calls.paths_to_prune(engine.prunable, config)
    weights = engine.weights()
    masks = masks_lib.ones({path: weights[path] for path in paths})
    calls.check_reachable(masks, config)
    fraction = config.prune_fraction
    if config.rounds is not None:
        fraction = plans.fraction_for(
            masks,
            config.rounds,
            layer_fractions=config.layer_fractions,
            target_density=1 - config.target_sparsity,
        )
    plan = plans.plan(
        masks,
        fraction,
        layer_fractions=config.layer_fractions,
        target_density=1 - config.target_sparsity,
        rounds=config.rounds,
    )
    step_seconds, batch_seconds, state = _measured(engine, ds, validation_data)
    skipped = 0
    if config.retrain == "rewind":
        skipped = engine.batches(config.rewind_step) // steps
    epochs = config.epochs + (len(plan) - 1) * (config.epochs - skipped)
    batches = 0
    if validation_data is not None:
        batches = data_lib.steps_per_epoch(validation_data) or 0
    looks = epochs + len(plan)  # After every epoch, and after every round.
    return Cost(
        rounds=len(plan),
        steps=epochs * steps // engine.batches(1),
        seconds=epochs * steps * step_seconds + looks * batches * batch_seconds,
        disk_bytes=_disk(weights, masks, plan, state, rewinds=config.rewind_step > 0),
    )


def _read(arguments: dict[str, Any]) -> tuple[LotteryConfig, Any]:
    known = {field.name for field in dataclasses.fields(LotteryConfig)}
    settings = {n: v for n, v in arguments.items() if n in known}
    if "criterion" in settings:
        settings["criterion"] = check_criterion(settings["criterion"])
    others = {"validation_data", "run_dir", "resume", "callbacks", "verbose"}
    for name in arguments:
        if name not in known | others:
            raise TypeError(f"`find_ticket` has no argument {name!r}.")
    calls.check(
        arguments.get("criterion", "magnitude"),
        arguments.get("run_dir"),
        arguments.get("resume", "auto"),
    )
    Progress(arguments.get("verbose", "auto"))
    return LotteryConfig(**settings), arguments.get("validation_data")


def _measured(
    engine: engines.Engine, ds: Any, validation_data: Any
) -> tuple[float, float, dict[str, np.ndarray]]:
    """Returns the seconds of a step and of a validation batch, and the state."""
    model, keras = engine.model, network.keras_of(engine.model)
    times: list[float] = []

    class Probe(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            times.append(time.perf_counter())
            if len(times) == 3:
                engine.stop()

    given = getattr(model, "optimizer", None)
    epoch = ds.epoch if is_ordered(ds) else None
    engine.prepare(ds, rewind_step=0, callbacks=[Probe()])
    state = engine.state()
    try:
        engine.fit(
            ds,
            validation_data=None,
            epochs=3,  # As an epoch may have fewer than three steps.
            initial_epoch=0,
            callbacks=[Probe()],
            verbose=0,
        )
        batch_seconds = 0.0
        if validation_data is not None:
            batch_seconds = _of_validation(model, validation_data)
    finally:
        engine.restore(state, parts=("weights", "optimizer", "seeds"))
        engine.leave()
        if epoch is not None:
            ds.epoch = epoch
        if given is None:
            _uncompile(model)
    return (times[-1] - times[0]) / (len(times) - 1 or 1), batch_seconds, state


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


def _disk(
    weights: dict[str, np.ndarray],
    masks: masks_lib.Masks,
    plan: list[float],
    state: dict[str, np.ndarray],
    *,
    rewinds: bool,
) -> int:
    size = masks_lib.size(masks)
    masked = sum(weights[path].nbytes for path in masks)
    whole = sum(w.nbytes for w in weights.values()) - masked

    def ticket(density: float) -> float:
        return size / 8 + 3 * (density * masked + whole) + _HEADER

    states = (3 if rewinds else 2) * (sum(a.nbytes for a in state.values()) + _HEADER)
    return int(sum(map(ticket, plan)) + ticket(plan[-1]) + states)
