"""Rounds: one training between prunings, from its start or from where it stopped."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflottery import engines, runs
from tflottery import masks as masks_lib
from tflottery.config import LotteryConfig
from tflottery.engines import data as data_lib
from tflottery.masks import Masks, Weights
from tflottery.tickets import Round

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
        self.verbose = 0
        self.records: list[Round] = []
        self.monitor = config.monitor or ""
        self._steps_per_epoch = data_lib.steps_per_epoch(ds)
        self._run = runs.Run(None, {})
        self._start: Mapping[str, np.ndarray] = {}
        self._rewind: Mapping[str, np.ndarray] = {}
        self._current: Any = None

    def prepare(self) -> list[str]:
        """Readies the model; returns what there is to tell the user.

        Raises:
            ValueError: where the data does not fit the model, or a round has no step
                `rewind_step`.
        """
        k, epochs = self.config.rewind_step, self.config.epochs
        if self._steps_per_epoch is not None and k >= epochs * self._steps_per_epoch:
            raise ValueError(
                f"`rewind_step` must lie within a round, which has "
                f"{epochs * self._steps_per_epoch} steps ({epochs} epochs of "
                f"{self._steps_per_epoch}). Received: rewind_step={k}"
            )
        return self.engine.prepare(self.ds, rewind_step=k, callbacks=self.callbacks)

    def open(self, run: runs.Run) -> None:
        """Takes up what `run` holds of an earlier try, and keeps what follows in it."""
        self._run = run
        saved = run.load("start")
        self._start = saved[0] if saved else self.engine.state()
        if not saved:
            run.save("start", self._start, {})
        if self.config.rewind_step == 0:
            self._rewind = self._start
        elif saved := run.load("rewind"):
            self._rewind = saved[0]
        self._current = run.load("current")
        if self._current is None:
            self.engine.restore(self._start, parts=_PARTS)
        self.records = run.rounds()

    def weights_at(self, name: str) -> dict[str, np.ndarray]:
        """Returns all weights as they were, `"initial"` (θ0) or at `"rewind"` (θk)."""
        state = self._start if name == "initial" else self._rewind
        return {
            path.removeprefix("weights/"): w
            for path, w in state.items()
            if path.startswith("weights/")
        }

    def train(self, masks: Masks) -> Trained:
        """Trains the next round with `masks` held."""
        engine, config, number = self.engine, self.config, len(self.records)
        began, epoch, history = time.monotonic(), 0, {}
        header = self._take_up()
        if header is not None and header["round"] == number:
            history, before = header["history"], header["step"]
            began -= header["seconds"]
            epoch = config.epochs if header["stopped"] else header["epoch"] + 1
        else:
            if number > 0:
                engine.restore(self._rewind, parts=_REWOUND[config.retrain])
                if config.retrain == "rewind" and self._steps_per_epoch:
                    epoch = config.rewind_step // self._steps_per_epoch
            before = engine.step()
        engine.hold(masks)
        if hasattr(self.ds, "epoch"):
            self.ds.epoch = number * config.epochs + epoch

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            self._check_monitor(logs)
            for name, value in logs.items():
                history.setdefault(name, []).append(value)
            if not np.isfinite(logs["loss"]):
                engine.stop()
            if self._run.path is not None:
                header = {"round": number, "epoch": epoch, "step": before}
                header |= {"seconds": time.monotonic() - began, "history": history}
                header |= {"stopped": engine.stopped()}
                self._run.save("current", engine.state(), header)

        engine.fit(
            self.ds,
            validation_data=self.validation_data,
            epochs=config.epochs,
            initial_epoch=epoch,
            callbacks=[
                *self.callbacks,
                engine.callback(
                    at_step=config.rewind_step,
                    on_step=None if self._rewind else self._capture,
                    on_epoch=on_epoch,
                ),
            ],
            verbose=self.verbose,
        )
        if not self._rewind:
            raise ValueError(
                f"`rewind_step` must lie within round 0, which ended after "
                f"{engine.step()} steps. Received: rewind_step={config.rewind_step}"
            )
        metrics = self._metrics(history)
        record = Round(
            round=number,
            sparsity=masks_lib.sparsity(masks),
            density_per_layer=masks_lib.density_per_layer(masks),
            metrics=metrics,
            history=history,
            steps=engine.step() - before,
            seconds=time.monotonic() - began,
            failure=None if np.isfinite(metrics["loss"]) else "diverged",
        )
        return Trained(record, masks, engine.weights())

    def _take_up(self) -> Any:
        """Puts the state of an earlier try back, once, and returns its header."""
        if self._current is None:
            return None
        (state, header), self._current = self._current, None
        self.engine.restore(state, parts=_PARTS)
        return header

    def _capture(self) -> None:
        self._rewind = self.engine.state()
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
            self.monitor = choose_monitor(logs, self.validation_data)
        if self.monitor not in logs:
            raise ValueError(
                f"`monitor` must be one of {', '.join(map(repr, logs))}. "
                f"Received: monitor={self.monitor!r}"
            )


def choose_monitor(logs: Mapping[str, float], validation_data: Any) -> str:
    """Returns the metric to judge by: the validation accuracy, or else the loss.

    >>> choose_monitor({"loss": 0.1, "val_loss": 0.2, "val_accuracy": 0.9}, "data")
    'val_accuracy'
    """
    prefix = "" if validation_data is None else "val_"
    for name in logs:
        metric = name.removeprefix(prefix)
        if name.startswith(prefix) and (metric.endswith("accuracy") or metric == "acc"):
            return name
    return prefix + "loss"
