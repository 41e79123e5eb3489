"""The edge: how well a file predicts, in the runtime that a device has."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.progress

from tflottery.tflite.file import inputs
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.run import runtimes, worker

_AT_A_TIME = 1 << 26  # bytes of inputs that one job is given

# Labels and predictions of some samples -> one number per sample.
Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns 1 per sample whose prediction is right, else 0.

    Args:
      labels: Class numbers `[samples]` or `[samples, 1]`, or one-hot
        `[samples, classes]`.
      predictions: Scores `[samples, classes]`; for two classes also `[samples, 1]`,
        the probability of class 1, which is chosen above 0.5.

    Raises:
      ValueError: If the labels do not fit the scores.

    >>> accuracy(np.array([1, 0]), np.array([[0.2, 0.8], [0.4, 0.6]]))
    array([1., 0.])
    """
    scores, named = _named(labels, predictions)
    chosen = scores[:, 0] > 0.5 if scores.shape[1] == 1 else scores.argmax(axis=1)
    return (named == chosen).astype(np.float64)


def top_5(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns 1 per sample whose class is among the five largest scores, else 0.

    Args:
      labels: As those of `accuracy`.
      predictions: Scores `[samples, classes]` of six classes or more.

    Raises:
      ValueError: If the labels do not fit the scores, or there are too few classes.
    """
    scores, named = _named(labels, predictions)
    if scores.shape[1] <= 5:
        raise ValueError(
            'The metric "top_5" needs six classes or more: of five or fewer each is '
            'among the five best. Take "accuracy". '
            f"Received: a file with {scores.shape[1]} scores per sample"
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return (best == named[:, None]).any(axis=1).astype(np.float64)


def _named(
    labels: np.ndarray, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores `[samples, classes]`, and the class number of each sample."""
    width = predictions.shape[-1] if predictions.ndim > 1 else 1
    scores = predictions.reshape(-1, width).astype(np.float64)
    classes = max(2, width)  # one unit tells two apart
    named = None
    if labels.dtype.kind in "biuf" and np.isfinite(labels).all():
        if labels.size == len(scores):
            named = labels.reshape(-1)
        elif labels.size == scores.size:
            named = labels.reshape(scores.shape).argmax(axis=1)
    if named is None or not np.isin(named, np.arange(classes)).all():
        one_hot = f" or one-hot [samples, {width}]" if width > 1 else ""
        raise ValueError(
            "The labels of `ds` do not fit the head: for this file they must be class "
            f"numbers from 0 to {classes - 1}, [samples]{one_hot}. For others give a "
            f"metric of your own. Received: {_described(labels)}"
        )
    return scores, named


def _described(labels: np.ndarray) -> str:
    text = f"{labels.dtype} of shape {labels.shape}"
    if labels.dtype.kind in "biuf" and labels.size:
        text += f", from {labels.min()} to {labels.max()}"
    return text


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
        predictions to one number per sample; the mean of those is the metric. Both
        names take class numbers or one-hot labels; "top_5" needs six classes or more.
        "accuracy" takes a single output as the probability of class 1, and chooses
        that class above 0.5: for a model trained with `from_logits=True` give
        `{"accuracy": lambda labels, logits: (logits[:, 0] > 0) == labels}`.
      threads: How many threads to compute with.
      progress: Show a progress bar.

    Raises:
      TypeError: If `path` is no path.
      FileNotFoundError: If the file is not there.
      ValueError: If a metric is unknown or does not fit the file, the dataset is empty
        or does not fit, its inputs are not finite, or the file is damaged.
      JobError: If the file does not run; it is run in a process of its own.

    Example:

    ```python
    tflottery.evaluate_tflite("student.tflite", test_ds)  # {"accuracy": 0.978}
    ```
    """
    functions = _functions(metrics)
    threads = worker.count(threads, "threads")
    runtimes.default()  # or there is none
    name = worker.file(path)
    specs = inputs.specs_of(Graph(pathlib.Path(name).read_bytes()))
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


_Batch = tuple[list[np.ndarray], np.ndarray]


def _gathered(
    ds: Iterable[Any], specs: Sequence[inputs.Spec]
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


def _checked(batch: Any, specs: Sequence[inputs.Spec]) -> _Batch:
    """Returns the inputs, in the file's order, and the labels of a batch."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError("`ds` must hold batches of (x, labels).")
    x, labels = batch[0], np.asarray(batch[1])
    if isinstance(x, Mapping):
        x = inputs.by_name(x, specs)
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
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise ValueError(
                f"The x of `ds` for input {spec.name!r} must hold finite numbers. "
                f"Received: {array.dtype} of shape {array.shape}, not all finite"
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
        if all(map(callable, metrics.values())):
            return dict(metrics)
    elif isinstance(metrics, Iterable):
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        if names and all(isinstance(n, str) and n in _METRICS for n in names):
            return {name: _METRICS[name] for name in names}
    raise ValueError(
        f"`metrics` must be of {sorted(_METRICS)}, or functions by name, as "
        f'{{"error": my_function}}. Received: metrics={metrics!r}'
    )


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
