"""Calls: whether a search can be run as it was asked for, before anything trains."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.core import criteria, pruning
from tflottery.core.config import LotteryConfig, check_criterion
from tflottery.core.masks import Weights
from tflottery.search import run_dir as run_dir_lib


def check(criterion: Any, run_dir: Any, resume: str) -> None:
    """Checks the arguments that no other object checks.

    Raises:
        ValueError: for an unknown `resume`.
        TypeError: for a `run_dir` that is no path, or a criterion of other arguments.
    """
    if resume not in run_dir_lib.RESUME:
        raise ValueError(
            f"`resume` must be one of {', '.join(map(repr, run_dir_lib.RESUME))}. "
            f"Received: resume={resume!r}"
        )
    if run_dir is not None and not isinstance(run_dir, str | os.PathLike):
        raise TypeError(
            '`run_dir` must be a path or a URL, as "runs/a" or "gs://bucket/a". '
            f"Received: run_dir={run_dir!r}"
        )
    if callable(criterion):
        try:
            inspect.signature(criterion).bind(None, None)
        except TypeError as error:
            raise TypeError(
                "`criterion` must take two dicts of arrays, (trained, rewind), and "
                f"return one of scores. Received: {check_criterion(criterion)}, which "
                f"does not: {error}"
            ) from error
        except ValueError:  # A function of C that has no signature.
            pass


def checked_callbacks(callbacks: Any, keras: Any) -> list[Any]:
    """Returns the callbacks as a list.

    Raises:
        TypeError: where they are not callbacks of `keras`, the module of the model.
    """
    kind = keras.callbacks.Callback
    if not isinstance(callbacks, list | tuple) or not all(
        isinstance(callback, kind) for callback in callbacks
    ):
        raise TypeError(
            f"`callbacks` must be a list of {keras.__name__}.callbacks.Callback. "
            f"Received: callbacks={callbacks!r}"
        )
    return list(callbacks)


def paths_to_prune(prunable: Mapping[str, Any], config: LotteryConfig) -> list[str]:
    """Returns the paths of what is pruned: what can be, less what is skipped.

    Raises:
        ValueError: where a pattern matches nothing, or nothing is left to prune.
    """
    pruning.check_patterns("skip", config.skip, prunable)
    paths = [
        path
        for path in prunable
        if not any(pruning.matches(path, pattern) for pattern in config.skip)
    ]
    if not paths:
        raise ValueError(
            f"`skip` leaves nothing to prune. Received: skip={config.skip!r}"
        )
    pruning.check_patterns("layer_fractions", config.layer_fractions, paths)
    return paths


def criterion_of(criterion: Any, config: LotteryConfig) -> Callable:
    """Returns the function that scores weights; one of the user's own is checked."""
    if criterion == "random":
        return functools.partial(criteria.random, seed=config.seed or 0)
    if isinstance(criterion, str):
        return criteria.CRITERIA[criterion]

    @functools.wraps(criterion)
    def checked(trained: Weights, rewind: Weights) -> Any:
        return _checked_scores(criterion(trained, rewind), trained)

    return checked


def _checked_scores(scores: Any, trained: Mapping[str, Any]) -> Any:
    """Returns what a criterion returned; `pruning.prune` checks the rest of it.

    Raises:
        ValueError: where it scores what it was not given, or not by real numbers.
    """
    if not isinstance(scores, Mapping):
        return scores
    for path, score in scores.items():
        if path not in trained:
            raise ValueError(
                "`criterion` must score the weights that it is given and no other. "
                f"They are: {', '.join(trained)}. Received a score of {path!r}"
            )
        try:
            array = np.asarray(score)
        except ValueError:  # Rows of several lengths.
            array = np.asarray(None)
        # To NumPy bfloat16 and its kin are of the kind of void.
        if array.dtype.kind not in "biufV":
            raise ValueError(
                "`criterion` must return arrays of real numbers, one for each weight. "
                f"Received for {path!r}: "
                f"{getattr(score, 'dtype', type(score).__name__)}"
            )
    return scores
