"""Engines: the one seam between the generations of Keras.

`engine_for(model)` gives what the search needs of a model, whichever Keras made it.
"""

from typing import Any

from tflottery.core.masks import Masks
from tflottery.engines import network
from tflottery.engines.engine import Engine


def engine_for(model: Any) -> Engine:
    """Returns the engine for `model`.

    Raises:
        TypeError: where it is no Keras model.
        ValueError: where it is not built, or nothing in it can be pruned.
    """
    if network.keras_of(model).__name__ == "tf_keras":
        from tflottery.engines import tf_keras

        return tf_keras.TfmotEngine(model)
    from tflottery.engines import keras3

    return keras3.Keras3Engine(model)


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
        TypeError: where it is no Keras model.
        ValueError: where no mask is held.
    """
    network.keras_of(model)  # Raises where it is no Keras model.
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
        from tflottery.engines import tf_keras

        return tf_keras
    from tflottery.engines import keras3

    return keras3
