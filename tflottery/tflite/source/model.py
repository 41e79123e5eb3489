"""Model: what is exported, as a dense `.tflite` file and its expected answers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflottery.engines import holding, network
from tflottery.tflite.devices import micro
from tflottery.tflite.file import inputs
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.file.inputs import Spec
from tflottery.tflite.rewrite.constants import densify, unfold
from tflottery.tflite.run import verify, worker
from tflottery.tflite.run.runtimes import rows_of
from tflottery.tflite.source import converter, other_backend, refusals
from tflottery.tflite.source.generations import all_layers, caller, structure
from tflottery.tflite.source.precision import in_float32

_CALIBRATION_SAMPLES = 256
_CHECKED_SAMPLES = 64  # of those


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What is exported: the dense file, and what it must answer."""

    dense: bytes  # quantized if that was asked for
    float32: bytes
    samples: Sequence[np.ndarray]  # one array per input, each [samples, ...]
    checked_on: str  # what the samples are
    batch_open: bool  # whether a runtime may set another batch
    # Outputs of the model on the samples; those of a file in each runtime.
    expected: Sequence[np.ndarray] | Mapping[str, Sequence[np.ndarray]]
    # Samples of another size and the outputs on them, if sizes are open.
    smaller: tuple[list[np.ndarray], list[np.ndarray]] | None = None
    notes: Sequence[str] = ()


def from_model(
    model: Any,
    *,
    batch_size: int = 1,
    samples: Any = None,
    representative_data: Any = None,
    input_shape: Any = None,
) -> Source:
    """Converts a built Keras 3 or tf_keras model, and runs it on the samples.

    The arguments are those of `export_tflite`. Another process rebuilds a model on a
    backend other than TensorFlow, from its configuration and weights.

    Raises:
        TypeError: If `model` is not a model.
        ValueError: If the model cannot be converted, its outputs are not finite, or an
            argument does not fit its inputs.
    """
    refusals.check(model)
    if model.built:
        holding.warn_if_broken(model)
    model = in_float32(model)
    specs = _specs(model, batch_size, samples, input_shape)
    is_open = any(None in spec.shape for spec in specs)
    arrays, checked_on, calibration = _to_check(samples, representative_data, specs)
    notes, smaller = [], None
    if any(type(layer).__name__ == "QuantizeWrapperV2" for layer in all_layers(model)):
        notes.append(
            'of a quantization-aware model only `target="int8"` stores the weights '
            "sparse. Its training moves pruned weights, unless `tflottery.hold` held "
            "the model that `quantize_model` returned."
        )
    if is_open:
        drawn = samples is None and representative_data is None
        note, smaller = _try_sizes(model, arrays, specs, drawn=drawn)
        notes.append(note)
    answers = _answers(model, arrays, specs)
    here = network.on_tensorflow(network.keras_of(model))
    to_tflite = converter.to_tflite if here else other_backend.to_tflite
    float32, dense = to_tflite(model, specs, [*answers], calibration)
    return Source(
        dense=dense,
        float32=float32,
        samples=arrays,
        checked_on=checked_on,
        batch_open=_own_batch(model) is None,
        expected=[*answers.values()],
        smaller=smaller,
        notes=notes,
    )


def from_file(
    path: str | os.PathLike[str], samples: Any = None, representative_data: Any = None
) -> Source:
    """Reads a `.tflite` file, which is run for the expected outputs.

    It is calibrated already: `representative_data` takes the place of `samples`.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ValueError: If the file is damaged, is sparse in blocks, does not run, or has
            inputs of unlike batch sizes.
    """
    path = worker.file(path)
    data = pathlib.Path(path).read_bytes()
    graph = Graph(data, path)
    specs = inputs.specs_of(graph)
    if len({spec.shape[0] for spec in specs}) > 1:
        shapes = ", ".join(f"{spec.shape} of {spec.name!r}" for spec in specs)
        raise ValueError(
            f"The inputs of {path} must begin with one batch size, as samples are "
            f"given by batches. Received: {shapes}"
        )
    arrays, checked_on, _ = _to_check(samples, representative_data, specs)
    notes = []
    with tempfile.TemporaryDirectory(prefix="tflottery-") as folder:
        run = path
        if graph.mend_axes():
            notes.append("a vector's `quantized_dimension` was set to 0, its only one.")
            data, run = graph.to_bytes(keep_names=True), f"{folder}/mended.tflite"
            pathlib.Path(run).write_bytes(data)
        outputs, failures, _ = verify.run_everywhere(run, arrays)
    why = verify.listed(failures)
    if not outputs:
        drawn = samples is None and representative_data is None
        is_open = any(None in spec.shape[1:] for spec in specs)
        drawn_at = [a.shape[1:] for a in arrays] if drawn and is_open else None
        raise ValueError(_why_not(path, why, drawn_at))
    if failures:
        notes.append(
            f"the given file runs only in {', '.join(outputs)}, so the new one was "
            f"compared there ({why})."
        )
    signatures = (graph.tensors[tensor].shapeSignature for tensor in graph.inputs)
    batch_open = all(s is not None and len(s) and s[0] < 0 for s in signatures)
    if densify(graph) + unfold(graph) + micro.unpack_weights(graph):
        data = graph.to_bytes(keep_names=True)
    return Source(
        dense=data,
        float32=data,
        samples=arrays,
        checked_on=checked_on,
        batch_open=batch_open,
        expected=outputs,
        notes=notes,
    )


