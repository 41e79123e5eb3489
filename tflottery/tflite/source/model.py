"""Model: what is exported, as a dense `.tflite` file and its expected answers."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.file.inputs import Spec, as_samples, plain_name, specs_of, take
from tflottery.tflite.rewrite.constants import unfold_halves
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
_CHECKED_SAMPLES = 64  # of those


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What is exported: the dense file, and what it must answer.

    Attributes:
        dense: Dense file; quantized if that was asked for.
        float32: Dense float32 file; equal to `dense` unless that is quantized.
        samples: One array per input, each `[samples, ...]`.
        expected: Outputs of the model on the samples.
        notes: What the user should know.
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
        model: The model. If its Keras backend is not TensorFlow, another process
            rebuilds it from its configuration and weights.
        batch_size: Number of samples that the file takes per call.
        samples: Inputs to compare outputs on; see `inputs.as_samples`.
        representative_data: Data to quantize the file to int8 with, or None to keep
            float32; see `inputs.take`.

    Raises:
        TypeError: If `model` is not a model.
        ValueError: If the model cannot be converted, its outputs are not finite, or an
            argument does not fit its inputs.
    """
    generation(model)  # raises TypeError if it is not a model
    if any(type(layer).__name__ == "PruneLowMagnitude" for layer in all_layers(model)):
        raise ValueError(
            "`model` is still wrapped for pruning. Give "
            "tfmot.sparsity.keras.strip_pruning(model)."
        )
    model = in_float32(model)
    specs = _specs(model, batch_size, samples)
    calibration = None
    if representative_data is not None:
        calibration = take(representative_data, specs, _CALIBRATION_SAMPLES)
        if samples is None:  # what is drawn may lie outside of the calibrated range
            samples = [rows[:_CHECKED_SAMPLES] for rows in calibration]
    samples = as_samples(samples, specs)
    expected = _answers(model, samples, specs)
    if not all(np.isfinite(output).all() for output in expected):
        raise ValueError(
            "`model` returns NaN or infinity on the samples, so its file cannot be "
            "verified. Check that its weights are finite, and that `samples` are in "
            "the range that it was trained on."
        )
    here = generation(model) == "tf_keras" or _backend() == "tensorflow"
    to_tflite = converter.to_tflite if here else other_backend.to_tflite
    float32, dense = to_tflite(model, specs, calibration)
    return Source(
        dense=dense, float32=float32, samples=tuple(samples), expected=tuple(expected)
    )


def _backend() -> str:
    import keras

    return keras.backend.backend()


def from_file(path: str | os.PathLike[str], samples: Any = None) -> Source:
    """Reads a dense `.tflite` file, which is run for the expected outputs.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ValueError: If the file is damaged, is sparse already, or does not run.
    """
    path = worker.file(path)
    data = pathlib.Path(path).read_bytes()
    graph = Graph(data)
    if any(tensor.sparsity is not None for tensor in graph.tensors):
        raise ValueError(f"{path} is sparse already. Give the dense file or the model.")
    samples = as_samples(samples, specs_of(graph))
    try:
        outputs, failures, _ = verify.run_everywhere(path, samples)
    except worker.JobError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if failures:
        raise ValueError(f"{path} does not run: {failures}")
    expected = outputs[runtimes.default()]  # computed without XNNPACK
    notes = ()
    if unfold_halves(graph):
        data = graph.to_bytes(keep_names=True)
        notes = (
            "the float16 values of the given file are written as float32, which takes "
            'twice the bytes; `target="float16"` writes them as float16.',
        )
    return Source(
        dense=data,
        float32=data,
        samples=tuple(samples),
        expected=tuple(expected),
        notes=notes,
    )


def _specs(model: Any, batch_size: int, samples: Any) -> list[Spec]:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        if samples is None:
            raise ValueError(
                "`model` does not define its inputs. Give `samples`, or build the "
                "model with keras.Input."
            )
        arrays = samples if isinstance(samples, list | tuple) else [samples]
        arrays = [np.asarray(array) for array in arrays]
        return [
            Spec((batch_size, *array.shape[1:]), array.dtype, f"input_{index}")
            for index, array in enumerate(arrays)
        ]
    # Inputs given as a dict are named by its keys.
    built_with = structure(model)
    keys = {}
    if isinstance(built_with, dict):
        keys = {id(tensor): key for key, tensor in built_with.items()}
    result = []
    for tensor in inputs:
        shape = tuple(tensor.shape[1:])
        if any(size is None for size in shape):
            raise ValueError(
                f"Input {tensor.name!r} has the open shape {tuple(tensor.shape)}, but "
                "a file needs fixed sizes. Build the model with a full input shape."
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
