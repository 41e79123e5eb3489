"""The edge: how well a file predicts, and how fast it is, where it will run."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.progress

from tflottery.tflite import runtimes, samples, worker
from tflottery.tflite.flatbuffer import Graph

_AT_A_TIME = 1 << 26  # bytes of inputs that one job is given

# Labels and predictions of some samples -> one number per sample.
Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns 1 per sample whose prediction is right, else 0.

    Args:
      labels: Class numbers `[samples]` or `[samples, 1]`, or one-hot
        `[samples, classes]`.
      predictions: Scores `[samples, classes]`; for two classes also `[samples, 1]`,
        the probability of class 1.

    >>> accuracy(np.array([1, 0]), np.array([[0.2, 0.8], [0.4, 0.6]]))
    array([1., 0.])
    """
    if predictions.shape[-1] == 1:
        chosen = predictions[..., 0] > 0.5
    else:
        chosen = predictions.argmax(axis=-1)
    one_hot = labels.ndim == predictions.ndim and labels.shape[-1] > 1
    named = labels.argmax(axis=-1) if one_hot else labels.reshape(chosen.shape)
    return (named == chosen).astype(np.float64)


def top_5(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns 1 per sample whose class is among the five largest scores, else 0."""
    best = np.argsort(-predictions, axis=-1, kind="stable")[:, :5]
    return (best == labels.reshape(-1, 1)).any(axis=-1).astype(np.float64)


_METRICS: dict[str, Metric] = {"accuracy": accuracy, "top_5": top_5}


def evaluate_tflite(
    path: str | os.PathLike[str],
    ds: Iterable[Any],
    metrics: Sequence[str] | Mapping[str, Metric] = ("accuracy",),
    *,
    threads: int = 1,
    progress: bool = True,
) -> dict[str, float]:
    """Returns the metrics of a `.tflite` file on a dataset.

    Runs in LiteRT if it is installed, else in `tf.lite`. Batches of any size are cut to
    the file's own; integer inputs and outputs are converted by their quantization
    parameters. Needs neither Keras nor TensorFlow.

    Args:
      path: The file.
      ds: Batches of `(x, labels)`; `x` may be a list of arrays, one per input, or a
        dict by the inputs' names. The metrics look at the first output.
      metrics: Names, of "accuracy" and "top_5", or functions by name, from labels and
        predictions to one number per sample; the mean of those is the metric.
      threads: How many threads to compute with.
      progress: Show a progress bar.

    Raises:
      ValueError: If a metric is unknown, the dataset is empty or does not fit, or the
        file is damaged.
      JobError: If the file does not run; it is run in a process of its own.

    Example:

    ```python
    tflottery.evaluate_tflite("student.tflite", test_ds)  # {"accuracy": 0.978}
    ```
    """
    functions = _functions(metrics)
    if threads < 1:
        raise ValueError(f"`threads` must be at least 1. Received: threads={threads}")
    runtimes.default()
    name = _file(path)
    specs = samples.specs_of(Graph(pathlib.Path(name).read_bytes()))
    totals = dict.fromkeys(functions, 0.0)
    count = 0
    for batches in _gathered(_shown(ds, progress), specs):
        columns = zip(*(x for x, _ in batches), strict=True)
        predictions = worker.call(
            {"do": "predict", "path": name, "threads": threads},
            [np.concatenate(column) for column in columns],
        )["outputs"]["file"][0]
        start = 0
        for _, labels in batches:
            part = predictions[start : start + len(labels)]
            start += len(labels)
            for metric, function in functions.items():
                totals[metric] += _sum(metric, function, labels, part)
        count += start
    if not count:
        raise ValueError("`ds` holds no samples.")
    return {metric: total / count for metric, total in totals.items()}


def _file(path: str | os.PathLike[str]) -> str:
    """Returns the file's absolute path: the worker may be in another folder."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
    return os.path.abspath(path)


_Batch = tuple[list[np.ndarray], np.ndarray]


def _gathered(
    ds: Iterable[Any], specs: Sequence[samples.Spec]
) -> Iterator[list[_Batch]]:
    """Puts batches together, so that the file is loaded once for many of them."""
    batches: list[_Batch] = []
    held = 0
    for batch in ds:
        x, labels = _checked(batch, specs)
        if len(labels):
            batches.append((x, labels))
            held += sum(array.nbytes for array in x)
        if held > _AT_A_TIME:
            yield batches
            batches, held = [], 0
    if batches:
        yield batches


def _checked(batch: Any, specs: Sequence[samples.Spec]) -> _Batch:
    """Returns the inputs, in the file's order, and the labels of a batch."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError("`ds` must hold batches of (x, labels).")
    x, labels = batch[0], np.asarray(batch[1])
    if isinstance(x, Mapping):
        x = samples.by_name(x, specs)
    arrays = [np.asarray(a) for a in (x if isinstance(x, list | tuple) else [x])]
    if len(arrays) != len(specs):
        raise ValueError(
            f"The file has {len(specs)} inputs. Received: {len(arrays)} arrays"
        )
    for array, spec in zip(arrays, specs, strict=True):
        if not array.ndim or array.shape[1:] != spec.shape[1:]:
            raise ValueError(
                f"Input {spec.name!r} of the file has shape {spec.shape}. "
                f"Received: an array of shape {array.shape}"
            )
        if array.shape[:1] != labels.shape[:1]:
            raise ValueError(
                "A batch of `ds` must hold a label per sample. Received: "
                f"x of shape {array.shape}, labels of shape {labels.shape}"
            )
    return arrays, labels


def _sum(
    name: str, function: Metric, labels: np.ndarray, predictions: np.ndarray
) -> float:
    values = np.asarray(function(labels, predictions))
    if values.size != len(labels):
        raise ValueError(
            f"Metric {name!r} must return one number per sample. "
            f"Received: shape {values.shape} for {len(labels)} samples"
        )
    return float(values.sum())


def _functions(metrics: Sequence[str] | Mapping[str, Metric]) -> dict[str, Metric]:
    if isinstance(metrics, Mapping) and metrics:
        return dict(metrics)
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in _METRICS]
    if unknown or not names:
        raise ValueError(
            f"`metrics` must be of {sorted(_METRICS)}, or functions by name. "
            f"Received: metrics={names}"
        )
    return {name: _METRICS[name] for name in names}


def _shown(ds: Iterable[Any], progress: bool) -> Iterator[Any]:
    if not progress:
        yield from ds
        return
    try:
        total = len(ds)  # type: ignore[arg-type]
    except TypeError:
        total = None
    yield from rich.progress.track(
        ds, description="Evaluating", total=total, transient=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast one file is.

    Attributes:
      path: The file.
      ms: Median milliseconds of a call.
      quartiles: The quarter and three-quarter marks of the rounds' milliseconds.
      load_ms: Milliseconds from opening the file to the end of the first call.
      peak_ram: Bytes that memory grew by at most, in loading and a first call; None
        where the system does not tell.
    """

    path: str
    ms: float
    quartiles: tuple[float, float]
    load_ms: float
    peak_ram: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """What `benchmark_tflite` measured; prints as two lines.

    Attributes:
      file: The file's timing.
      against: The other file's; None if there is none.
      speedup: How many times faster than the other file, the median over rounds that
        time one right after the other; None without another file.
      threads: Threads computed with.
    """

    file: Timing
    against: Timing | None
    speedup: float | None
    threads: int

    def to_json(self) -> str:
        """Returns every field as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def __str__(self) -> str:
        lines = []
        for timing in filter(None, (self.file, self.against)):
            low, high = timing.quartiles
            ram = "?" if timing.peak_ram is None else f"{timing.peak_ram / 1e6:.1f} MB"
            lines.append(
                f"{timing.path}: {timing.ms:.4f} ms ({low:.4f} to {high:.4f}), "
                f"loaded in {timing.load_ms:.1f} ms, peak {ram}"
            )
        if self.speedup is not None:
            lines.append(f"{self.speedup:.2f}x as fast, on {self.threads} threads")
        return "\n".join(lines)


def benchmark_tflite(
    path: str | os.PathLike[str],
    *,
    threads: int = 1,
    against: str | os.PathLike[str] | None = None,
    rounds: int = 15,
    seconds: float = 1.5,
    runtime: str | None = None,
) -> BenchmarkReport:
    """Measures how fast a file is, in a process of its own, on drawn inputs.

    The two files take turns in every round, so that what else the machine does hits
    both alike.

    Args:
      path: The file.
      threads: How many threads to compute with.
      against: Another file, usually the dense one.
      rounds: How many times each file has its turn.
      seconds: How long to measure in all.
      runtime: "litert" or "tensorflow"; LiteRT if it is installed, if None.

    Raises:
      ValueError: If an argument does not fit.
      JobError: If a file does not run.
    """
    if threads < 1 or rounds < 1 or not seconds > 0:
        raise ValueError(
            "`threads` and `rounds` must be at least 1, `seconds` above 0. "
            f"Received: threads={threads}, rounds={rounds}, seconds={seconds}"
        )
    given = [p for p in (path, against) if p is not None]
    paths = [_file(p) for p in given]
    common = {"threads": threads, "runtime": runtime}
    timed = worker.call(
        {"do": "time", "paths": paths, "rounds": rounds, "seconds": seconds, **common}
    )["ms"]
    timings = []
    for shown, name, taken in zip(given, paths, timed, strict=True):
        loaded = worker.call({"do": "load", "path": name, **common})
        low, middle, high = np.quantile(taken, [0.25, 0.5, 0.75]).tolist()
        timings.append(
            Timing(
                path=os.fspath(shown),
                ms=middle,
                quartiles=(low, high),
                load_ms=loaded["load_ms"],
                peak_ram=loaded["ram"],
            )
        )
    speedup = None
    if against is not None:
        speedup = float(np.median(np.array(timed[1]) / np.array(timed[0])))
    return BenchmarkReport(
        file=timings[0],
        against=timings[1] if against is not None else None,
        speedup=speedup,
        threads=threads,
    )