def _why_not(path: str, said: str, drawn_at: list[tuple[int, ...]] | None) -> str:
    """Returns why a file does not run, from what the runtimes say.

    `drawn_at` holds the sizes that were tried for inputs whose sizes are open.
    """
    if custom := re.search(r"custom op: (\w+)", said):
        return (
            f"{path} cannot be compared with a new file, as no installed runtime has "
            f"its custom operator {custom[1]}. Export the model before that operator."
        )
    if drawn_at:
        return (
            f"{path} leaves sizes of its inputs open, and fails with {drawn_at}. Give "
            f"`samples` of sizes that it takes. The runtimes said: {said}"
        )
    return f"{path} does not run, it may be damaged: {said}"


def _to_check(
    samples: Any, representative_data: Any, specs: Sequence[Spec]
) -> tuple[list[np.ndarray], str, list[np.ndarray] | None]:
    """Returns the inputs to compare outputs on, what they are, and those to calibrate.

    They are drawn if none are given.
    """
    what, calibration = "of your `samples`", None
    if representative_data is not None:
        calibration = inputs.take(representative_data, specs, _CALIBRATION_SAMPLES)
    if samples is None and calibration is not None:
        # What is drawn may lie outside of the calibrated range.
        samples = [rows[:_CHECKED_SAMPLES] for rows in calibration]
        what = "of your `representative_data`"
    elif samples is None:
        within = " within the calibrated range" if any(s.limits for s in specs) else ""
        what = f"random inputs{within}"
    arrays = inputs.as_samples(samples, specs)
    return arrays, f"{len(arrays[0])} {what}", calibration


def _specs(model: Any, batch_size: int, samples: Any, input_shape: Any) -> list[Spec]:
    tensors = getattr(model, "inputs", None)
    if not tensors:
        return _described(model, batch_size, samples, input_shape)
    batch = _own_batch(model) or batch_size
    if batch_size not in (1, batch):
        raise ValueError(
            f"`model` {model.name!r} is built for batches of {batch}. "
            f"Received: batch_size={batch_size}"
        )
    built_with = structure(model)  # inputs given as a dict are named by its keys
    named = built_with if isinstance(built_with, dict) else {}
    keys = {id(tensor): key for key, tensor in named.items()}
    result, taken = [], set()
    for tensor in tensors:
        name = str(keys.get(id(tensor)) or tensor.name.partition(":")[0])
        while inputs.plain_name(name) in taken:
            name += "_"
        taken.add(inputs.plain_name(name))
        dtype = getattr(tensor.dtype, "name", tensor.dtype)
        if dtype == "string":
            raise refusals.text_input(model, tensor, name)
        result.append(Spec((batch, *tensor.shape[1:]), np.dtype(dtype), name))
    return inputs.fixed(result, input_shape)


def _described(
    model: Any, batch_size: int, samples: Any, input_shape: Any
) -> list[Spec]:
    """Returns the inputs of a model that does not define them."""
    if samples is None and input_shape is None:
        raise ValueError(
            "`model` does not define its inputs. Give `samples` or `input_shape`, or "
            "build the model with keras.Input."
        )
    if samples is None:
        shape = (batch_size, *[None] * np.size(input_shape))
        return inputs.fixed([Spec(shape, np.dtype(np.float32), "input_0")], input_shape)
    keyed = isinstance(samples, Mapping)
    listed = samples if isinstance(samples, list | tuple) else [samples]
    each = {f"input_{i}": x for i, x in enumerate(listed)}
    specs = []
    for name, x in sorted(samples.items()) if keyed else each.items():
        array, key = np.asarray(x), name if keyed else None
        if array.dtype.kind in "OSU":
            raise refusals.text_input(model, None, name)
        shape = (batch_size, *array.shape[1:])
        specs.append(Spec(shape, array.dtype, str(name), key=key))
    return inputs.fixed(specs, input_shape)


