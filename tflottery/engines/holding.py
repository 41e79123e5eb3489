"""Holding: keeps pruned weights at exactly zero, in Keras 3 and in tf_keras.

Optimizers call a variable's constraint after every update: in `fit`, in custom loops
and under `tf.distribute`. The functions here serve both generations of Keras; what
differs is in `engines.keras3` and `engines.tfmot.held`.
"""

import contextlib
import dataclasses
import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tflottery.core import paths
from tflottery.core.masks import Masks
from tflottery.engines import network


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """A constraint that keeps a variable's pruned weights at exactly zero.

    Attributes:
        mask: A variable of the weight's shape: 0 where the weight is pruned, else 1.
        inner: The constraint that the variable already had, or `None`. Both apply.
        cut: A function `(weight, mask) -> weight` that zeroes the pruned weights.
    """

    mask: Any
    inner: Callable | None
    cut: Callable

    def __call__(self, weight: Any) -> Any:
        if self.inner is not None:
            # Cut first, so that a norm does not count pruned weights.
            weight = self.inner(self.cut(weight, self.mask))
        return self.cut(weight, self.mask)


def hold(
    model: Any, masks: Masks, kind: Any, make: Callable[..., dict] | None = None
) -> None:
    """Zeroes pruned weights, and keeps them at zero after every step.

    Args:
        model: A built model, which need not be compiled.
        masks: The masks by path.
        kind: What differs between the generations: the module `engines.keras3` or
            `engines.tfmot.held`.
        make: Makes mask variables of ones for variables by path; by default
            `kind.make_masks`.
    """
    variables, optimizer, averages = network.walk(model)[0], optimizer_of(model), {}
    constraints = {path: v.constraint for path, v in variables.items()}
    made = {path: c.mask for path, c in constraints.items() if isinstance(c, Held)}
    stale = make is None and not kind.TRACES_READ_MASKS
    if made.keys() != masks.keys() or stale:
        # An older trace knows no masks.
        release(model, kind) if made else forget_traces(model)
        with scope(model):
            made = (make or kind.make_masks)({path: variables[path] for path in masks})
        for path, mask in made.items():
            kind.constrain(variables[path], mask)
    for path, mask in masks.items():
        dtype = made[path].dtype
        made[path].assign(mask.astype(getattr(dtype, "name", dtype)))
    if getattr(optimizer, "use_ema", False):
        averages = kind.averages_of(optimizer, variables)
        kind.hold_averages(optimizer)
    for path, mask in masks.items():
        variable = variables[path]
        for each in (variable, averages.get(id(variable))):
            if each is not None:
                value = network.value_of(each)
                each.assign(np.where(mask, value, np.zeros((), value.dtype)))
    for name in _WATCHED:
        if hasattr(type(model), name) and (name != "evaluate" or make is None):
            # Not through Keras' own __setattr__, which would save it with the model.
            vars(model)[name] = functools.partial(_watched, model, name, kind)


def release(model: Any, kind: Any) -> None:
    """Removes masks from a model; weights and the user's constraints stay."""
    for variable in network.variables(model).values():
        if isinstance(held := variable.constraint, Held):
            kind.drop(model, held.mask)
            kind.constrain(variable, None)
    for name in _WATCHED:
        vars(model).pop(name, None)
    optimizer = optimizer_of(model)
    if optimizer is not None:
        vars(optimizer).pop("_update_model_variables_moving_average", None)
    forget_traces(model)


# A new optimizer must hold the masks in its averages, weights that are loaded or set
# must not bring pruned weights back, and a copy must hold what its original does.
_WATCHED = (
    *("compile", "evaluate", "load_weights", "set_weights"),
    *("__reduce__", "__deepcopy__"),
)


def _watched(model: Any, name: str, kind: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls the model's method `name`, and keeps its masks held."""
    if name == "evaluate" and "_use_cached_eval_dataset" not in kwargs:  # By `fit`.
        warn_if_broken(model)
    result = getattr(type(model), name)(model, *args, **kwargs)
    if name.startswith("__"):
        told = masks_held(model), getattr(model, "ticket", None), kind.__name__
        if name == "__reduce__":
            return held_again, (*result, *told)
        return held_again(lambda: result, (), *told)
    if name == "evaluate":
        return result
    for variable in model.weights:
        if isinstance(getattr(variable, "constraint", None), Held):
            variable.assign(variable.constraint(variable))
    if getattr(optimizer_of(model), "use_ema", False):
        kind.hold_averages(optimizer_of(model))
    return result


def held_again(
    make: Callable, args: Sequence, masks: Masks, ticket: Any, kind: str
) -> Any:
    """Returns the copy of a model that `make(*args)` makes, with its masks held."""
    model = make(*args)
    hold(model, masks, importlib.import_module(kind))
    model.ticket = ticket
    return model


def masks_held(model: Any) -> Masks:
    """Returns the masks that are held in a model, by path."""
    return {
        path: network.value_of(variable.constraint.mask) != 0
        for path, variable in network.variables(model).items()
        if isinstance(variable.constraint, Held)
    }


def warn_if_broken(model: Any) -> None:
    """Warns if weights that a model's masks or its ticket prune are not zero."""
    held = [
        (variable, network.value_of(variable.constraint.mask) != 0)
        for variable in model.weights
        if isinstance(getattr(variable, "constraint", None), Held)
    ]
    ticket = getattr(model, "ticket", None)
    if ticket is not None and not held:
        own = network.variables(model)
        mapping = paths.align(ticket.trained, network.read(own))
        held = [(own[mapping[path]], mask) for path, mask in ticket.masks.items()]
    broken = [
        getattr(variable, "path", variable.name)
        for variable, mask in held
        if np.any(network.value_of(variable)[~mask])
    ]
    if broken:
        warnings.warn(
            f"`model` {model.name!r} does not keep its masks: pruned weights are not "
            f"zero in {', '.join(broken)}, as after a checkpoint of other weights. "
            "Apply the ticket again: `ticket.apply(model)`.",
            stacklevel=3,
        )


def forget_traces(model: Any) -> None:
    """Makes the next `fit` trace its training step again."""
    for name in ("train_function", "train_tf_function"):
        if hasattr(model, name):
            setattr(model, name, None)


def optimizer_of(model: Any) -> Any:
    """Returns the optimizer that updates the weights, or `None`.

    In mixed precision that is the one inside the LossScaleOptimizer.
    """
    optimizer = getattr(model, "optimizer", None)
    return getattr(optimizer, "inner_optimizer", optimizer)


def scope(model: Any) -> Any:
    """Returns the scope that creates variables where the model's variables are."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def build_optimizer(model: Any) -> None:
    """Makes the optimizer's variables, which Keras makes at the first step."""
    optimizer = model.optimizer
    with scope(model):
        if hasattr(optimizer, "_create_all_weights"):  # A legacy one of tf_keras.
            optimizer._create_all_weights(model.trainable_variables)
        elif not getattr(optimizer, "built", False):
            optimizer.build(model.trainable_variables)


def wants_batches(callback: Any, keras: Any) -> bool:
    """Returns whether a callback has to be called after every single batch."""
    asks = getattr(callback, "_implements_train_batch_hooks", None)  # tf_keras
    if asks is not None:
        return bool(asks())
    plain = keras.callbacks.Callback
    names = ("on_batch_begin", "on_batch_end")
    names += ("on_train_batch_begin", "on_train_batch_end")
    return any(
        # A LambdaCallback keeps its functions in attributes of the instance.
        name in vars(callback)
        or getattr(type(callback), name, None) is not getattr(plain, name)
        for name in names
    )
