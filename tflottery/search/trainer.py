"""Rounds: one training between prunings, from its start or from where it stopped."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflottery import engines
from tflottery.core import masks as masks_lib
from tflottery.core.config import LotteryConfig
from tflottery.core.masks import Masks, Weights
from tflottery.core.records import Round, choose_monitor
from tflottery.engines import compiling, fitting, network, shuffling
from tflottery.engines import data as data_lib
from tflottery.search import arguments, run_dir
from tflottery.search import callback_state as callbacks_lib
from tflottery.search.checkpoint import Stage

_PARTS = ("weights", "optimizer", "seeds")
_REWOUND = {
    "rewind": ("weights", "optimizer"),
    "learning_rate": ("optimizer",),
    "fine_tune": (),
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished round: its record, its masks, and all weights after it (θT)."""

    record: Round
    masks: Masks
    weights: Weights


class Trainer:
    """Trains the rounds of one search.

    Attributes:
        paths: the paths of what is pruned.
        records: what the finished rounds came to.
        monitor: the metric that tells a winning ticket; empty until it is known.
    """

    def __init__(
        self,
        engine: engines.Engine,
        config: LotteryConfig,
        ds: Any,
        validation_data: Any,
        callbacks: list,
    ):
        self.engine = engine
        self.config = config
        self.ds = ds
        self.validation_data = validation_data
        self.callbacks = callbacks
        self.paths = arguments.paths_to_prune(engine.prunable, config)
        self._numbers = self._settings = callbacks_lib.numbers_in(callbacks)
        self.verbose = 0
        self.records: list[Round] = []
        self.monitor = config.monitor or ""
        self._steps_per_epoch = data_lib.steps_per_epoch(ds)
        self._uncounted = self._steps_per_epoch is None
        self._batches = ds
        if config.seed is not None:
            keras = network.keras_of(engine.model)
            if isinstance(ds, tuple | list) and shuffling.in_numpy(ds):
                self._batches = shuffling.batches(ds, seed=config.seed, keras=keras)
            elif shuffling.is_py_dataset(ds, keras):
                self._batches = shuffling.reordered(ds, seed=config.seed, keras=keras)
        self._run = run_dir.Run(None, {})
        self._start: Mapping[str, np.ndarray] = {}
        self._rewind: Mapping[str, np.ndarray] = {}
        self._current: tuple[dict[str, np.ndarray], Stage] | None = None
        self._first_step = 0

    def check(self) -> None:
        """Checks what can be told before the model is touched.

        Raises:
            ValueError: where the data does not fit the model, or a round has no step
                `rewind_step`.
        """
        self._check_rewind_step()
        model, validation_data = self.engine.model, self.validation_data
        fitting.check_examples("ds", self.ds, model)
        if validation_data is not None:
            fitting.check_examples("validation_data", validation_data, model)

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

    def prepare(self) -> list[str]:
        """Readies the model; returns what there is to tell the user."""
        told = self.engine.prepare(
            self.ds, rewind_step=self.config.rewind_step, callbacks=self.callbacks
        )
        if self.validation_data is not None:
            compiling.check_labels(
                self.engine.model, self.validation_data, "validation_data"
            )
        return told

    def open(self, run: run_dir.Run) -> None:
        """Takes up what `run` holds of an earlier try, and keeps what follows in it.

        Raises:
            RunError: where something is missing that the search goes on with, or does
                not fit it.
        """
        self._run = run
        state = self.engine.state()
        wanted = {name: (a.shape, a.dtype.kind) for name, a in state.items()}
        bits = {
            f"masks/{path}": ((-(-state[f"weights/{path}"].size // 8),), "u")
            for path in self.paths
        }
        del state  # What was saved need not find room beside it.
        saved, header = run.load("current", wanted | bits), None
        if saved is not None:
            header = saved[1]
            try:
                self._current = (saved[0], Stage(**header))
            except (TypeError, ValueError) as error:
                raise run.unfit("current", str(error)) from error
            if self._uncounted:
                self._steps_per_epoch = self._current[1].steps_per_epoch
        records = run.check_whole(header, rewinds=self.config.rewind_step > 0)
        saved = run.load("start", wanted)
        self._start = light(saved[0] if saved else self.engine.state())
        if not saved:
            run.save("start", self._start, {})
        if self.config.rewind_step == 0:
            self._rewind = self._start
        # Step k of an epoch that did not end will be seen again.
        elif header is not None and header["rewound"]:
            saved = run.load("rewind", wanted)
            self._rewind = light(saved[0]) if saved else {}
        self.engine.restore(self._start, parts=_PARTS)
        self._first_step = self.engine.step()
        self.records = records

    def put_back(self) -> None:
        """Puts the model back to where the search started, its masks gone."""
        if self._start:
            self.engine.restore(self._start, parts=_PARTS)
        self.engine.leave()
        callbacks_lib.remind(self.callbacks, self._numbers, {})

    def weights_at(self, name: str) -> dict[str, np.ndarray]:
        """Returns all weights as they were, `"initial"` (θ0) or at `"rewind"` (θk)."""
        state = self._start if name == "initial" else self._rewind
        return {
            path.removeprefix("weights/"): w
            for path, w in state.items()
            if path.startswith("weights/")
        }

    def dense(self) -> Masks:
        """Returns the masks of round 0, which keep every weight."""
        return masks_lib.ones({path: self.engine.prunable[path] for path in self.paths})

    def resume(self) -> Trained | None:
        """Puts the state of an earlier try back, and ends the round that it was in.

        Returns:
            The round; `None` where none was under way.
        """
        at = self._take_up()
        if at is None or at.round < len(self.records):
            return None
        return self._finish(at)

    def train(self, masks: Masks) -> Trained:
        """Trains the next round with `masks`."""
        number, config, epoch = len(self.records), self.config, 0
        if number > 0:
            self.engine.restore(self._rewind, parts=_REWOUND[config.retrain])
            if config.retrain == "rewind" and self._steps_per_epoch:
                batches = self.engine.batches(config.rewind_step)
                epoch = batches // self._steps_per_epoch
        step = self.engine.step()
        return self._finish(Stage(round=number, epoch=epoch, step=step, masks=masks))

    def _finish(self, at: Stage) -> Trained:
        """Trains what is left of a round."""
        self.engine.hold(at.masks)
        if at.record is None:
            at.record = self._record(at)
            self._save(at)
        return Trained(at.record, at.masks, self.engine.weights())

    def _record(self, at: Stage) -> Round:
        """Trains what is left of a round; returns what it came to."""
        engine = self.engine
        if self.config.retrain == "fine_tune" and at.round > 0:
            engine.keep_learning_rate(self._first_step + self.records[0].steps - 1)
        self._fit(at)
        metrics, weights = self._metrics(at.history), engine.weights()
        whole = np.isfinite(metrics["loss"]) and all(map(_is_finite, weights.values()))
        at.seconds = time.monotonic() - at.began
        return Round(
            round=at.round,
            sparsity=masks_lib.sparsity(at.masks),
            density_per_layer=masks_lib.density_per_layer(at.masks),
            metrics=metrics,
            history=at.history,
            steps=engine.step() - at.step,
            seconds=at.seconds,
            failure=None if whole else "diverged",
        )

    def _take_up(self) -> Stage | None:
        """Puts the state of an earlier try back, once; returns where that was."""
        if self._current is None:
            return None
        (state, at), self._current = self._current, None
        self.engine.restore(state, parts=_PARTS)
        callbacks_lib.remind(self.callbacks, at.callbacks, state)
        at.masks = {
            path: masks_lib.unpack(
                state[f"masks/{path}"], state[f"weights/{path}"].shape
            )
            for path in self.paths
        }
        if at.record is not None:
            # Its paths are those of the network that was searched then.
            density = masks_lib.density_per_layer(at.masks)
            at.record = dataclasses.replace(at.record, density_per_layer=density)
        at.began = time.monotonic() - at.seconds
        at.arrays = {n: a for n, a in state.items() if n.startswith("callbacks/")}
        return at

    def _fit(self, at: Stage) -> None:
        """Trains the epochs of the round that are left, and keeps each that ends."""
        engine, config = self.engine, self.config
        callbacks, midway = at.callbacks, bool(at.history)

        def on_begin() -> None:
            self._settings = callbacks_lib.unchanged(self.callbacks, self._settings)
            # Callbacks forget as a training begins.
            if midway:
                callbacks_lib.remind(self.callbacks, callbacks, at.arrays)

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            if not at.history:
                self._check_monitor(logs)
                if counted and not engine.stopped():
                    self._steps_per_epoch = counted.batches
                    self._check_rewind_step()
            for name, value in logs.items():
                at.history.setdefault(name, []).append(value)
            if not np.isfinite(logs["loss"]):
                engine.stop()
            at.epoch = config.epochs if engine.stopped() else epoch + 1
            at.seconds = time.monotonic() - at.began
            self._save(at)
            # Of what each replica keeps its own of, a saved state has one value: an
            # unbroken search goes on from it too.
            engine.agree()
            if shuffling.is_ordered(self._batches):
                self._batches.epoch = at.round * config.epochs + epoch + 1

        counted = None
        if self._uncounted and config.rewind_step > 0 and at.round == 0:
            counted = data_lib.batch_counter(network.keras_of(engine.model))
        if shuffling.is_ordered(self._batches):
            self._batches.epoch = at.round * config.epochs + at.epoch
        engine.fit(
            self._batches,
            validation_data=self.validation_data,
            epochs=config.epochs,
            initial_epoch=at.epoch,
            callbacks=[
                *self.callbacks,
                *([counted] if counted else []),
                engine.callback(
                    at_step=at.step + config.rewind_step,
                    on_step=None if self._rewind else self._capture,
                    on_epoch=on_epoch,
                    on_begin=on_begin,
                ),
            ],
            verbose=self.verbose,
        )
        if not self._rewind:
            raise ValueError(
                f"`rewind_step` must lie within round 0, which ended after "
                f"{engine.step() - at.step} steps. Received: "
                f"rewind_step={config.rewind_step}"
            )

    def _save(self, at: Stage) -> None:
        if self._run.path is None:
            return
        at.callbacks, arrays = callbacks_lib.remembered(self.callbacks, self._settings)
        at.rewound, at.steps_per_epoch = bool(self._rewind), self._steps_per_epoch
        arrays |= {f"masks/{p}": masks_lib.pack(m) for p, m in at.masks.items()}
        self._run.save("current", {**self.engine.state(), **arrays}, at.header())

    def _capture(self) -> None:
        self._rewind = light(self.engine.state())
        self._run.save("rewind", self._rewind, {"step": self.config.rewind_step})

    def _metrics(self, history: Mapping[str, list[float]]) -> dict[str, float]:
        metrics = {name: values[-1] for name, values in history.items()}
        if self.validation_data is not None:
            # Again, as a callback or an optimizer's averages may have changed the
            # weights after the last epoch.
            logs = self.engine.evaluate(self.validation_data)
            metrics |= {f"val_{name}": value for name, value in logs.items()}
        return metrics

    def _check_monitor(self, logs: Mapping[str, float]) -> None:
        if not self.monitor:
            self.monitor = choose_monitor(logs)
        if self.monitor not in logs:
            raise ValueError(
                f"`monitor` must be one of {', '.join(map(repr, logs))}. "
                f"Received: monitor={self.monitor!r}"
            )
        self.engine.better(self.monitor)  # Fails where it cannot be told.


def _is_finite(w: np.ndarray) -> bool:
    # The sum is NaN or infinite where one weight is, and takes no array of booleans.
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(np.sum(w, dtype=np.float64)))


def light(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the state with arrays of zeros, as slots are at first, without memory.

    >>> light({"m": np.zeros((1000, 1000))})["m"].strides
    (0, 0)
    """
    return {
        name: array
        if array.ndim == 0 or array.any()
        else np.broadcast_to(np.zeros((), array.dtype), array.shape)
        for name, array in state.items()
    }
