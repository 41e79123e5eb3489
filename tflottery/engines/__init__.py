"""Engines: the one seam between the generations of Keras.

`engine_for(model)` gives what the search needs of a model, whichever Keras made it.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from tflottery import tickets
from tflottery.engines import network
from tflottery.masks import Masks
from tflottery.tickets import Ticket

State = Mapping[str, np.ndarray]
"""All state of a training by name: `weights/...`, `optimizer/...`, `seeds/...`."""


class Engine(Protocol):
    """What a generation of Keras does for a search."""

    @property
    def model(self) -> Any:
        """The model that trains."""
        ...

    @property
    def prunable(self) -> Mapping[str, Any]:
        """The variables that can be pruned, by path."""
        ...

    def prepare(self, data: Any, *, rewind_step: int, callbacks: Any) -> list[str]:
        """Readies the model for training; returns what there is to tell the user."""
        ...

    def weights(self) -> dict[str, np.ndarray]:
        """Returns all weights by path, copied."""
        ...

    def step(self) -> int:
        """Returns how many steps the optimizer has taken."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that a training needs to go on from here, copied."""
        ...

    def restore(self, state: State, *, parts: tuple[str, ...]) -> None:
        """Sets the parts (`"weights"`, `"optimizer"`, `"seeds"`) to what they were."""
        ...

    def hold(self, masks: Masks) -> None:
        """Sets what `masks` prune to zero and keeps it there after every step."""
        ...

    def fit(
        self,
        data: Any,
        *,
        validation_data: Any,
        epochs: int,
        initial_epoch: int,
        callbacks: list,
        verbose: int,
    ) -> dict[str, list[float]]:
        """Trains, and returns the logs of each epoch by name."""
        ...

    def evaluate(self, data: Any) -> dict[str, float]:
        """Returns the loss and the metrics on `data` by name."""
        ...

    def callback(self, **calls: Any) -> Any:
        """Returns a callback for `fit`; see `data.make_callback`."""
        ...

    def stop(self) -> None:
        """Ends the training after this epoch."""
        ...

    def stopped(self) -> bool:
        """Returns whether something has asked the training to end."""
        ...

    def better(self, monitor: str) -> Any:
        """Returns the function `(a, b) -> bool`: whether metric a beats b."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns how the model is trained, its optimizer and loss, as plain data."""
        ...

    def is_chief(self) -> bool:
        """Returns whether this process is the one of several workers that writes."""
        ...

    def leave(self) -> None:
        """Takes masks and settings off the model again; weights stay as they are."""
        ...

    def finish(self, ticket: Ticket) -> Any:
        """Returns the caller's model with the ticket's masks held for good."""
        ...


def engine_for(model: Any) -> Engine:
    """Returns the engine for `model`.

    Raises:
        TypeError: where it is no Keras model.
        ValueError: where it is not built, or nothing in it can be pruned.
    """
    if network.keras_of(model).__name__ == "tf_keras":
        from tflottery.engines import tfmot

        return tfmot.TfmotEngine(model)
    from tflottery.engines import keras3

    return keras3.Keras3Engine(model)


def apply_ticket(ticket: Ticket, model: Any, *, weights: str = "trained") -> Any:
    """Puts a ticket's weights into `model` and holds its masks; see `Ticket.apply`."""
    if weights not in tickets.WEIGHTS:
        raise ValueError(
            f"`weights` must be one of {tickets.WEIGHTS}. Received: weights={weights!r}"
        )
    variables = network.variables(model)
    mapping = tickets.align(ticket, network.read(variables))
    hold(model, {mapping[path]: mask for path, mask in ticket.masks.items()})
    for path, value in getattr(ticket, weights).items():
        variables[mapping[path]].assign(value)
    model.ticket = ticket
    return model


def hold(model: Any, masks: Masks) -> None:
    """Sets what `masks` prune to zero in `model`, and holds it there for good."""
    engine_module(model).hold(model, masks)


def release(model: Any) -> Any:
    """Lets go of a model's masks: from now on every weight may move again.

    The weights stay as they are, and `model.ticket` is removed.

    Args:
        model: a model that `find_ticket`, `transfer_ticket` or `Ticket.apply` returned.

    Returns:
        `model` itself.

    Raises:
        ValueError: where no mask is held.
    """
    if getattr(model, "ticket", None) is None:
        raise ValueError(
            f"`model` {model.name!r} carries no ticket, so there is nothing to release."
        )
    engine_module(model).release(model)
    model.ticket = None
    return model


def engine_module(model: Any) -> Any:
    """Returns the module whose `hold` and `release` serve `model`."""
    if network.keras_of(model).__name__ == "tf_keras":
        from tflottery.engines import tfmot

        return tfmot
    from tflottery.engines import keras3

    return keras3
