"""Wrapper: tfmot's PruneLowMagnitude, extended to hold its mask after every step."""

from typing import Any

from tflottery.engines import network
from tflottery.engines.tfmot import held
from tflottery.engines.tfmot.imported import (
    PruneLowMagnitude,
    PruneRegistry,
    tf_keras,
)


class HeldLowMagnitude(PruneLowMagnitude):
    """tfmot's wrapper with nothing in the step but the cut that its masks make.

    The masks are the wrapper's own variables, which its owner assigns: no schedule is
    asked in the step, no weight is sorted there, no callback is needed. The layer is
    shared, so that whatever model it stands in obeys the masks.

    Args:
        layer: a built layer that tfmot can prune.
        pruning_schedule: what is to be pruned and when, for whoever looks.
    """

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        for weight, mask, _ in self.pruning_vars:
            held.constrain(weight, mask)

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self.layer(inputs, *args, **kwargs)


def wrap(layer: Any, pruning_schedule: Any) -> HeldLowMagnitude | None:
    """Returns the layer wrapped and held, or `None` where tfmot does not know it."""
    own = hasattr(type(layer), "get_prunable_weights")
    if not own and not PruneRegistry.supports(layer):
        return None
    wrapper = HeldLowMagnitude(layer, pruning_schedule=pruning_schedule)
    wrapper.build(None)
    if not own:
        forget(layer)
    return wrapper


def unwrap(model: Any) -> Any:
    """Returns a model free of tfmot's wrappers, which shares all layers and variables.

    It is `model` itself where there are none. A compiled one stays compiled.

    Raises:
        ValueError: for wrappers in a subclassed model, where none can be taken off.
    """
    if not wrappers_in(model):
        return model
    stripped = _strip(model)
    for layer in network.all_layers(stripped):
        forget(layer)
    if model._is_compiled:
        automatic = model.autotune_steps_per_execution
        stripped.compile(
            **model._get_compile_args(),
            run_eagerly=model._run_eagerly,
            jit_compile=model.jit_compile,
            steps_per_execution="auto"
            if automatic
            else int(model.steps_per_execution.numpy()),
        )
    return stripped


def _strip(layer: Any) -> Any:
    if isinstance(layer, PruneLowMagnitude):
        return layer.layer
    if not isinstance(layer, tf_keras.Model) or not wrappers_in(layer):
        return layer
    if not isinstance(layer, tf_keras.Sequential) and not layer._is_graph_network:
        raise ValueError(
            f"`model` holds tfmot's pruning wrappers in {layer.name!r}, a subclassed "
            "model, where they cannot be taken off. Build it from plain layers: "
            "tflottery prunes a subclassed model without wrappers."
        )
    return tf_keras.models.clone_model(layer, clone_function=_strip)


def wrappers_in(model: Any) -> list[PruneLowMagnitude]:
    """Returns tfmot's wrappers anywhere in the model, each once."""
    found = model._flatten_layers(recursive=True, include_self=False)
    return list({id(x): x for x in found if isinstance(x, PruneLowMagnitude)}.values())


def forget(layer: Any) -> None:
    """Takes off what tfmot's registry has put on a layer of Keras' own."""
    vars(layer).pop("get_prunable_weights", None)
