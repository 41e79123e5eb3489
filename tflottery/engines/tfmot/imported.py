"""Imports tfmot and tf_keras without changing what the user's `tf.keras` is.

Importing tfmot sets TF_USE_LEGACY_KERAS, which turns `tf.keras` into tf_keras unless it
has been used before.
"""

import os
import warnings
from typing import Any

from tflottery.core import extras

with extras.needed("tfmot", "A tf_keras model or a tfmot program"):
    import tensorflow as tf

    _ = tf.keras.Model  # From here on `tf.keras` stays what it is.
    _given = os.environ.get("TF_USE_LEGACY_KERAS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # distutils
        import tensorflow_model_optimization as tfmot
if _given is None:
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
else:
    os.environ["TF_USE_LEGACY_KERAS"] = _given

import tf_keras
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import (
    PruneRegistry,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
    PruneLowMagnitude,
)

sparsity: Any = tfmot.sparsity.keras

__all__ = ["PruneLowMagnitude", "PruneRegistry", "sparsity", "tf", "tf_keras"]
