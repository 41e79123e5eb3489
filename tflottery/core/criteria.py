"""Criteria: from weights to scores; the weights with the highest scores are kept.

A criterion is a function `(trained, rewind) -> scores`. Both arguments map paths to
prunable weights: after the round's training, and as the next round starts. Pass your
own function of this kind to use another criterion.
"""

import functools
import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.core.masks import Weights

Scores = Mapping[str, np.ndarray]
Criterion = Callable[[Weights, Weights], Scores]


def magnitude(trained: Weights, rewind: Weights) -> dict[str, np.ndarray]:
    """Keeps large trained weights: |θT| (Frankle & Carbin 2019, section 2).

    >>> magnitude({"w": np.array([-2.0, 1.0])}, {})
    {'w': array([2., 1.])}
    """
    del rewind
    return {path: np.abs(w) for path, w in trained.items()}


def magnitude_increase(trained: Weights, rewind: Weights) -> dict[str, np.ndarray]:
    """Keeps weights that grew: |θT| - |θk| (Zhou et al. 2019, section 3).

    >>> magnitude_increase({"w": np.array([-2.0])}, {"w": np.array([0.5])})
    {'w': array([1.5])}
    """
    return {path: np.abs(w) - np.abs(rewind[path]) for path, w in trained.items()}


def large_init(trained: Weights, rewind: Weights) -> dict[str, np.ndarray]:
    """Keeps weights that start large: |θk| (Zhou et al. 2019, section 3).

    >>> large_init({}, {"w": np.array([-2.0, 1.0])})
    {'w': array([2., 1.])}
    """
    del trained
    return {path: np.abs(w) for path, w in rewind.items()}


def random(
    trained: Weights, rewind: Weights, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Keeps random weights: the baseline that any criterion must beat.

    A weight's scores depend only on `seed` and its path, so they are the same in every
    round, and adding a layer does not change those of the others.

    >>> random({"w": np.zeros(2)}, {}, seed=1)["w"].shape
    (2,)
    """
    del rewind
    return {
        path: np.random.default_rng((seed, zlib.crc32(path.encode()))).random(
            w.shape, np.float32
        )
        for path, w in trained.items()
    }


CRITERIA: Mapping[str, Criterion] = {
    "magnitude": magnitude,
    "magnitude_increase": magnitude_increase,
    "large_init": large_init,
    "random": random,
}
"""The criteria that have a name."""


def find(criterion: str | Criterion, seed: int | None = None) -> Criterion:
    """Returns the function that scores weights.

    It is one of `CRITERIA` by name, `"random"` with the seed, or the user's own, whose
    arguments and scores are checked.

    Raises:
        TypeError: If a function does not take `(trained, rewind)`.
    """
    if criterion == "random":
        return functools.partial(random, seed=seed or 0)
    if isinstance(criterion, str):
        return CRITERIA[criterion]
    name = getattr(criterion, "__name__", type(criterion).__name__)
    try:
        inspect.signature(criterion).bind(None, None)
    except TypeError as error:
        raise TypeError(
            "`criterion` must take two dicts of arrays, (trained, rewind), and return "
            f"a dict of scores. Received: {name}, which does not: {error}"
        ) from error
    except ValueError:  # A function written in C without a signature.
        pass

    @functools.wraps(criterion)
    def checked(trained: Weights, rewind: Weights) -> Scores:
        scores = criterion(trained, rewind)
        if isinstance(scores, Mapping):  # If not, `pruning.prune` says so.
            for path, score in scores.items():
                _check_score(path, score, trained)
        return scores

    return checked


def _check_score(path: str, score: Any, trained: Weights) -> None:
    if path not in trained:
        raise ValueError(
            "`criterion` must score the weights that it is given and no others. "
            f"They are: {', '.join(trained)}. Received a score of {path!r}"
        )
    try:
        kind = np.asarray(score).dtype.kind
    except ValueError:  # Rows of different lengths.
        kind = "O"
    # To NumPy, bfloat16 and the like are of kind "void".
    if kind not in "biufV":
        raise ValueError(
            "`criterion` must return arrays of real numbers, one per weight. Received "
            f"for {path!r}: {getattr(score, 'dtype', type(score).__name__)}"
        )
