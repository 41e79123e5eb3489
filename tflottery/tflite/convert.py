"""Convert: a Keras model of either generation to a dense `.tflite` file."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tflottery.tflite import runtimes, verify, worker
from tflottery.tflite.flatbuffer import Graph, schema
from tflottery.tflite.halves import unfold_halves
from tflottery.tflite.samples import (
    Spec,
    as_samples,
    draw,
    plain_name,
    specs_of,
    take,
)

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
    generation(model)
    specs = _specs(model, batch_size, samples)
    drawn = as_samples(samples, specs) if samples is not None else draw(specs)
    expected = _answers(model, drawn, specs)
    calibration = None
    if representative_data is not None:
        calibration = take(representative_data, specs, _CALIBRATION_SAMPLES)
    float32, dense = _convert(model, specs, calibration)
    return Source(
        dense=dense, float32=float32, samples=tuple(drawn), expected=tuple(expected)
    )


def from_file(path: str | os.PathLike[str], samples: Any = None) -> Source:
    """Reads a dense `.tflite` file; its own answers are what is expected.

    Raises:
      ValueError: If the file is damaged, is sparse already, or does not run.
    """
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


def generation(model: Any) -> str:
    """Returns "keras" or "tf_keras", whichever made the model.

    Raises:
      TypeError: If neither did.
    """
    for base in type(model).__mro__:
        name = base.__module__.partition(".")[0]
        if base.__name__ == "Model" and name in ("keras", "tf_keras"):
            return name
    raise TypeError(
        "`model` must be a Keras 3 or tf_keras model, or the path of a dense .tflite "
        f"file. Received: {type(model).__name__}"
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
    structure = _structure(model)
    keys = {}
    if isinstance(structure, dict):
        keys = {id(tensor): key for key, tensor in structure.items()}
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


def _structure(model: Any) -> Any:
    """Returns the inputs as the model was built with them: one, a list or a dict."""
    name = "_inputs_struct" if generation(model) == "keras" else "_nested_inputs"
    return getattr(model, name, None)


def _answers(
    model: Any, samples: Sequence[np.ndarray], specs: Sequence[Spec]
) -> list[np.ndarray]:
    """Returns the model's flat outputs on the samples, in batches of 32."""
    call = _caller(model, specs)
    parts = []
    for start in range(0, len(samples[0]), 32):
        flat = call([array[start : start + 32] for array in samples])
        parts.append([np.asarray(output) for output in flat])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _caller(model: Any, specs: Sequence[Spec]) -> Callable[[Sequence[Any]], list[Any]]:
    """Returns a function from flat inputs to flat outputs, in inference mode."""
    if generation(model) == "keras":
        import keras

        flatten, pack = keras.tree.flatten, keras.tree.pack_sequence_as
    else:
        import tensorflow as tf

        flatten, pack = tf.nest.flatten, tf.nest.pack_sequence_as
    structure = _structure(model)

    def call(flat: Sequence[Any]) -> list[Any]:
        given = list(flat) if len(specs) > 1 else flat[0]
        if isinstance(structure, dict):
            given = pack(structure, list(flat))
        return flatten(model(given, training=False))

    return call


def _convert(
    model: Any, specs: Sequence[Spec], calibration: list[np.ndarray] | None
) -> tuple[bytes, bytes]:
    """Returns the float32 file and the one to export, which is int8 if calibrated."""
    if generation(model) == "keras":
        import keras

        if keras.backend.backend() != "tensorflow":
            return _convert_elsewhere(model, specs, calibration)
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    call = _caller(model, specs)
    signature = [tf.TensorSpec(s.shape, s.dtype, name=s.name) for s in specs]
    traced = tf.function(lambda *flat: call(flat), input_signature=signature)
    # Freezing first is what makes this right: `from_concrete_functions` on its own
    # loses the weights of a Keras 3 model and returns NaN.
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function())

    def run(feed: Callable[[], Iterator[list[np.ndarray]]] | None) -> bytes:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        if feed is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = feed
            ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.target_spec.supported_ops = ops
            if all(spec.dtype.kind == "f" for spec in specs):
                converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own deprecations
            return bytes(converter.convert())

    float32 = _signed(run(None), specs)
    if calibration is None:
        return float32, float32
    if len(Graph(float32).model.subgraphs) > 1:
        raise ValueError(
            '`target="int8"` cannot quantize a network with loops, such as an LSTM: '
            'the converter crashes on it. Use `quantize="weights"` or "float16".'
        )
    size = specs[0].shape[0]

    def feed() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(calibration[0]) - size + 1, size):
            rows = [row[start : start + size] for row in calibration]
            yield [r.astype(s.dtype) for r, s in zip(rows, specs, strict=True)]

    return float32, _signed(run(feed), specs)


def _signed(data: bytes, specs: Sequence[Spec]) -> bytes:
    """Gives a converted file the signature that the converter writes only at times."""
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


def _convert_elsewhere(
    model: Any, specs: Sequence[Spec], calibration: list[np.ndarray] | None
) -> tuple[bytes, bytes]:
    """Converts in a process whose Keras runs on TensorFlow."""
    with tempfile.TemporaryDirectory(prefix="tflottery-") as name:
        folder = pathlib.Path(name)
        model.save(folder / "model.keras")
        if calibration is not None:
            np.savez(folder / "calibration.npz", *calibration)
        environment = dict(os.environ, KERAS_BACKEND="tensorflow")
        environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        batch = str(specs[0].shape[0])
        command = [sys.executable, "-W", "ignore", "-m", __name__, name, batch]
        root = str(pathlib.Path(__file__).parents[2])
        paths = [root, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                "The model could not be rebuilt with the TensorFlow backend. Layers of "
                "your own must be registered by keras.saving and written in keras.ops. "
                f"{done.stderr[-2000:]}"
            )
        float32 = (folder / "float32.tflite").read_bytes()
        return float32, (folder / "dense.tflite").read_bytes()


def _main(arguments: Iterable[str]) -> None:
    import keras

    name, batch = arguments
    folder = pathlib.Path(name)
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    calibration = None
    if (folder / "calibration.npz").exists():
        with np.load(folder / "calibration.npz") as stored:
            calibration = [stored[f"arr_{i}"] for i in range(len(stored.files))]
    float32, dense = _convert(model, _specs(model, int(batch), None), calibration)
    (folder / "float32.tflite").write_bytes(float32)
    (folder / "dense.tflite").write_bytes(dense)


if __name__ == "__main__":
    _main(sys.argv[1:])
