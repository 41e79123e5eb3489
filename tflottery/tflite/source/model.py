"""Convert: a Keras model of either generation to a dense `.tflite` file."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.file.inputs import (
    Spec,
    as_samples,
    draw,
    plain_name,
    specs_of,
    take,
)
from tflottery.tflite.rewrite.halves import unfold_halves
from tflottery.tflite.run import runtimes, verify, worker
from tflottery.tflite.source import converter, other_backend
from tflottery.tflite.source.generations import (
    all_layers,
    caller,
    generation,
    structure,
)
from tflottery.tflite.source.precision import in_float32

_CALIBRATION_SAMPLES = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What is exported: the dense file, and what it must answer.

    Attributes:
      dense: The dense file; quantized, if that was asked for.
      float32: The dense float32 file; equal to `dense` without quantization.
      samples: One array per input, each `[samples, ...]`.
      expected: The model's own outputs on the samples.
      notes: What to tell the caller.
    """

    dense: bytes
    float32: bytes
    samples: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()


def from_model(
    model: Any,
    *,
    batch_size: int = 1,
    samples: Any = None,
    representative_data: Any = None,
) -> Source:
    """Converts a built Keras 3 or tf_keras model, and runs it on the samples.

    Args:
      model: The model. With another Keras backend than TensorFlow it is rebuilt from
        its configuration and weights in a process of its own.
      batch_size: The batch that the file will take, always.
      samples: Inputs to compare outputs on: an array `[samples, ...]`, or one per
        input. Drawn from a normal distribution, integers from {0, 1}, if None.
      representative_data: If given, the file is quantized to int8 throughout. Inputs
        as for `samples`, or batches of them, with or without labels.
    """
    generation(model)  # or it is no model
    if any(type(layer).__name__ == "PruneLowMagnitude" for layer in all_layers(model)):
        raise ValueError(
            "`model` is still wrapped for pruning. Give "
            "tfmot.sparsity.keras.strip_pruning(model)."
        )
    model = in_float32(model)
    specs = _specs(model, batch_size, samples)
    drawn = as_samples(samples, specs) if samples is not None else draw(specs)
    expected = _answers(model, drawn, specs)
    if not all(np.isfinite(output).all() for output in expected):
        raise ValueError(
            "`model` answers NaN or infinity on the samples, so no file can be "
            "compared with it. Are its weights finite, and `samples` in the range that "
            "it was trained on?"
        )
    calibration = None
    if representative_data is not None:
        calibration = take(representative_data, specs, _CALIBRATION_SAMPLES)
    here = generation(model) == "tf_keras" or _backend() == "tensorflow"
    to_tflite = converter.to_tflite if here else other_backend.to_tflite
    float32, dense = to_tflite(model, specs, calibration)
    return Source(
        dense=dense, float32=float32, samples=tuple(drawn), expected=tuple(expected)
    )


def _backend() -> str:
    import keras

    return keras.backend.backend()


def from_file(path: str | os.PathLike[str], samples: Any = None) -> Source:
    """Reads a dense `.tflite` file; its own answers are what is expected.

    Raises:
      ValueError: If the file is damaged, is sparse already, or does not run.
    """
    worker.file(path)  # or there is none
    path = os.fspath(path)
    data = pathlib.Path(path).read_bytes()
    graph = Graph(data)
    if any(tensor.sparsity is not None for tensor in graph.tensors):
        raise ValueError(f"{path} is sparse already. Give the dense file or the model.")
    specs = specs_of(graph)
    drawn = as_samples(samples, specs) if samples is not None else draw(specs)
    try:
        outputs, failures, _ = verify.run_everywhere(path, drawn)
    except worker.JobError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if failures:
        raise ValueError(f"{path} does not run: {failures}")
    expected = outputs[runtimes.installed()[0]]  # without XNNPACK: the plain kernels
    notes = ()
    if unfold_halves(graph):
        data = graph.to_bytes(keep_names=True)
        notes = (
            "the float16 values of the given file are the same in float32, at twice "
            'the bytes; `target="float16"` writes them as float16.',
        )
    return Source(
        dense=data,
        float32=data,
        samples=tuple(drawn),
        expected=tuple(expected),
        notes=notes,
    )


def _specs(model: Any, batch_size: int, samples: Any) -> list[Spec]:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        if samples is None:
            raise ValueError(
                "The model does not say what its inputs are. Give `samples`, or build "
                "it by keras.Input."
            )
        arrays = list(samples) if isinstance(samples, list | tuple) else [samples]
        arrays = [np.asarray(array) for array in arrays]
        return [
            Spec((batch_size, *array.shape[1:]), array.dtype, f"input_{index}")
            for index, array in enumerate(arrays)
        ]
    # Inputs that are given as a dict are named by its keys.
    given_as = structure(model)
    keys = {}
    if isinstance(given_as, dict):
        keys = {id(tensor): key for key, tensor in given_as.items()}
    result = []
    for tensor in inputs:
        shape = tuple(tensor.shape[1:])
        if any(size is None for size in shape):
            raise ValueError(
                f"Input {tensor.name!r} has an open shape {tuple(tensor.shape)}. A "
                "file needs fixed sizes: build the model with a whole input shape."
            )
        name = plain_name(keys.get(id(tensor)) or tensor.name.partition(":")[0])
        while name in {spec.name for spec in result}:
            name += "_"
        dtype = np.dtype(getattr(tensor.dtype, "name", tensor.dtype))
        result.append(Spec((batch_size, *shape), dtype, name))
    return result


def _answers(
    model: Any, samples: Sequence[np.ndarray], specs: Sequence[Spec]
) -> list[np.ndarray]:
    """Returns the model's flat outputs on the samples, in batches of 32."""
    call = caller(model, len(specs))
    parts = []
    for start in range(0, len(samples[0]), 32):
        flat = call([array[start : start + 32] for array in samples])
        parts.append([np.asarray(output) for output in flat])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
