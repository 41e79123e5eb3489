"""Trainer: one round of training, from its start or from where it was interrupted."""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tflottery import engines
from tflottery.core import masks as masks_lib
from tflottery.core import plan
from tflottery.core.config import LotteryConfig, choose_monitor
from tflottery.core.masks import Masks, Weights
from tflottery.core.records import Round
from tflottery.engines import building, network, shuffling
from tflottery.engines import callbacks as callbacks_lib
from tflottery.engines import data as data_lib
from tflottery.engines.engine import Engine, as_numbers
from tflottery.search import callback_state, checkpoint, settling
from tflottery.search.checkpoint import Checkpoint

_REWOUND = {
    "rewind": ("weights", "optimizer"),
    "learning_rate": ("optimizer",),
    "fine_tune": (),
}


def engine_for(model: Any, include: Sequence[str] = ()) -> Engine:
    """Returns the engine for `model`; see `engines.engine.Engine`."""
    if network.keras_of(model).__name__ == "tf_keras":
        from tflottery.engines.tf_keras import TfKerasEngine

        return TfKerasEngine(model, include)
    from tflottery.engines.keras3 import Keras3Engine

    return Keras3Engine(model, include)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished round: its record, its masks, and all weights after it (θT)."""

    record: Round
    masks: Masks
    weights: Weights


class Trainer:
    """Trains the rounds of one search.

    Args:
        model, ds, validation_data, callbacks, ticket: As for `find_ticket`.
        config: How to search.
        settings: What `fit` takes besides.

    Attributes:
        engine: Trains the model.
        paths: The paths of the weights to prune.
        masks: The masks of round 0: those that the model holds, else they keep every
            weight.
        coverage: The share of the weights that can be pruned, and a text that says so.
        monitor: The metric that tells a winning ticket; empty until it is known.
        rewind_state: The state at step k; empty until the search has been there.
        progress: Shows how the search goes on, or `None`.
        drawing: Returns what draws a round's next masks, or `None`; see `settling`.

    Raises:
        TypeError: If `model` is not a Keras model, or a callback is not one.
        ValueError: If the model or the data cannot be searched.
    """

    def __init__(
        self,
        model: Any,
        ds: Any,
        config: LotteryConfig,
        validation_data: Any = None,
        callbacks: Sequence[Any] = (),
        settings: data_lib.FitSettings = data_lib.PLAIN,
        ticket: Any = None,
    ):
        if not getattr(model, "built", True):
            building.build(model, ds)
        if ticket is not None:
            ticket.apply(model)
        self.engine = engine = engine_for(model, config.include)
        engine.settings = settings
        kind = engine.keras.callbacks.Callback
        if not isinstance(callbacks, list | tuple) or not all(
            isinstance(callback, kind) for callback in callbacks
        ):
            raise TypeError(
                f"`callbacks` must be a list of {engine.keras.__name__}.callbacks."
                f"Callback. Received: callbacks={callbacks!r}"
            )
        self.callbacks = list(callbacks)
        if callbacks:
            callback_state.check(callbacks)
        self.ds, self.validation_data = ds, validation_data
        data_lib.check("ds", ds, settings)
        if validation_data is not None:
            data_lib.check("validation_data", validation_data, settings)
        self.config = config
        self.paths = plan.choose(engine.prunable, config.skip, config.layer_fractions)
        self.masks = masks_lib.ones({p: engine.prunable[p] for p in self.paths})
        self.coverage = masks_lib.coverage(engine.prunable, engine.sizes)
        self._given_ticket = getattr(model, "ticket", None)
        if engine.held:
            self._check_held()
            self.masks |= engine.held
        self.monitor = config.monitor or ""
        self.progress: Any = None
        self.drawing: Callable[[Checkpoint], Any] | None = None
        self._numbers = self._settings = []
        self._steps_per_epoch = data_lib.steps_per_epoch(ds, settings)
        self._uncounted = self._steps_per_epoch is None
        if config.rewind_step:
            self._check_rewind_step()
        data_lib.check_examples("ds", ds, engine.model)
        if validation_data is not None:
            data_lib.check_examples("validation_data", validation_data, engine.model)
        self._batches = ds
        if config.seed is not None:
            self._batches = shuffling.seeded(
                ds, settings, seed=config.seed, keras=engine.keras
            )
        if self.callbacks:
            self._numbers = self._settings = callback_state.numbers_in(self.callbacks)
        self._run: Any = None
        self._start: Mapping[str, np.ndarray] = {}
        self.rewind_state: Mapping[str, np.ndarray] = {}
        self._first_step = 0

    def _check_held(self) -> None:
        for path in self.engine.held:
            if path not in self.paths:
                raise ValueError(
                    f"`model` holds a mask of {path!r}, which this search does not "
                    "prune. Name it in `include`, take it out of `skip`, or call "
                    "`tflottery.release(model)`."
                )

    def _check_rewind_step(self) -> None:
        if self._steps_per_epoch is None:
            return
        k, epochs = self.config.rewind_step, self.config.epochs
        batches = epochs * self._steps_per_epoch
        if self.engine.batches(k) >= batches:
            raise ValueError(
                f"`rewind_step` must lie within a round, which has "
                f"{batches // self.engine.batches(1)} steps ({epochs} epochs of "
                f"{self._steps_per_epoch}). Received: rewind_step={k}"
            )

    def open(self, run: Any = None) -> tuple[list[Round], Checkpoint | None]:
        """Goes to where the search starts, and loads what `run` holds of it.

        Returns:
            The records of the finished rounds, and where the search was interrupted,
            or `None` if it starts now.
        """
        engine, self._run = self.engine, run
        records, at, start, rewind = [], None, {}, {}
        if run:
            records, at, start, rewind = checkpoint.load(
                run, engine.state(), self.paths, rewinds=self.config.rewind_step > 0
            )
            start, rewind = light(start), light(rewind)
            if at is not None and self._uncounted:
                self._steps_per_epoch = at.steps_per_epoch
        self._start = start or light(engine.state())
        if run and not start:
            run.save("start", self._start, {})
        self.rewind_state = rewind if self.config.rewind_step > 0 else self._start
        if records:
            self.monitor = self.monitor or choose_monitor(records[0].metrics)
        engine.restore(self._start)
        if self.config.retrain == "fine_tune":
            self._first_step = engine.step()
        return records, at

    def resume(self, at: Checkpoint, records: Sequence[Round]) -> Trained | None:
        """Goes on from a checkpoint, and trains what is left of its round.

        Returns:
            The round, or `None` if it is among the finished ones.
        """
        state, at.arrays = at.arrays, {}
        self.engine.restore(state)
        callback_state.remind(self.callbacks, at.callbacks, state)
        if at.round < len(records) and not (at.again and not records[at.round].in_full):
            return None
        at.take_bits(state, self.paths)
        if at.record is not None:
            # The record has the paths of the network that was searched then.
            density = masks_lib.density_per_layer(at.masks)
            at.record = dataclasses.replace(at.record, density_per_layer=density)
        at.began = time.monotonic() - at.seconds
        at.arrays = {n: a for n, a in state.items() if n.startswith("callbacks/")}
        return self._finish(at, records)

    def train(
        self, masks: Masks, records: Sequence[Round], again: Trained | None = None
    ) -> Trained:
        """Trains the next round with `masks`, after the rounds of `records`.

        Or in full the round `again`, cut short before: on from its weights if rounds go
        on from weights, else as any other.
        """
        engine, config, epoch = self.engine, self.config, 0
        if records:
            engine.restore(self.rewind_state, parts=_REWOUND[config.retrain])
            rewinds = config.retrain == "rewind" and config.rewind_step > 0
            if rewinds and self._steps_per_epoch:
                epoch = engine.batches(config.rewind_step) // self._steps_per_epoch
        step = engine.step()
        at = Checkpoint(round=len(records), epoch=epoch, step=step, masks=masks)
        if again:
            at.round, at.again = again.record.round, True
            if config.retrain != "rewind":
                weights = {f"weights/{path}": w for path, w in again.weights.items()}
                engine.restore(weights, parts=("weights",))
        return self._finish(at, records)

    def _finish(self, at: Checkpoint, records: Sequence[Round]) -> Trained:
        """Trains what is left of a round, and evaluates it."""
        engine = self.engine
        engine.hold(at.masks)
        if at.record is None:
            if self.config.retrain == "fine_tune" and records:
                engine.keep_learning_rate(self._first_step + records[0].steps - 1)
            self._fit(at, records)
            metrics = {name: values[-1] for name, values in at.history.items()}
            if self.validation_data is not None and not at.settled:
                # A callback or an optimizer's averages may have changed the weights.
                logs = engine.evaluate(self.validation_data)
                metrics |= {f"val_{name}": value for name, value in logs.items()}
            weights = engine.weights()
            # A sum is NaN or infinite if one weight is, and needs no boolean array.
            with np.errstate(invalid="ignore"):
                sums = [np.sum(w, dtype=np.float64) for w in weights.values()]
            at.seconds = time.monotonic() - at.began
            steps = engine.step() - at.step
            at.record = Round(
                round=at.round,
                sparsity=1 - masks_lib.density(at.masks),
                density_per_layer=masks_lib.density_per_layer(at.masks),
                metrics=metrics,
                history=at.history,
                steps=steps,
                settled=steps if at.settled else None,
                seconds=at.seconds,
                failure=None
                if np.all(np.isfinite([metrics.get("loss", 0.0), *sums]))
                else "diverged",
            )
            if at.again:
                at.record = at.record.after(records[at.round])
            idle, start = [], self._start
            if at.round == 0 and at.record.failure is None:
                same = {p: weights[p] == start[f"weights/{p}"] for p in self.paths}
                idle = [path for path, values in same.items() if values.all()]
            if 0 < len(idle) < len(self.paths):
                warnings.warn(
                    f"Round 0 did not change {', '.join(idle)}: do these get a "
                    "gradient? They are pruned like the others. If they are not to be, "
                    "as in a distiller's teacher, name them in `skip`, or freeze them.",
                    stacklevel=5,
                )
            if self._run:
                self._save(at)
        self.monitor = self.monitor or choose_monitor(at.record.metrics)
        return Trained(at.record, at.masks, engine.weights())

    def _fit(self, at: Checkpoint, records: Sequence[Round]) -> None:
        """Trains the epochs of the round that are left, and saves after each."""
        engine, config, keras = self.engine, self.config, self.engine.keras
        remembered, midway = at.callbacks, bool(at.history)
        ordered = shuffling.is_ordered(self._batches)
        first_epoch = at.round * config.epochs

        def on_train_begin(logs: Any = None) -> None:
            self._settings = callback_state.unchanged(self.callbacks, self._settings)
            if midway:  # Callbacks forget when a training begins.
                callback_state.remind(self.callbacks, remembered, at.arrays)

        def at_step_k() -> None:
            self.rewind_state = light(engine.state())
            if self._run:
                step = {"step": config.rewind_step}
                self._run.save("rewind", self.rewind_state, step)

        def on_epoch_end(epoch: int, logs: Any = None) -> None:
            if hasattr(engine.model, "jax_state_sync"):
                engine.model.jax_state_sync()  # JAX: brings variables up to date.
            logs = as_numbers(logs or {})
            if not at.history:
                self.monitor = self.monitor or choose_monitor(logs)
                if self.monitor not in logs:
                    raise ValueError(
                        f"`monitor` must be one of {', '.join(map(repr, logs))}. "
                        f"Received: monitor={self.monitor!r}"
                    )
                engine.better(self.monitor)  # Raises if its direction is not known.
                if counters and not engine.model.stop_training:
                    self._steps_per_epoch = counters[0].batches
                    self._check_rewind_step()
            for name, value in logs.items():
                at.history.setdefault(name, []).append(value)
            if not np.isfinite(logs.get("loss", 0.0)):
                engine.model.stop_training = True
            stopped = engine.model.stop_training
            at.epoch = config.epochs if stopped else epoch + 1
            at.seconds = time.monotonic() - at.began
            if self.progress and self.progress.live:
                self.progress.live.epoch(at.round, at.epoch, config.epochs, logs)
            if self._run:
                self._save(at)
            if engine.distributed:
                # A saved state has one value of each variable, so a search that was
                # not interrupted must go on from that value too.
                engine.sync_replicas()
            if ordered:
                self._batches.epoch = first_epoch + epoch + 1

        counters, watchers = [], []
        if self._uncounted and config.rewind_step > 0 and at.round == 0:
            counters = [callbacks_lib.batch_counter(keras)]
        if not self.rewind_state:
            k = at.step + config.rewind_step
            watchers = [callbacks_lib.at_step(keras, engine.step, k, at_step_k)]
        if draw := self.drawing and self.drawing(at):
            dense = records[0].steps
            watchers.append(settling.ends_when_settled(engine, at, dense, draw, config))
        if ordered:
            self._batches.epoch = first_epoch + at.epoch
        begin = {"on_train_begin": on_train_begin} if self.callbacks else {}
        ours = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end, **begin)
        around = contextlib.nullcontext()
        if self.callbacks:
            around = callback_state.one_round(
                self.callbacks, self._numbers, number=at.round, midway=midway
            )
        with around:
            engine.fit(
                self._batches,
                validation_data=self.validation_data,
                epochs=config.epochs,
                initial_epoch=at.epoch,
                callbacks=[*self.callbacks, *counters, *watchers, ours],
                verbose=self.progress.inside_round if self.progress else 0,
            )
        if not self.rewind_state:
            raise ValueError(
                f"`rewind_step` must lie within round 0, which ended after "
                f"{engine.step() - at.step} steps. Received: "
                f"rewind_step={config.rewind_step}"
            )

    def _save(self, at: Checkpoint) -> None:
        at.callbacks, arrays = callback_state.remembered(self.callbacks, self._settings)
        at.rewound, at.steps_per_epoch = bool(self.rewind_state), self._steps_per_epoch
        arrays |= self.engine.state() | at.bits()
        self._run.save("current", arrays, at.header())

    def weights_at(self, name: str) -> dict[str, np.ndarray]:
        """Returns all weights as they were `"initial"`ly (θ0) or at `"rewind"` (θk)."""
        state = self._start if name == "initial" else self.rewind_state
        found = {n: w for n, w in state.items() if n.startswith("weights/")}
        return {n.removeprefix("weights/"): w for n, w in found.items()}

    def put_back(self) -> None:
        """Restores the model to where the search started, without masks."""
        if self.progress and self.progress.live:
            self.progress.live.stop()
        if self._start:
            self.engine.restore(self._start)
        self.engine.leave()
        if self.engine.held:
            engines.hold(self.engine.model, self.engine.held)
            self.engine.model.ticket = self._given_ticket
        callback_state.remind(self.callbacks, self._numbers, {})


def light(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the state with arrays of zeros (as slots are at first) taking no memory.

    >>> light({"m": np.zeros((1000, 1000))})["m"].strides
    (0, 0)
    """
    return {
        name: array
        if array.ndim == 0 or array.any()
        else np.broadcast_to(np.zeros((), array.dtype), array.shape)
        for name, array in state.items()
    }
