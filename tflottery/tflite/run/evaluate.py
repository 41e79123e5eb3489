"""Evaluate: how well a file predicts, in the runtime of a device."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.progress

from tflottery.core import checks
from tflottery.tflite.file import inputs
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.run import runtimes, worker

_AT_A_TIME = 1 << 26  # bytes of inputs per job

# Labels and predictions of some samples -> one number per sample.
Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns, per sample, 1 if the prediction is right, or else 0.

    >>> accuracy(np.array([1, 0]), np.array([[0.2, 0.8], [0.4, 0.6]]))
    array([1., 0.])
    """
    scores, named = _named(labels, predictions)
    chosen = scores[:, 0] > 0.5 if scores.shape[1] == 1 else scores.argmax(axis=1)
    return (named == chosen).astype(np.float64)


def top_5(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns, per sample, 1 if its class is among the five best scores, or else 0."""
    scores, named = _named(labels, predictions)
    if scores.shape[1] <= 5:
        raise ValueError(
            'The metric "top_5" needs six classes or more, as each of five or fewer is '
            'always among the five best. Use "accuracy". '
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
    classes = max(2, width)  # a single unit separates two classes
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
            f"numbers from 0 to {classes - 1}, [samples]{one_hot}. For other labels, "
            f"give a custom metric. Received: {_described(labels)}"
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

    Runs in LiteRT if it is installed, or else in `tf.lite`, in a separate process.
    Needs neither Keras nor TensorFlow. Batches may have any size; integer inputs and
    outputs are converted with their quantization parameters.

    Args:
        path: Path of the file.
        ds: Batches of `(x, labels)`. If the file has several inputs, `x` is a list of
            arrays or a dict from input names.
        metrics: "accuracy" or "top_5" or both, for class numbers or one-hot labels; or
            functions by name that take labels and predictions and return one number per
            sample, of which the mean is taken. Predictions are the first output.
            "accuracy" takes a single unit as the probability of class 1, which is
            predicted above 0.5. If the model was trained with `from_logits=True`, give
            `{"accuracy": lambda labels, logits: (logits[:, 0] > 0) == labels}`.
        threads: Number of threads to use.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If the file does not exist.
        ValueError: If a metric is unknown or does not fit the file; if the dataset is
            empty, does not fit or is not finite; or if the file is damaged.
        JobError: If the file does not run.

    Example:

    ```python
    tflottery.evaluate_tflite("student.tflite", test_ds)  # {"accuracy": 0.978}
    ```
    """
    functions = _functions(metrics)
    threads = checks.whole("threads", threads, 1)
    variants = [(runtimes.default(), True)]
    name = worker.file(path)
    job = {"do": "run", "path": name, "variants": variants, "threads": threads}
    specs = inputs.specs_of(Graph(pathlib.Path(name).read_bytes(), name))
    totals = dict.fromkeys(functions, 0.0)
    count = 0
    shown = rich.progress.track(
        ds, description="Evaluating", transient=True, disable=not progress
    )
    for batches in _gathered(shown, specs):
        columns = zip(*(x for x, _ in batches), strict=True)
        called = worker.call(job, [np.concatenate(column) for column in columns])
        ((predictions, *_),) = called["outputs"].values()
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
    """Yields lists of batches, so that the file is loaded once for many batches."""
    batches: list[_Batch] = []
    sizes, held = None, 0
    for batch in ds:
        x, labels = _checked(batch, specs)
        before, sizes = sizes, [array.shape[1:] for array in x]
        if batches and (sizes != before or held > _AT_A_TIME):
            yield batches
            batches, held = [], 0
        if len(labels):
            batches.append((x, labels))
            held += sum(array.nbytes for array in x)
    if batches:
        yield batches


def _checked(batch: Any, specs: Sequence[inputs.Spec]) -> _Batch:
    """Returns the inputs of a batch in the order of the file, and the labels."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError("`ds` must hold batches of (x, labels).")
    labels = np.asarray(batch[1])
    arrays = inputs.as_arrays(batch[0], specs, "The x of `ds`", 0)
    for array in arrays:
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
        f"`metrics` must be of {sorted(_METRICS)}, or functions by name, such as "
        f'{{"error": my_function}}. Received: metrics={metrics!r}'
    )
