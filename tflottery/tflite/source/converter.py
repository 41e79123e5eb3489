"""The converter: dense `.tflite` bytes of a model on TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging as absl_logging

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.file.inputs import Spec, plain_name
from tflottery.tflite.file.packing import table
from tflottery.tflite.rewrite.constants import unfold
from tflottery.tflite.source import refusals
from tflottery.tflite.source.generations import caller, without_updates


def to_tflite(
    model: Any,
    specs: Sequence[Spec],
    outputs: Sequence[str],
    calibration: list[np.ndarray] | None,
) -> tuple[bytes, bytes]:
    """Returns the float32 file and the file to export, which is int8 if calibrated.

    Args:
        model: A Keras 3 model on TensorFlow, or a tf_keras model.
        specs: Its inputs.
        outputs: Names of its outputs.
        calibration: One array per input, each `[samples, ...]`, or None for float32.

    Raises:
        ValueError: If the converter does not support the model.
    """
    from tensorflow.lite.python.convert_phase import ConverterError
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    graph = trace(model, specs, without_updates(model))
    if writers := refusals.layers_with(model, graph.graph, "Assign.*"):
        raise ValueError(
            f"In its `call`, weights are written by {refusals.named(writers)}, which a "
            "file cannot do. Compute a local value instead, as in "
            "`kernel = self.kernel * self.mask`."
        )
    # Without freezing, `from_concrete_functions` loses the weights of a Keras 3 model
    # and writes a file that returns NaN.
    frozen = convert_variables_to_constants_v2(graph)
    try:
        float32 = _convert(frozen, specs, outputs)
    except ConverterError as error:
        missing = set(re.findall(r"'tf\.(\w+)' op is neither", str(error)))
        missing -= {"Placeholder"}  # the table that another operator looks up
        if missing or specs[0].shape[0] != 1:
            layers = refusals.layers_with(model, graph.graph, "|".join(missing))
            raise refusals.missing(model, missing, layers, str(error)) from error
        # What it knows of sizes of 1 may mislead the converter: it folds a transpose
        # into operands of another rank. Files that it writes have batches of 1 anyway.
        batch_open = [dataclasses.replace(s, shape=(None, *s.shape[1:])) for s in specs]
        graph = trace(model, batch_open, without_updates(model))
        frozen = convert_variables_to_constants_v2(graph)
        try:
            float32 = _convert(frozen, specs, outputs)
        except ConverterError:
            raise refusals.missing(model, missing, [], str(error)) from error
    if calibration is None:
        return float32, float32
    if len(Graph(float32).model.subgraphs) > 1:
        raise ValueError(
            "The converter cannot quantize a network with loops, such as an LSTM, to "
            "int8: it crashes. Build the layer with `unroll=True`, or export for "
            "another target."
        )
    size = specs[0].shape[0] or 1

    def feed() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(calibration[0]) - size + 1, size):
            rows = [row[start : start + size] for row in calibration]
            yield [r.astype(s.dtype) for r, s in zip(rows, specs, strict=True)]

    return float32, _convert(frozen, specs, outputs, feed)


def trace(
    model: Any, specs: Sequence[Spec], scope: contextlib.AbstractContextManager[Any]
) -> Any:
    """Returns the concrete function of a model in inference mode, traced in a scope."""
    import tensorflow as tf

    call = caller(model, specs)

    def traced(*flat: Any) -> list[Any]:
        with scope:
            return list(call(flat).values())

    signature = [
        tf.TensorSpec(s.shape, s.dtype, name=plain_name(s.name)) for s in specs
    ]
    return tf.function(traced, input_signature=signature).get_concrete_function()


def _convert(
    frozen: Any, specs: Sequence[Spec], outputs: Sequence[str], feed: Any = None
) -> bytes:
    """Returns the file of a frozen function, quantized if `feed` calibrates it."""
    import tensorflow as tf

    with _quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        if feed is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = feed
            ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.target_spec.supported_ops = ops
            if all(spec.dtype.kind == "f" for spec in specs):
                converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        return _signed(bytes(converter.convert()), specs, outputs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the converter logs and prints."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    # Its C++ code writes to the file descriptor, not to `sys.stderr`.
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():
            os.dup2(nowhere.fileno(), 2)
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        absl_logging.set_verbosity(before)


def _signed(data: bytes, specs: Sequence[Spec], outputs: Sequence[str]) -> bytes:
    """Adds the signature, which the converter does not always write.

    Constants are unfolded, such as those of quantization-aware training.
    """
    graph = Graph(data)
    unfold(graph)
    named = {"inputs": [spec.name for spec in specs], "outputs": outputs}
    ends = {
        side: [
            table("TensorMapT", name=name, tensorIndex=tensor)
            for name, tensor in zip(names, getattr(graph, side), strict=True)
        ]
        for side, names in named.items()
    }
    signature = table("SignatureDefT", signatureKey="serving_default", **ends)
    graph.model.signatureDefs = [signature]
    return graph.to_bytes(keep_names=True)
