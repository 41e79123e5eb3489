"""Executors: run the parts of an experiment here, or on a Ray cluster.

An executor is a function `(run, parts) -> results` that yields each result as soon as
it is finished. You can pass your own.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tflottery.core import extras
from tflottery.lab.data import pipelines
from tflottery.lab.experiment.design import Design

Executor = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


def local(run: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Runs the parts in this process, one after another."""
    return map(run, parts)


def ray(run: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Runs each part as one task of a Ray cluster.

    It joins the cluster in the environment (`RAY_ADDRESS`, or a Ray job's), or else
    starts one on this machine. Without Ray, it raises ImportError.
    """
    with extras.needed("ray", "The executor 'ray'"):
        library = importlib.import_module("ray")
    if not library.is_initialized():
        library.init(log_to_driver=False)
    # The part of a killed worker runs again; what it finished is in files.
    task = library.remote(max_retries=3)(lambda part: run(part))
    waiting = [task.remote(part) for part in parts]
    try:
        while waiting:
            done, waiting = library.wait(waiting)
            yield library.get(done[0])
    finally:
        for reference in waiting:
            library.cancel(reference, force=True)


def check_stacked(design: Design) -> None:
    """Raises ValueError if a design cannot be run side by side.

    >>> from tflottery.lab.experiment import designs
    >>> check_stacked(designs.design("cost_accuracy", "smoke"))
    Traceback (most recent call last):
    ValueError: `executor` 'stacked' trains tickets and controls, not the methods of \
cost_accuracy. Leave it out.
    """
    if design.methods:
        raise ValueError(
            "`executor` 'stacked' trains tickets and controls, not the methods of "
            f"{design.name}. Leave it out."
        )
    if design.source.retrain == "fine_tune":
        raise ValueError(
            "`executor` 'stacked' begins the schedule of each round anew. Set "
            "retrain='learning_rate' or 'rewind', or leave it out. Received: "
            "retrain='fine_tune'"
        )
    backend = importlib.import_module("keras").backend.backend()
    if backend != "jax":
        raise ValueError(
            "`executor` 'stacked' needs Keras on JAX: set KERAS_BACKEND=jax, and "
            f"install tflottery[jax]. Received: the backend {backend!r}"
        )
    for recipe in (design.source, *design.targets):
        if recipe.augment not in (None, pipelines.flip_and_crop):
            raise ValueError(
                "`executor` 'stacked' takes images as they are, or augmented by "
                f"`flip_and_crop`. Received: augment={recipe.augment!r}"
            )


EXECUTORS: dict[str, Executor] = {"local": local, "ray": ray}
"""The executors by name."""
