"""The converter: dense `.tflite` bytes of a model on TensorFlow."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging as absl_logging

from tflottery.tflite.file.graph import Graph, schema
from tflottery.tflite.file.inputs import Spec
from tflottery.tflite.source.generations import caller


def to_tflite(
    model: Any, specs: Sequence[Spec], calibration: list[np.ndarray] | None
) -> tuple[bytes, bytes]:
    """Returns the float32 file and the file to export, which is int8 if calibrated.

    Args:
        model: A Keras 3 model on TensorFlow, or a tf_keras model.
        specs: Its inputs.
        calibration: One array per input, each `[samples, ...]`, or None for float32.

    Raises:
        ValueError: If the converter does not support the model.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    call = caller(model, len(specs))
    signature = [tf.TensorSpec(s.shape, s.dtype, name=s.name) for s in specs]
    traced = tf.function(lambda *flat: call(flat), input_signature=signature)
    # Without freezing, `from_concrete_functions` loses the weights of a Keras 3 model
    # and writes a file that returns NaN.
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function())

    def run(feed: Callable[[], Iterator[list[np.ndarray]]] | None) -> bytes:
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
            try:
                return bytes(converter.convert())
            except ConverterError as error:
                raise ValueError(_plainly(str(error))) from error

    float32 = _signed(run(None), specs)
    if calibration is None:
        return float32, float32
    if len(Graph(float32).model.subgraphs) > 1:
        raise ValueError(
            "The converter cannot quantize a network with loops, such as an LSTM, to "
            "int8: it crashes. Build the layer with `unroll=True`, or export for "
            "another target."
        )
    size = specs[0].shape[0]

    def feed() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(calibration[0]) - size + 1, size):
            rows = [row[start : start + size] for row in calibration]
            yield [r.astype(s.dtype) for r, s in zip(rows, specs, strict=True)]

    return float32, _signed(run(feed), specs)


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


def _plainly(error: str) -> str:
    """Returns the message of a converter error without its MLIR."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op", error)))
    if missing:
        return (
            f"TFLite has no operator for {', '.join(missing)}. Build the model without "
            "it, or export the part before it."
        )
    return f"The converter rejects the model: {' '.join(error.split())[:300]}"


def _signed(data: bytes, specs: Sequence[Spec]) -> bytes:
    """Adds the signature, which the converter does not always write."""
    graph = Graph(data)
    generated = schema()

    def entries(named: Iterable[tuple[str, int]]) -> list[Any]:
        result = []
        for name, tensor in named:
            entry = generated.TensorMapT()
            entry.name, entry.tensorIndex = name, tensor
            result.append(entry)
        return result

    signature = generated.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    names = [spec.name for spec in specs]
    signature.inputs = entries(zip(names, graph.inputs, strict=True))
    numbered = [(f"output_{i}", tensor) for i, tensor in enumerate(graph.outputs)]
    signature.outputs = entries(numbered)
    graph.model.signatureDefs = [signature]
    return graph.to_bytes(keep_names=True)
