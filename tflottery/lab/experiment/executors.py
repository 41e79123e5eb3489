"""Executors: run the parts of an experiment here, or on a Ray cluster.

An executor is a function `(run, parts) -> results` that yields each result as soon as
it is finished. You can pass your own.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tflottery.core import extras

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


EXECUTORS: dict[str, Executor] = {"local": local, "ray": ray}
"""The executors by name."""
