"""Stack: trains networks of one architecture side by side on JAX, an epoch per call.

Each is trained as `fit` would train it alone: on the same batches in the same order,
augmented alike, by Keras' own `train_step`. Only the place of the work differs: the
images stay on the device, `jax.lax.scan` goes through an epoch's batches there, and
`jax.vmap` takes each step for all the networks at once.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tflottery.core import paths as paths_lib
from tflottery.core.masks import Masks, Weights
from tflottery.engines import holding, network, shuffling, trees
from tflottery.engines.engine import as_numbers
from tflottery.engines.keras3 import Keras3Engine

Variables = list[list[np.ndarray]]
"""All variables of a training: the trainable ones, the others, the optimizer's."""

_MEASURED = 10  # Steps that are timed to choose how many networks train at once.
_SECONDS_BETWEEN_SAVES = 60


@dataclasses.dataclass(frozen=True)
class Augment:
    """How batches are augmented: drawn on the host, and done on the device.

    Attributes:
        draw: `(num_images, rng) -> arrays` [N, ...] that say what is done to each.
        apply: `(images, *arrays) -> images`, in JAX.
    """

    draw: Callable[[int, np.random.Generator], Sequence[np.ndarray]]
    apply: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the training of a network starts, and what it sees.

    Attributes:
        name: What tells it from the others.
        seed: Seed of its data and their order.
        variables: Its variables, with its masks.
        order: The epoch whose order of the data comes first.
    """

    name: str
    seed: int
    variables: Variables
    order: int = 0


@dataclasses.dataclass(frozen=True)
class End:
    """A trained network: its variables, and the logs of its epochs by name.

    `at_step` are the variables after as many steps as `fit` was asked for, if it was.
    """

    variables: Variables
    history: Mapping[str, Sequence[float]]
    at_step: Variables


class Stack:
    """Trains copies of a Keras model on JAX; the model itself only lends its layers.

    Args:
        model: A compiled Keras 3 model.
        arrays: By seed, pairs `(x, y)` of NumPy arrays named `"train"`, `"validation"`
            and `"test"`, of the same shapes for all seeds.
        batch_size: Examples per batch; the last of an epoch may be smaller.
        evaluation_batch: Examples per batch of the other arrays.
        augment: How `x` is augmented in training, if it is.

    Attributes:
        paths: The paths of the weights, in order.
        prunable: The variables that can be pruned, by path.
        steps_per_epoch: How many batches an epoch has.

    Raises:
        ValueError: If a layer draws random numbers, as dropout does.
    """

    def __init__(
        self,
        model: Any,
        arrays: Mapping[int, Mapping[str, tuple[np.ndarray, np.ndarray]]],
        *,
        batch_size: int,
        evaluation_batch: int,
        augment: Augment | None = None,
    ):
        random = [v.path for v in model.variables if "seed_generator" in v.path]
        if random:
            raise ValueError(
                "Networks with dropout or other random layers cannot train side by "
                f"side: each would draw other numbers than alone ({random[0]}). Leave "
                "out `executor`."
            )
        self._model, self._seeds, self._augment = model, list(arrays), augment
        self._size, self._evaluation_batch = batch_size, evaluation_batch
        self._data = {}
        for part in ("train", "validation", "test"):
            pairs = [each[part] for each in arrays.values()]
            arrays_of = (np.stack(a) for a in zip(*pairs, strict=True))
            self._data[part] = tuple(map(jnp.asarray, arrays_of))
        self._count = self._data["train"][0].shape[1]
        self.steps_per_epoch = -(-self._count // batch_size)
        holding.release(model, Keras3Engine.kind)
        self._engine = Keras3Engine(model)
        self.prunable = self._engine.prunable
        self.paths = list(network.variables(model))
        holding.build_optimizer(model)
        self._fresh = self._engine.state()  # Without masks.
        first = (a[0, :1] for a in self._data["train"])
        model.evaluate(*map(np.asarray, first), verbose=0)  # It makes the metrics.
        model.reset_metrics()
        self._no_logs = [np.asarray(v) for v in model.metrics_variables]
        self._run = jax.jit(self._steps, donate_argnums=0)
        self._judge = jax.jit(self._evaluate)

    def variables(
        self, masks: Masks, weights: Weights, optimizer: Variables | None = None
    ) -> Variables:
        """Returns variables with these weights under masks, by path.

        The optimizer is new, or the one of other variables with the same masks' paths.
        """
        own = network.variables(self._model)
        names = paths_lib.align(weights, network.read(own))
        self._engine.restore(self._fresh, parts=("optimizer", "seeds"))
        self._engine.hold({names[path]: mask for path, mask in masks.items()})
        for path, value in weights.items():
            own[names[path]].assign(masks[path] * value if path in masks else value)
        found = [[np.array(v) for v in part] for part in self._parts()]
        if optimizer is not None:
            held = {id(own[names[path]].constraint.mask) for path in masks}
            both = zip(self._parts()[2], found[2], optimizer[2], strict=True)
            found[2] = [new if id(v) in held else old for v, new, old in both]
        return found

    def weights(
        self, variables: Variables, paths: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns all weights among the variables by path.

        `paths` names them in order if Keras numbered the layers otherwise before.
        """
        for part, values in zip(self._parts(), variables, strict=True):
            for variable, value in zip(part, values, strict=True):
                variable.assign(value)
        found = network.read(network.variables(self._model))
        return dict(zip(paths or found, found.values(), strict=True))

    def fit(
        self,
        starts: Sequence[Start],
        *,
        epochs: int,
        first: int = 0,
        best: str | None = None,
        at_step: int | None = None,
        saved: Any = None,
    ) -> list[End]:
        """Trains networks side by side, each for the epochs from `first` on.

        A network whose loss is no longer finite has no logs after that epoch.

        Args:
            starts: Where each training starts.
            epochs: Number of epochs, at least 1.
            first: Number of the first one.
            best: A metric on validation data, such as `"val_accuracy"`: the weights of
                the first epoch with most of it are returned. `None` is the last epoch.
            at_step: If given, the step whose variables to return as well.
            saved: A file that keeps what an interrupted call has done. The same call
                goes on from there.

        Returns:
            The networks in the order of `starts`.
        """
        place = self._places(starts)
        now = trees.stacked([start.variables for start in starts])
        state: dict[str, Any] = {"now": now}
        state["best"] = trees.copied(now[:2]) if best else []
        state["at_step"] = trees.copied(now) if at_step else []
        logs: list[dict[str, list[float]]] = [{} for _ in starts]
        done, names = first, [start.name for start in starts]
        if saved is not None and (found := trees.load(saved, state, names)):
            state, logs, done = found
        written, pause_of_saves = time.monotonic(), _SECONDS_BETWEEN_SAVES
        for epoch in range(done, epochs):
            pause = at_step and at_step - epoch * self.steps_per_epoch
            cuts = [0, self.steps_per_epoch]
            if pause and 0 < pause < self.steps_per_epoch:
                cuts.insert(1, pause)
            training = (*state["now"], self._logs(len(starts)))
            for start, end in itertools.pairwise(cuts):
                batches = self._batches(starts, epoch, start, end)
                training = self._run(training, self._data["train"], place, batches)
                if end == pause:
                    state["at_step"] = trees.copied(list(training[:3]))
            *state["now"], metrics = training
            judged = self._judged(state["now"], place, "validation")
            better = []
            for log, mine, found in zip(logs, self._read(metrics), judged, strict=True):
                goes_on = np.isfinite(log.get("loss", [0.0])[-1])
                mine |= {f"val_{name}": value for name, value in found.items()}
                if best:
                    before = max(log.get(best, [-np.inf]))
                    better.append(goes_on and mine[best] > before)
                for name, value in mine.items() if goes_on else ():
                    log.setdefault(name, []).append(value)
            if best:
                state["best"] = trees.where(better, state["now"][:2], state["best"])
            due = time.monotonic() - written > pause_of_saves
            if saved is not None and due and epoch + 1 < epochs:
                began = time.monotonic()
                trees.save(saved, state, names, {"epoch": epoch + 1, "logs": logs})
                written = time.monotonic()
                pause_of_saves = max(pause_of_saves, 10 * (written - began))
        last = [*state["best"], *state["now"][len(state["best"]) :]]
        ends, kept = (
            trees.apart(tree, len(starts)) for tree in (last, state["at_step"])
        )
        return [End(*end) for end in zip(ends, logs, kept, strict=True)]

    def evaluate(
        self, starts: Sequence[Start], ends: Sequence[End]
    ) -> list[dict[str, float]]:
        """Returns the loss and the metrics on the test images by name."""
        place = self._places(starts)
        return self._judged(trees.stacked([e.variables for e in ends]), place, "test")

    def at_once(self, start: Start, most: int) -> int:
        """Returns how many trainings are fastest side by side, up to `most`.

        It times a few steps with twice as many each time, until that is no faster, or
        the device has not the memory.
        """
        found, fastest, count = 0, np.inf, 1
        batches = min(_MEASURED, max(1, self._count // self._size))
        while count > found and most > 1:
            starts = [start] * count
            place, times = self._places(starts), []
            given = self._data["train"], place, self._batches(starts, 0, 0, batches)
            try:
                state = trees.stacked([start.variables] * count)
                kept = trees.copied(state)  # As `fit` keeps the best epoch's.
                for _ in range(4):  # The first time it compiles.
                    training = jax.block_until_ready((*state, self._logs(count)))
                    began = time.monotonic()
                    training = jax.block_until_ready(self._run(training, *given))
                    times.append((time.monotonic() - began) / count)
                    state = training[:3]
                self._judged(state, place, "validation")
                del kept
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                break
            if min(times[1:]) >= fastest:
                break
            found, fastest, count = count, min(times[1:]), min(2 * count, most)
        return max(1, found)

    def _batches(
        self, starts: Sequence[Start], epoch: int, start: int, end: int
    ) -> list[Any]:
        """Returns what the batches of an epoch hold, from `start` to `end`.

        That is, for the full batches and for a smaller last one, the indices of the
        images [T, R, B] and how each is augmented.
        """
        kinds = list(dict.fromkeys((s.seed, s.order + epoch) for s in starts))
        rows = [kinds.index((s.seed, s.order + epoch)) for s in starts]
        orders = [shuffling.order(self._count, *kind) for kind in kinds]
        size, pieces = self._size, []
        full = min(end, self._count // size)
        for first, last, length in (
            (start, full, size),
            (max(start, full), end, self._count % size),
        ):
            if first >= last or not length:
                continue
            indices, drawn = [], []
            for batch in range(first, last):
                at = slice(batch * size, batch * size + length)
                indices.append([order[at] for order in orders])
                if self._augment is not None:
                    generators = (shuffling.generator(*k, batch) for k in kinds)
                    draws = [self._augment.draw(length, g) for g in generators]
                    drawn.append([np.stack(d) for d in zip(*draws, strict=True)])
            drawn = [np.stack(d)[:, rows] for d in zip(*drawn, strict=True)]
            pieces.append((np.asarray(indices, np.int32)[:, rows], drawn))
        return pieces

    def _steps(self, training: Any, data: Any, place: Any, pieces: Any) -> Any:
        """Takes the steps of some batches for all networks."""
        x, y = data
        train = trees.over(self._model.train_step, len(place))

        def step(training: Any, batch: Any) -> Any:
            indices, drawn = batch
            images, labels = (a[place[:, None], indices] for a in (x, y))
            if self._augment is not None:
                images = jax.vmap(self._augment.apply)(images, *drawn)
            return train(training, (images, labels))[1], None

        for piece in pieces:
            training, _ = jax.lax.scan(step, training, piece)
        return training

    def _evaluate(self, state: Any, data: Any, place: Any) -> Any:
        """Returns the metrics' variables after a pass over the data."""
        test, count = trees.over(self._model.test_step, len(place)), data[0].shape[1]
        size = min(self._evaluation_batch, count)

        def step(state: Any, first: Any, length: int = size) -> Any:
            batch = tuple(
                jax.lax.dynamic_slice_in_dim(a, first, length, axis=1)[place]
                for a in data
            )
            return test(state, batch)[1], None

        state, _ = jax.lax.scan(step, state, jnp.arange(count // size) * size)
        if count % size:
            state, _ = step(state, count - count % size, count % size)
        return state[2]

    def _judged(self, variables: Any, place: Any, part: str) -> list[dict[str, float]]:
        metrics = self._logs(len(place))
        state = (*variables[:2], metrics)
        return self._read(self._judge(state, self._data[part], place))

    def _read(self, metrics: Any) -> list[dict[str, float]]:
        """Returns the loss and the metrics of each network by name."""
        found = []
        for values in trees.apart(metrics, len(metrics[0])):
            for variable, value in zip(
                self._model.metrics_variables, values, strict=True
            ):
                variable.assign(value)
            found.append(as_numbers(self._model.get_metrics_result()))
        self._model.reset_metrics()
        return found

    def _parts(self) -> tuple[list[Any], list[Any], list[Any]]:
        model = self._model
        optimizer = model.optimizer.variables
        return model.trainable_variables, model.non_trainable_variables, optimizer

    def _logs(self, count: int) -> list[Any]:
        """Returns the metrics' variables of so many networks before an epoch."""
        return [jnp.stack([value] * count) for value in self._no_logs]

    def _places(self, starts: Sequence[Start]) -> Any:
        """Returns where the data of each training are among those of all seeds."""
        return jnp.asarray([self._seeds.index(start.seed) for start in starts])
