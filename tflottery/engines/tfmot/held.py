"""Held: what keeps a tf_keras variable's pruned weights at zero after every step.

The new and the legacy optimizers call a variable's constraint after each update, in
`fit`, in custom loops and under `tf.distribute`.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflottery.core.masks import Masks
from tflottery.engines import network
from tflottery.engines.tfmot.imported import tf, tf_keras


class Held:
    """A constraint that keeps a variable's pruned weights at exactly zero.

    Args:
        mask: a `tf.Variable` of the weight's shape: 0 where it is pruned, else 1.
        inner: the constraint that was there before, or `None`; both apply.
    """

    def __init__(self, mask: Any, inner: Callable | None):
        self.mask = mask
        self.inner = inner

    def __call__(self, weight: Any) -> Any:
        if self.inner is not None:
            # On the pruned weight, so that a norm does not count what is cut.
            weight = self.inner(self.cut(weight))
        return self.cut(weight)

    def cut(self, weight: Any) -> Any:
        """Returns `weight` with zeros where it is pruned."""
        weight = tf.convert_to_tensor(weight)
        mask = tf.cast(tf.convert_to_tensor(self.mask), weight.dtype)
        # As quick as a product, and zero even where the weight is infinite or NaN.
        return tf.math.multiply_no_nan(weight, mask)


def hold(model: Any, masks: Masks) -> None:
    """Holds masks that will not change, in a model that may not be compiled."""
    variables = network.variables(model)
    release(model)
    constants = {}
    with scope(model):
        for path, mask in masks.items():
            constants[path] = mask_variable(variables[path])
            constants[path].assign(mask.astype(constants[path].dtype.name))
    for path, mask in constants.items():
        constrain(variables[path], mask)
    cut_now(model, variables, masks)
    hold_averages(optimizer_of(model))
    trace_anew(model)
    hold_through_compile(model)


def release(model: Any) -> None:
    """Takes the masks' constraints off again; constraints of the user's own stay."""
    for variable in network.variables(model).values():
        given = variable.constraint
        if isinstance(given, Held):
            # A wrapper of tfmot's own multiplies by its mask, constraint or not.
            given.mask.assign(tf.ones_like(given.mask))
            _set_constraint(variable, given.inner)
    vars(model).pop("compile", None)
    optimizer = optimizer_of(model)
    if optimizer is not None:
        vars(optimizer).pop("_update_model_variables_moving_average", None)
    trace_anew(model)


def mask_variable(variable: Any) -> Any:
    """Returns a mask of ones for a variable, of its type, as tfmot's wrapper has it."""
    dtype = getattr(variable, "true_dtype", variable.dtype)
    return tf.Variable(tf.ones(variable.shape, dtype), trainable=False, name="mask")


def constrain(variable: Any, mask: Any) -> None:
    """Makes `variable` obey `mask`, and what constraint it had before."""
    given = variable.constraint
    inner = given.inner if isinstance(given, Held) else given
    _set_constraint(variable, Held(mask, inner))


def _set_constraint(variable: Any, constraint: Callable | None) -> None:
    # Mixed precision wraps the variable, and a strategy has one on each device.
    variable = getattr(variable, "_variable", variable)
    if isinstance(variable, tf.distribute.DistributedValues):
        parts = variable.values
    else:
        parts = (variable,)
    for part in parts:
        part._constraint = constraint


def cut_now(model: Any, variables: Mapping[str, Any], masks: Masks) -> None:
    """Zeroes what is pruned in the weights, and in their moving averages."""
    optimizer = optimizer_of(model)
    for path, mask in masks.items():
        variable = variables[path]
        cut = [variable]
        if getattr(optimizer, "use_ema", False) and getattr(optimizer, "_built", False):
            index = optimizer._index_dict.get(optimizer._var_key(variable))
            if index is not None:
                cut.append(optimizer._model_variables_moving_average[index])
        for each in cut:
            value = network.value_of(each)
            each.assign(np.where(mask, value, np.zeros((), value.dtype)))


def hold_averages(optimizer: Any) -> None:
    """Keeps what is pruned out of an optimizer's moving averages (`use_ema`).

    tf_keras averages the weights before it applies the constraints, and writes the
    averages over the weights when `fit` ends.
    """
    if not getattr(optimizer, "use_ema", False):
        return
    update = type(optimizer)._update_model_variables_moving_average

    def update_held(variables: Any) -> None:
        update(optimizer, variables)
        for variable in variables:
            held = variable.constraint
            if isinstance(held, Held):
                index = optimizer._index_dict[optimizer._var_key(variable)]
                average = optimizer._model_variables_moving_average[index]
                optimizer._distribution_strategy.extended.update(
                    average, _cut_in_place, args=(held,), group=False
                )

    vars(optimizer)["_update_model_variables_moving_average"] = update_held


def _cut_in_place(variable: Any, held: Held) -> None:
    variable.assign(held.cut(variable))


def hold_through_compile(model: Any) -> None:
    """Has a later `compile` tell its new optimizer of the masks."""
    compile_model = type(model).compile

    def compile_and_hold(*args: Any, **kwargs: Any) -> None:
        compile_model(model, *args, **kwargs)
        hold_averages(optimizer_of(model))

    # Past tf_keras' own __setattr__, which would save it with the model.
    vars(model)["compile"] = compile_and_hold


def trace_anew(model: Any) -> None:
    """Has the next training trace its step again, as constraints have changed."""
    if getattr(model, "_is_compiled", False):
        model.train_function = None
        model.train_tf_function = None


def optimizer_of(model: Any) -> Any:
    """Returns the optimizer that updates the weights, or `None`.

    With mixed precision it is the one inside the LossScaleOptimizer.
    """
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer):
        return optimizer.inner_optimizer
    return optimizer


def scope(model: Any) -> Any:
    """Returns the scope to make variables in that live where the model's do."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()
