"""Held: what keeps a tf_keras variable's pruned weights at zero after every step.

The new and the legacy optimizers call a variable's constraint after each update.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tflottery.core.masks import Masks
from tflottery.engines import holding, network
from tflottery.engines.holding import Held, optimizer_of
from tflottery.engines.tfmot.imported import tf


def cut(weight: Any, mask: Any) -> Any:
    """Returns `weight` with zeros where `mask` is 0."""
    weight = tf.convert_to_tensor(weight)
    mask = tf.cast(tf.convert_to_tensor(mask), weight.dtype)
    # As fast as a product, and zero even where the weight is infinite or NaN.
    return tf.math.multiply_no_nan(weight, mask)


def hold(model: Any, masks: Masks) -> None:
    """Holds masks that will not change, in a model that need not be compiled."""
    variables = network.variables(model)
    release(model)
    constants = {}
    with holding.scope(model):
        for path, mask in masks.items():
            constants[path] = mask_variable(variables[path])
            constants[path].assign(mask.astype(constants[path].dtype.name))
    for path, mask in constants.items():
        constrain(variables[path], mask)
    optimizer = optimizer_of(model)
    averages = {}
    if getattr(optimizer, "use_ema", False):
        averages = averages_of(optimizer, variables)
        hold_averages(optimizer)
    holding.cut_now(variables, masks, averages)
    holding.forget_traces(model)
    holding.keep_held(model, hold_averages)


def release(model: Any) -> None:
    """Removes the masks' constraints; the user's own constraints stay."""
    for variable in network.variables(model).values():
        given = variable.constraint
        if isinstance(given, Held):
            # tfmot's own wrapper multiplies by its mask, constraint or not.
            given.mask.assign(tf.ones_like(given.mask))
            _set_constraint(variable, given.inner)
    holding.let_go(model)


def mask_variable(variable: Any) -> Any:
    """Returns a mask of ones of the variable's dtype, as in tfmot's wrapper."""
    dtype = getattr(variable, "true_dtype", variable.dtype)
    return tf.Variable(tf.ones(variable.shape, dtype), trainable=False, name="mask")


def constrain(variable: Any, mask: Any) -> None:
    """Makes `variable` obey `mask`, besides any constraint that it had before."""
    given = variable.constraint
    inner = given.inner if isinstance(given, Held) else given
    _set_constraint(variable, Held(mask, inner, cut))


def _set_constraint(variable: Any, constraint: Callable | None) -> None:
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
