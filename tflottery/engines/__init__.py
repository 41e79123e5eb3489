"""Engines: the one seam between the generations of Keras."""

from typing import Any

from tflottery.core.masks import Masks
from tflottery.engines import network


def hold(model: Any, masks: Masks) -> None:
    """Sets the weights that `masks` prune in `model` to zero, and keeps them there."""
    _module(model).hold(model, masks)


def release(model: Any) -> Any:
    """Releases a model's masks: from now on every weight may move again.

    The weights keep their values, and `model.ticket` is removed.

    Args:
        model: A model that `find_ticket`, `transfer_ticket` or `Ticket.apply` returned.

    Returns:
        `model` itself.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it carries no ticket.
    """
    module = _module(model)
    if getattr(model, "ticket", None) is None:
        raise ValueError(
            f"`model` {model.name!r} carries no ticket, so there is nothing to release."
        )
    module.release(model)
    model.ticket = None
    return model


def _module(model: Any) -> Any:
    """Returns the module whose `hold` and `release` serve `model`."""
    if network.keras_of(model).__name__ == "tf_keras":
        from tflottery.engines import tf_keras

        return tf_keras
    from tflottery.engines import keras3

    return keras3
