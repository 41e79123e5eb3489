"""Engines: the one seam between the generations of Keras."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.core import checks
from tflottery.core import masks as masks_lib
from tflottery.core.masks import Masks
from tflottery.engines import holding, network


def hold(model: Any, masks: Masks | None = None, *, include: Sequence[str] = ()) -> Any:
    """Keeps pruned weights at zero in whatever training follows.

    A model that Keras has loaded no longer knows its masks. This holds again whatever
    is zero:

    ```python
    model.save("sparse.keras")
    model = keras.saving.load_model("sparse.keras")
    tflottery.hold(model).fit(ds)
    ```

    Args:
        model: A built Keras 3 or tf_keras model.
        masks: Boolean arrays by path: False is pruned. By default the masks of the
            weights that are zero now, among those that `find_ticket` prunes.
        include: Patterns of other weights to hold, as for `find_ticket`.

    Returns:
        `model` itself.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If a mask does not fit its weight, or no weight is zero.
    """
    keras = network.keras_of(model)
    checks.check("masks", masks, checks.or_none(checks.DICT))
    checks.check("include", include, checks.list_of(checks.TEXT))
    weights = network.read(network.variables(model))
    if masks is None:
        paths = network.prunable(model, keras, include)
        masks = {path: weights[path] != 0 for path in paths}
        if all(mask.all() for mask in masks.values()):
            raise ValueError(
                f"`model` {model.name!r} has no zero among its prunable weights, so "
                "there is nothing to hold. Was it pruned before it was saved?"
            )
    masks_lib.check_fit(masks, weights)
    masks = {path: np.asarray(mask, bool) for path, mask in masks.items()}
    holding.hold(model, masks, _kind(model))
    return model


def release(model: Any) -> Any:
    """Releases a model's masks: from now on every weight may move again.

    The weights keep their values, and `model.ticket` is removed.

    Args:
        model: A model that `find_ticket`, `transfer_ticket`, `Ticket.apply` or `hold`
            returned.

    Returns:
        `model` itself.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it holds no masks.
    """
    kind = _kind(model)
    if getattr(model, "ticket", None) is None and not holding.masks_held(model):
        raise ValueError(
            f"`model` {model.name!r} carries no ticket and holds no masks, so there is "
            "nothing to release."
        )
    holding.release(model, kind)
    model.ticket = None
    return model


def _kind(model: Any) -> Any:
    """Returns what `holding` needs to know of the model's generation."""
    if network.keras_of(model).__name__ == "tf_keras":
        from tflottery.engines.tfmot import held as kind
    else:
        from tflottery.engines import keras3 as kind
    return kind
