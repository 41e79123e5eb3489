"""Held: what keeps a tf_keras variable's pruned weights at zero after every step.

The new and the legacy optimizers call a variable's constraint after each update.
"""

from collections.abc import Mapping
from typing import Any

from tflottery.engines.holding import Held
from tflottery.engines.tfmot.imported import tf

TRACES_READ_MASKS = True


def cut(weight: Any, mask: Any) -> Any:
    """Returns `weight` with zeros where `mask` is 0."""
    weight = tf.convert_to_tensor(weight)
    mask = tf.cast(tf.convert_to_tensor(mask), weight.dtype)
    # As fast as a product, and zero even where the weight is infinite or NaN.
    return tf.math.multiply_no_nan(weight, mask)


def make_masks(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns masks of ones, of the variables' dtypes as in tfmot's wrapper."""
    return {
        path: tf.Variable(
            tf.ones(v.shape, getattr(v, "true_dtype", v.dtype)),
            trainable=False,
            name="mask",
        )
        for path, v in variables.items()
    }


def drop(model: Any, mask: Any) -> None:
    """Makes a mask keep everything: tfmot's own wrapper multiplies by it."""
    mask.assign(tf.ones_like(mask))


def constrain(variable: Any, mask: Any) -> None:
    """Makes `variable` obey `mask`, or no mask, besides the user's constraint."""
    given = variable.constraint
    inner = given.inner if isinstance(given, Held) else given
    constraint = inner if mask is None else Held(mask, inner, cut)
    # Mixed precision wraps the variable, and a strategy has one on each device.
    variable = getattr(variable, "_variable", variable)
    if isinstance(variable, tf.distribute.DistributedValues):
        parts = variable.values
    else:
        parts = (variable,)
    for part in parts:
        part._constraint = constraint


def averages_of(optimizer: Any, variables: Mapping[str, Any]) -> dict[int, Any]:
    """Returns the moving averages (`use_ema`) by the id of their variable."""
    found = {}
    if getattr(optimizer, "_built", False):
        for variable in variables.values():
            index = optimizer._index_dict.get(optimizer._var_key(variable))
            if index is not None:
                averages = optimizer._model_variables_moving_average
                found[id(variable)] = averages[index]
    return found


def hold_averages(optimizer: Any) -> None:
    """Keeps pruned weights out of an optimizer's moving averages (`use_ema`).

    tf_keras averages the weights before it applies the constraints, and copies the
    averages into the weights when `fit` ends.
    """
    update = type(optimizer)._update_model_variables_moving_average

    def update_held(variables: Any) -> None:
        update(optimizer, variables)
        for variable in variables:
            held = variable.constraint
            if isinstance(held, Held):
                index = optimizer._index_dict[optimizer._var_key(variable)]
                average = optimizer._model_variables_moving_average[index]
                optimizer._distribution_strategy.extended.update(
                    average, _cut_in_place, args=(held.mask,), group=False
                )

    vars(optimizer)["_update_model_variables_moving_average"] = update_held


def _cut_in_place(variable: Any, mask: Any) -> None:
    variable.assign(cut(variable, mask))
