"""Fake engine: trains a few NumPy arrays, so that a search takes milliseconds.

A search on it is exact and repeatable. `searching` makes `find_ticket` use it:

    find = fake_engine.searching(monkeypatch)
    model = find(fake_engine.Model(scores={"val_accuracy": [0.9, 0.8, 0.95]}), rounds=2)
"""

import math

import keras
import numpy as np

import tflottery
from tflottery import engines
from tflottery.engines import data as data_lib
from tflottery.search import trainer

RNG = np.random.default_rng(0)
DATA = (RNG.normal(size=(64, 6)).astype("float32"), np.arange(64) % 3)
VALIDATION = (RNG.normal(size=(32, 6)).astype("float32"), np.arange(32) % 3)
_SHAPES = {
    "hidden/kernel": (6, 8),
    "hidden/bias": (8,),
    "output/kernel": (8, 3),
    "output/bias": (3,),
}


def _drawn(seed):
    rng = np.random.default_rng(seed)
    return {p: rng.normal(size=s).astype("float32") for p, s in _SHAPES.items()}


_TARGETS = _drawn(0)


class Batches(keras.utils.PyDataset):
    """Batches of 16, in order: four in an epoch."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(16 * index, 16 * index + 16)
        return DATA[0][rows], DATA[1][rows]


class Uncounted:
    """The same batches, but their number shows only at the end of an epoch."""

    def __iter__(self):
        return (Batches()[index] for index in range(4))


class Variable:
    """A value that `assign` changes."""

    def __init__(self, value):
        self.value = np.array(value)

    def assign(self, value):
        self.value = np.array(value, self.value.dtype)


class Optimizer:
    """SGD with momentum; `rate` is a number or a function of the step."""

    def __init__(self, rate=0.1):
        self.schedule = rate if callable(rate) else None
        self.rate = Variable(float("nan") if callable(rate) else rate)
        self.iterations = self._iterations = Variable(np.int64(0))
        self.momentum = {p: np.zeros(s, "float32") for p, s in _SHAPES.items()}

    @property
    def learning_rate(self):
        if self.schedule is None:
            return float(self.rate.value)
        return self.schedule(int(self.iterations.value))

    @learning_rate.setter
    def learning_rate(self, rate):
        self.rate.assign(rate)


class Model:
    """A "model" of two kernels and two biases.

    Args:
        rate: The learning rate, or a function of the step.
        scores: Metrics by name: one value per round, or one list per round with a
            value per epoch, or a function of the model. The others follow from the
            weights.
    """

    name, built, compiled, loss = "fake", True, True, "distance"
    ticket, layers = None, ()

    def __init__(self, *, rate=0.1, scores=None):
        self.weights = _drawn(1)
        self.optimizer = Optimizer(rate)
        self.scores = scores or {}
        self.masks = {}
        self.draws = Variable(np.int64(0))
        self.stop_training = False

    def get_weights(self):
        return [w.copy() for w in self.weights.values()]

    def set_weights(self, weights):
        self.weights = dict(zip(self.weights, map(np.array, weights), strict=True))

    def hold(self, masks):
        self.masks = masks
        for path, mask in masks.items():
            self.weights[path] = np.where(mask, self.weights[path], 0.0)

    def step(self, x):
        """Moves every weight towards its target."""
        optimizer = self.optimizer
        noise = np.random.default_rng(int(self.draws.value))
        for path, weight in self.weights.items():
            pull = _TARGETS[path] - weight + np.mean(x) + 0.1 * noise.normal()
            optimizer.momentum[path] = 0.5 * optimizer.momentum[path] + pull
            moved = weight + optimizer.learning_rate * optimizer.momentum[path]
            self.weights[path] = np.where(self.masks.get(path, True), moved, 0.0)
        optimizer.iterations.assign(optimizer.iterations.value + 1)
        self.draws.assign(self.draws.value + 1)


class Engine:
    """What `engines.engine.Engine` is to a search, on a fake `Model`."""

    keras, distributed = keras, False

    def __init__(self, model, include=()):
        self.model = model
        self.settings = None
        self.prunable = {p: w for p, w in model.weights.items() if w.ndim == 2}
        self.sizes = {path: w.size for path, w in self.prunable.items()}
        self.with_lora, self.held = [], {}
        self._round = -1
        self._epoch = 0
        self._given_schedule = None

    def prepare(self, data, *, rewind_step, callbacks, validation_data=None):
        return ["This is a fake."]

    def fit(self, data, **arguments):
        model, epochs = self.model, arguments["epochs"]
        judged = arguments["validation_data"]
        model.stop_training = False
        called = keras.callbacks.CallbackList(
            arguments["callbacks"],
            model=model,
            epochs=epochs,
            steps=len(_inputs(data)),
            verbose=0,
        )
        called.on_train_begin()
        logs = {}
        for epoch in range(arguments["initial_epoch"], epochs):
            self._epoch = epoch
            called.on_epoch_begin(epoch)
            for index, x in enumerate(_inputs(data)):
                called.on_train_batch_begin(index)
                model.step(x)
                called.on_train_batch_end(index)
            logs = self._logs(data, "")
            if judged is not None:
                logs |= {f"val_{n}": v for n, v in self._logs(judged, "val_").items()}
            called.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        called.on_train_end(logs)

    def evaluate(self, data):
        return self._logs(data, "val_")

    def _logs(self, data, prefix):
        offset = np.mean([np.mean(x) for x in _inputs(data)])
        distances = [
            np.abs(w + offset - _TARGETS[p]) for p, w in self.model.weights.items()
        ]
        loss = float(sum(map(np.mean, distances)))
        logs = {"accuracy": math.exp(-loss), "loss": loss}
        for name in logs:
            of_rounds = self.model.scores.get(prefix + name)
            if callable(of_rounds):
                logs[name] = of_rounds(self.model)
            elif of_rounds is not None:
                score = of_rounds[max(0, self._round)]
                logs[name] = score[self._epoch] if isinstance(score, list) else score
        return logs

    def weights(self):
        return {path: w.copy() for path, w in self.model.weights.items()}

    averaged = weights

    def state(self):
        return {
            f"{part}/{name}": np.array(value)
            for part, values in self._parts().items()
            for name, value in values.items()
        }

    def _parts(self):
        optimizer = self.model.optimizer
        momentum = {f"momentum/{p}": m for p, m in optimizer.momentum.items()}
        numbers = {"iterations": optimizer.iterations.value}
        if optimizer.schedule is None:
            numbers["rate"] = optimizer.rate.value
        return {
            "weights": self.model.weights,
            "optimizer": numbers | momentum,
            "seeds": {"draws": self.model.draws.value},
        }

    def restore(self, state, *, parts=("weights", "optimizer", "seeds")):
        model, optimizer = self.model, self.model.optimizer
        if "weights" in parts:
            for path in model.weights:
                model.weights[path] = np.array(state[f"weights/{path}"])
        if "optimizer" in parts:
            optimizer.iterations.assign(state["optimizer/iterations"])
            if optimizer.schedule is None:
                optimizer.rate.assign(state["optimizer/rate"])
            for path in optimizer.momentum:
                saved = state[f"optimizer/momentum/{path}"]
                optimizer.momentum[path] = np.array(saved)
        if "seeds" in parts:
            model.draws.assign(state["seeds/draws"])

    def hold(self, masks):
        self._round += 1
        self.model.hold(masks)

    def sync_replicas(self):
        raise AssertionError("There are no replicas.")

    def step(self):
        return int(self.model.optimizer.iterations.value)

    def batches(self, steps):
        return steps

    def keep_learning_rate(self, step):
        optimizer = self.model.optimizer
        if self._given_schedule is None and optimizer.schedule is not None:
            self._given_schedule, rate = optimizer.schedule, optimizer.schedule(step)
            optimizer.schedule = lambda _: rate

    def leave(self):
        self.model.masks = {}
        if self._given_schedule is not None:
            self.model.optimizer.schedule = self._given_schedule
            self._given_schedule = None

    def better(self, monitor):
        less = monitor.endswith("loss")
        return lambda a, b: a < b if less else a > b


def _inputs(data):
    """Returns the inputs of the batches of an epoch."""
    if isinstance(data, tuple):
        return [data[0][i : i + 32] for i in range(0, len(data[0]), 32)]
    if hasattr(data, "__getitem__"):
        return [data[i][0] for i in range(data_lib.steps_per_epoch(data))]
    return [np.asarray(x) for x, _ in data]


def searching(monkeypatch):
    """Makes `find_ticket` take fake models too; returns it with defaults for tests."""
    engine_for, hold = trainer.engine_for, engines.hold
    monkeypatch.setattr(
        trainer,
        "engine_for",
        lambda model, *include: (Engine if isinstance(model, Model) else engine_for)(
            model, *include
        ),
    )
    monkeypatch.setattr(
        engines,
        "hold",
        lambda model, masks: (Model.hold if isinstance(model, Model) else hold)(
            model, masks
        ),
    )
    return find


def find(model=None, ds=None, **options):
    options = {
        "validation_data": VALIDATION,
        "epochs": 2,
        "rounds": 3,
        "select": "last",
        "verbose": 0,
        **options,
    }
    return tflottery.find_ticket(
        Model() if model is None else model, Batches() if ds is None else ds, **options
    )
