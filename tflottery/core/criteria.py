"""Criteria: from weights to scores; the highest scores are kept.

A criterion is a function `(trained, rewind) -> scores`. Both arguments hold the
prunable weights by path: as the round left them, and as the next round will
start. A user's own criterion is such a function.
"""

import zlib
from collections.abc import Callable, Mapping

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
    """Keeps weights at random: the control that any criterion must beat.

    A path's scores depend on `seed` and its name alone, so they stay the same from
    round to round, and adding a layer changes no other.

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
"""The criteria that can be asked for by name."""
