"""Wrapper: tfmot's PruneLowMagnitude, changed to hold its mask after every step."""

from typing import Any

from tflottery.engines import network
from tflottery.engines.tfmot import held
from tflottery.engines.tfmot.imported import (
    PruneLowMagnitude,
    PruneRegistry,
    tf_keras,
)


class HeldLowMagnitude(PruneLowMagnitude):
    """tfmot's wrapper with masks that change only when they are assigned.

    It adds nothing to a training step except the multiplication by the masks: no
    schedule is read, no weights are sorted, no callback is needed. The masks hold the
    layer's own weights, so every model that shares the layer obeys them.

    Args:
        layer: A built layer that tfmot can prune.
        pruning_schedule: Says what is pruned and when, for information only.
    """

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        for weight, mask, _ in self.pruning_vars:
            held.constrain(weight, mask)

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self.layer(inputs, *args, **kwargs)


def wrap(layer: Any, pruning_schedule: Any) -> HeldLowMagnitude | None:
    """Returns the layer wrapped and held, or `None` if tfmot does not support it."""
    own = hasattr(type(layer), "get_prunable_weights")
    if not own and not PruneRegistry.supports(layer):
        return None
    wrapper = HeldLowMagnitude(layer, pruning_schedule=pruning_schedule)
    wrapper.build(None)
    if not own:
        _unregister(layer)
    return wrapper


def unwrap(model: Any) -> Any:
    """Returns a model without tfmot's wrappers that shares all layers and variables.

    A model without wrappers is returned as it is. A compiled model stays compiled.

    Raises:
        ValueError: If a subclassed model contains wrappers.
    """
    if not wrappers_in(model):
        return model
    stripped = _strip(model)
    for layer in network.all_layers(stripped):
        _unregister(layer)
    if model._is_compiled:
        steps = int(model.steps_per_execution.numpy())
        stripped.compile(
            **model._get_compile_args(),
            run_eagerly=model._run_eagerly,
            jit_compile=model.jit_compile,
            steps_per_execution="auto" if model.autotune_steps_per_execution else steps,
        )
    return stripped


def _strip(layer: Any) -> Any:
    if isinstance(layer, PruneLowMagnitude):
        return layer.layer
    if not isinstance(layer, tf_keras.Model) or not wrappers_in(layer):
        return layer
    if not isinstance(layer, tf_keras.Sequential) and not layer._is_graph_network:
        raise ValueError(
            f"`model` has tfmot's pruning wrappers in {layer.name!r}, a subclassed "
            "model, from which they cannot be removed. Build it from plain layers: "
            "tflottery prunes a subclassed model without wrappers."
        )
    return tf_keras.models.clone_model(layer, clone_function=_strip)


def wrappers_in(model: Any) -> list[PruneLowMagnitude]:
    """Returns all of tfmot's wrappers in the model, each once."""
    found = model._flatten_layers(recursive=True, include_self=False)
    return list({id(x): x for x in found if isinstance(x, PruneLowMagnitude)}.values())


def _unregister(layer: Any) -> None:
    """Removes the function that tfmot's registry adds to each layer it has wrapped."""
    vars(layer).pop("get_prunable_weights", None)
