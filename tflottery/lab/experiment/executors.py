"""Executors: where the parts of an experiment run, here or on a Ray cluster.

An executor is a function `(run, parts) -> results`, which yields each result as soon as
it is there; one of your own is such a function.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Executor = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


def local(run: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Runs the parts in this process, one after the other.

    >>> list(local(abs, [-1, 2]))
    [1, 2]
    """
    return map(run, parts)


def ray(run: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Runs each part as one task of a Ray cluster, and yields results as they come.

    It joins the cluster that the environment names (`RAY_ADDRESS`, or that of a Ray
    job), or else starts one on this machine.

    Raises:
        RuntimeError: where Ray is not installed.
    """
    try:
        library = importlib.import_module("ray")
    except ImportError as error:
        raise RuntimeError(
            "The executor 'ray' needs Ray: pip install 'tflottery[ray]'"
        ) from error
    if not library.is_initialized():
        library.init(log_to_driver=False)
    # A killed worker's part is done again: all of its work is kept in files.
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
"""The executors that can be asked for by name."""