def _own_batch(model: Any) -> int | None:
    """Returns the batch size that a model is built for, None if it takes any."""
    return model.inputs[0].shape[0] if getattr(model, "inputs", None) else None


def _try_sizes(
    model: Any, arrays: list[np.ndarray], specs: Sequence[Spec], *, drawn: bool
) -> tuple[str, tuple[list[np.ndarray], list[np.ndarray]] | None]:
    """Returns a note on the sizes of the run, and samples of half the size and outputs.

    None in place of the samples if the model does not take them.
    """
    sizes = [array.shape[1:] for array in arrays]
    rows = _own_batch(model) or 1
    try:
        caller(model, specs)([np.resize(a, (rows, *a.shape[1:])) for a in arrays])
    except Exception as error:
        if not drawn:
            raise
        raise ValueError(
            f"`model` leaves sizes of its inputs open, and fails with {sizes}. Give "
            "`samples` of sizes that it takes, or fix them by `input_shape`. It said: "
            f"{str(error)[:300]}"
        ) from error
    smaller = None
    half = [_cropped(a, spec) for a, spec in zip(arrays, specs, strict=True)]
    with contextlib.suppress(Exception):  # It may take no other size.
        smaller = half, [*_answers(model, half, specs).values()]
        sizes += [array.shape[1:] for array in half]
    note = (
        "input sizes that the model leaves open stay so: a runtime sets them by "
        f"`resize_tensor_input`. The file was run at {sizes}. `input_shape` fixes "
        "them, which can make the file smaller."
    )
    return note, smaller


def _cropped(array: np.ndarray, spec: Spec) -> np.ndarray:
    """Returns the first half of samples along each dimension that is open."""
    sizes = zip(spec.shape[1:], array.shape[1:], strict=True)
    kept = (slice(size if fixed else -(-size // 2)) for fixed, size in sizes)
    return array[(slice(None), *kept)]


def _answers(
    model: Any, samples: Sequence[np.ndarray], specs: Sequence[Spec]
) -> dict[str, np.ndarray]:
    """Returns the model's named outputs on the samples, checked to be the same again.

    A model that mixes the samples of a batch is called with as many as its file is.
    """
    call = caller(model, specs)
    count = len(samples[0])
    size = _own_batch(model) or min(32, count)

    def run(start: int, size: int) -> dict[str, np.ndarray]:
        # The last sample fills up the last batch.
        rows = np.minimum(np.arange(start, start + size), count - 1)
        outputs = call([array[rows] for array in samples])
        arrays = {name: np.asarray(output) for name, output in outputs.items()}
        refusals.check_answers(model, arrays.values())
        return {n: rows_of(a, size, count - start) for n, a in arrays.items()}

    def same(other: dict[str, np.ndarray], times: int = 1) -> bool:
        return all(
            len(a) == times * len(b) and verify.difference(a[: len(b)], b) <= 1e-3
            for a, b in zip(first.values(), other.values(), strict=True)
        )

    first, least = run(0, size), min(size, specs[0].shape[0] or 1)
    if size % least or not same(run(0, least), size // least):
        if size == least or not same(run(0, size)):
            layers = refusals.named(_changing_layers(model, specs))
            raise ValueError(
                f"`model` gives other outputs when it is called again: what {layers} "
                "computes is random, or a state that changes, so no file can be "
                "compared with it. Export the part that is not, such as the decoder "
                "behind it or the encoder up to the mean."
            )
        first, size = run(0, least), least
    parts = [first, *(run(start, size) for start in range(size, count, size))]
    return {name: np.concatenate([part[name] for part in parts]) for name in first}


def _changing_layers(model: Any, specs: Sequence[Spec]) -> list[str]:
    """Returns the layers that draw random numbers, or else assign to their weights."""
    if not network.on_tensorflow(network.keras_of(model)):
        # Keras' own layers do not draw in inference.
        layers = [x for x in all_layers(model) if type(x).__module__[:6] != "keras."]
        seeded = "seed_generator"
        own = [x.name for x in layers if any(seeded in v.path for v in x.variables)]
        return own or [model.name]
    graph = converter.trace(model, specs, contextlib.nullcontext()).graph
    random, assigned = ".*(Random|Multinomial).*", "Assign.*"
    return refusals.layers_with(model, graph, random) or refusals.layers_with(
        model, graph, assigned
    )
