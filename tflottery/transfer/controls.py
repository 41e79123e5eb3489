"""Controls: the arms that a ticket must beat before it is called winning.

An arm is a function `(ticket, fresh, seed) -> Ticket`, so you can write your own.
`fresh` holds newly initialized weights of the same network (see `weights_of`), for arms
that need values that the ticket does not have. A claim about tickets needs the
re-initialized arm and a shuffled one (Ma et al. 2021, "Sanity Checks for Lottery
Tickets"; Frankle et al. 2021, "Pruning Neural Networks at Initialization").
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.core import masks as masks_lib
from tflottery.core import paths
from tflottery.core.masks import Masks, Weights
from tflottery.engines import network
from tflottery.ticket import WEIGHTS, Ticket

Arm = Callable[[Ticket, Weights, int], Ticket]


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """Returns a built model's weights by path, as the arms take them for `fresh`."""
    return network.read(network.variables(model))


def reinitialized(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """The ticket's masks on fresh weights (Frankle & Carbin 2019, section 2)."""
    return _on_fresh(ticket, "reinitialized", seed, ticket.masks, fresh)


def randomly_masked(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """Random masks with the ticket's density in each layer, on fresh weights."""
    masks = _shuffled(ticket.masks, ticket, seed)
    return _on_fresh(ticket, "randomly_masked", seed, masks, fresh)


def layer_shuffled(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """The ticket's own weights, moved to random places within their layers."""
    del fresh
    moved = {
        name: getattr(ticket, name) | _shuffled(getattr(ticket, name), ticket, seed)
        for name in WEIGHTS
    }
    masks = _shuffled(ticket.masks, ticket, seed)
    return _derived(ticket, "layer_shuffled", seed, masks=masks, **moved)


def globally_shuffled(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """Masks permuted across all layers, on fresh weights (Morcos et al. 2019)."""
    flat = np.concatenate([m.reshape(-1) for m in ticket.masks.values()])
    ends = np.cumsum([m.size for m in ticket.masks.values()])[:-1]
    pieces = np.split(_permuted(flat, seed), ends)
    masks = {
        path: piece.reshape(mask.shape)
        for (path, mask), piece in zip(ticket.masks.items(), pieces, strict=True)
    }
    return _on_fresh(ticket, "globally_shuffled", seed, masks, fresh)


def dense(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """The whole network with nothing pruned, on fresh weights."""
    return _on_fresh(ticket, "dense", seed, masks_lib.ones(ticket.masks), fresh)


ARMS: Mapping[str, Arm] = {
    "reinitialized": reinitialized,
    "randomly_masked": randomly_masked,
    "layer_shuffled": layer_shuffled,
    "globally_shuffled": globally_shuffled,
    "dense": dense,
}
"""The built-in arms by name."""


def _on_fresh(
    ticket: Ticket, arm: str, seed: int, masks: Masks, fresh: Weights
) -> Ticket:
    # A network built again may have other numbers in its layers' names.
    names = paths.align(ticket.trained, fresh)
    fresh = {path: fresh[names[path]] for path in ticket.trained}
    return _derived(ticket, arm, seed, masks=masks, **dict.fromkeys(WEIGHTS, fresh))


def _derived(ticket: Ticket, arm: str, seed: int, **parts: Any) -> Ticket:
    origin = {"arm": arm, "seed": seed, "origin": ticket.origin}
    return dataclasses.replace(ticket, origin=origin, **parts)


def _shuffled(arrays: Weights, ticket: Ticket, seed: int) -> dict[str, np.ndarray]:
    """Returns the masked arrays with the values of each in a random order.

    It is the same for equal seeds and paths; the numbers in Keras' layer names do not
    count, as a network that is built again has others.
    """
    names = dict(zip(ticket.trained, paths.canonical(ticket.trained), strict=True))
    return {path: _permuted(arrays[path], seed, names[path]) for path in ticket.masks}


def _permuted(array: np.ndarray, seed: int, name: str = "") -> np.ndarray:
    rng = np.random.default_rng((seed, *name.encode()))
    return rng.permutation(array.reshape(-1)).reshape(array.shape)
