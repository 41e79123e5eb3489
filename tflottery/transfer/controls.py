"""Controls: the arms that a ticket must beat before it is called winning.

An arm is a function from ticket to ticket, `(ticket, fresh, seed) -> Ticket`; one of
your own is such a function. `fresh` holds the weights of the same network made anew
(see `weights_of`), for where an arm needs values that the ticket does not have. Every
claim needs the re-initialized and a shuffled arm (Ma et al. 2021, "Sanity Checks for
Lottery Tickets"; Frankle et al. 2021, "Pruning Neural Networks at Initialization").
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.core import masks as masks_lib
from tflottery.core import paths
from tflottery.core.masks import Masks, Weights
from tflottery.engines import network
from tflottery.ticket import Ticket

Arm = Callable[[Ticket, Weights, int], Ticket]


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """Returns a built model's weights by path, as `fresh` wants them."""
    return network.read(network.variables(model))


def reinitialized(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """The ticket's masks on fresh weights (Frankle & Carbin 2019, section 2)."""
    return _derived(ticket, "reinitialized", seed, ticket.masks, fresh)


def randomly_masked(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """Random masks of the ticket's density in each layer, on fresh weights."""
    shuffled = {p: _shuffled(m, seed, p) for p, m in ticket.masks.items()}
    return _derived(ticket, "randomly_masked", seed, shuffled, fresh)


def layer_shuffled(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """The ticket's own weights, moved to random places within their layers."""
    del fresh
    moved = {
        name: {
            path: _shuffled(w, seed, path) if path in ticket.masks else w
            for path, w in getattr(ticket, name).items()
        }
        for name in ("initial", "rewind", "trained")
    }
    shuffled = {p: _shuffled(m, seed, p) for p, m in ticket.masks.items()}
    origin = _origin(ticket, "layer_shuffled", seed)
    return dataclasses.replace(ticket, masks=shuffled, origin=origin, **moved)


def globally_shuffled(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """Masks permuted over all layers, on fresh weights (Morcos et al. 2019)."""
    flat = np.concatenate([m.reshape(-1) for m in ticket.masks.values()])
    flat = _shuffled(flat, seed, "")
    ends = np.cumsum([m.size for m in ticket.masks.values()])[:-1]
    pieces = zip(ticket.masks.items(), np.split(flat, ends), strict=True)
    shuffled = {path: piece.reshape(mask.shape) for (path, mask), piece in pieces}
    return _derived(ticket, "globally_shuffled", seed, shuffled, fresh)


def dense(ticket: Ticket, fresh: Weights, seed: int) -> Ticket:
    """The whole network, with nothing pruned, on fresh weights."""
    return _derived(ticket, "dense", seed, masks_lib.ones(ticket.masks), fresh)


ARMS: Mapping[str, Arm] = {
    "reinitialized": reinitialized,
    "randomly_masked": randomly_masked,
    "layer_shuffled": layer_shuffled,
    "globally_shuffled": globally_shuffled,
    "dense": dense,
}
"""The arms that can be asked for by name."""


def _derived(
    ticket: Ticket, arm: str, seed: int, masks: Masks, fresh: Weights
) -> Ticket:
    # A network made anew may have other numbers in its layers' names.
    names = paths.align(ticket.trained, fresh)
    fresh = {path: fresh[names[path]] for path in ticket.trained}
    return dataclasses.replace(
        ticket,
        masks=masks,
        initial=fresh,
        rewind=fresh,
        trained=fresh,
        origin=_origin(ticket, arm, seed),
    )


def _origin(ticket: Ticket, arm: str, seed: int) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "origin": ticket.origin}


def _shuffled(array: np.ndarray, seed: int, path: str) -> np.ndarray:
    """Returns the values in a random order, the same for equal seeds and paths."""
    rng = np.random.default_rng((seed, *path.encode()))
    return rng.permutation(array.reshape(-1)).reshape(array.shape)
