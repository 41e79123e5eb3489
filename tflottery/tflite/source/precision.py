"""Precision: a model that computes in another float type, rebuilt in float32.

The converter has no kernels for float16, bfloat16 or float64. A mixed-precision model
loses nothing: its weights are float32 already.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflottery.tflite.source.generations import all_layers

_OTHER = ("float16", "bfloat16", "float64")
_POLICIES = (*_OTHER, "mixed_float16", "mixed_bfloat16")


def in_float32(model: Any) -> Any:
    """Returns a built model if it computes in float32, or else a copy that does.

    Raises:
        ValueError: If the model cannot be rebuilt from its configuration.
    """
    if not (other := _other_types(model)):
        return model
    own = {type(layer).__name__: type(layer) for layer in all_layers(model)}
    problem = "some of its layers keep their type."
    try:
        config = _replaced(model.get_config())
        rebuilt = type(model).from_config(config, custom_objects=own)
        rebuilt.set_weights([_widened(weight) for weight in model.get_weights()])
        if not _other_types(rebuilt):
            return rebuilt
    except (TypeError, ValueError, NotImplementedError) as error:
        problem = str(error)
    raise ValueError(
        f"The model computes in {', '.join(sorted(other))}, which a .tflite file "
        f"cannot, and it could not be rebuilt in float32: {problem} Build it with the "
        'dtype policy "float32", and set its weights to those of this model.'
    )


def _other_types(model: Any) -> set[str]:
    types = {str(getattr(layer, "compute_dtype", "")) for layer in all_layers(model)}
    return types & set(_OTHER)


def _widened(weight: Any) -> np.ndarray:
    array = np.asarray(weight)
    return array if array.dtype.kind in "iub" else array.astype(np.float32)


def _replaced(config: Any) -> Any:
    """Returns a configuration in which all float types and policies are float32."""
    if isinstance(config, dict):
        if config.get("class_name") in ("DTypePolicy", "Policy", "FloatDTypePolicy"):
            return "float32"
        return {
            key: "float32"
            if key == "dtype" and isinstance(value, str) and value in _POLICIES
            else _replaced(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_replaced(entry) for entry in config)
    return config
