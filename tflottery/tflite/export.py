"""Export: a sparse model as the smallest or fastest file that answers right."""

from __future__ import annotations

import collections
import gzip
import math
import os
from typing import Any, Literal, get_args

from tflottery.core import checks, files
from tflottery.tflite.devices import micro, npu
from tflottery.tflite.devices import report as devices
from tflottery.tflite.devices.fate import fates
from tflottery.tflite.file.destination import destination
from tflottery.tflite.file.graph import INT8, UINT8, Graph
from tflottery.tflite.report import ExportReport
from tflottery.tflite.rewrite import dead_units, sparsify
from tflottery.tflite.rewrite.batch import open_batch
from tflottery.tflite.rewrite.widen import widen
from tflottery.tflite.run import verify
from tflottery.tflite.source import model as model_lib
from tflottery.tflite.xnnpack import planner
from tflottery.tflite.xnnpack.speed import make_fast

Target = Literal["size", "int8", "sparse_speed", "float16", "npu", "micro"]

_INTEGERS = ("int8", "npu", "micro")  # targets that compute in integers
# Largest output difference allowed by default, as a share of the largest output.
_TOLERANCES = {"size": 1e-4, "sparse_speed": 1e-4, "float16": 0.01}
_TOLERANCES |= dict.fromkeys(_INTEGERS, 0.3)
_INT8_WEIGHTS_TOLERANCE = 0.1
_SHARE = checks.Kind(
    lambda v: checks.is_number(v) and 0 <= v < math.inf,
    "a number of at least 0, such as 0.01 for 1 % of the largest output",
)
_VALUE_BYTES = {"size": 4, "sparse_speed": 4, "float16": 2}
_VALUE_BYTES |= dict.fromkeys(_INTEGERS, 1)


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    target: Target = "size",
    quantize: Literal["weights"] | None = None,
    representative_data: Any = None,
    clusters: int | None = None,
    samples: Any = None,
    tolerance: float | None = None,
    batch_size: int = 1,
    input_shape: Any = None,
    keep_names: bool = False,
) -> ExportReport:
    """Writes `model` as a small `.tflite` file, and verifies its outputs.

    The file runs in stock `tf.lite`, LiteRT and LiteRT.js. Nothing is written if
    anything fails.

    Args:
        model: A Keras 3 or tf_keras model with zeros in its weights, on any backend, or
            the path of a dense `.tflite` file. A model that computes in another float
            type is rebuilt in float32.
        path: Path of the file to write.
        target: What the file is made for.
            "size": The fewest bytes; as fast as a dense file on x86.
            "int8": Integers throughout, for the fastest dense arithmetic; needs
            `representative_data`.
            "sparse_speed": As sparse as the runtime can compute, for ARM and wasm and
            for small fully-connected networks.
            "float16": Values of half the width.
            "npu": Integers throughout, stored dense, for the compilers of microNPUs
            such as Arm's Ethos-U, which compress zeros themselves; needs
            `representative_data`.
            "micro": Integers throughout, for TFLite Micro, which unpacks pruned weights
            from a bitmap and their values; needs `representative_data`.
        quantize: "weights" stores weights as int8 and computes in float32, for "size"
            and "sparse_speed". None keeps float32 values exactly.
        representative_data: Inputs to calibrate "int8", "npu" or "micro" with: an
            array, or an iterable of batches with or without labels. 256 samples are
            used. A `.tflite` file is calibrated already.
        clusters: For "npu", the number of values that the kept weights of a layer are
            snapped to, as few values compress better. None keeps them as they are.
        samples: Inputs to compare the file and the model on: an array `[samples, ...]`,
            or a list or a dict of one per input. If None, some of
            `representative_data`, or random ones without it.
        tolerance: Largest difference of an output allowed, as a share of its largest
            value. By default 1e-4 for float32 values, 0.01 for "float16", 0.1 for
            `quantize="weights"`, 0.3 for "int8" and files that compute in int8.
        batch_size: Number of samples per call of the file. A runtime may set another
            one by `resize_tensor_input`, unless the report says that it cannot.
        input_shape: Shape of a sample, without the batch, or a list or a dict of one
            per input, for a model that leaves sizes open. Without it they stay open,
            and a runtime sets them by `resize_tensor_input`.
        keep_names: Whether to keep tensor names and metadata, for tools that need them.

    Returns:
        The report; print it.

    Raises:
        TypeError: If `model` is not a model, or `path` is not a path.
        FileNotFoundError: If the folder of `path` does not exist.
        ValueError: If an argument does not fit, if the `.tflite` file is damaged, or if
            the runtime would compute the file wrongly and there is no way around it.
        WrongFileError: If the written file does not run, or differs by more than
            `tolerance`.

    Example:

    ```python
    report = tflottery.export_tflite(student, "student.tflite", quantize="weights")
    print(report)
    ```
    """
    _check(target, quantize, representative_data, clusters, tolerance, batch_size)
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            '`path` must be the path of a file, such as "student.tflite". '
            f"Received: path={path!r}"
        )
    final = destination(path)
    given_file = isinstance(model, str | os.PathLike)
    if given_file:
        if final.exists() and os.path.exists(model) and os.path.samefile(model, final):
            raise ValueError(
                "`path` is the file that `model` names, which would be overwritten. "
                f"Give another `path`. Received: path={os.fspath(path)!r}"
            )
        for name, value, plain in (
            ("input_shape", input_shape, None),
            ("batch_size", batch_size, 1),
        ):
            if value != plain:
                raise ValueError(
                    f"`{name}` is for a Keras model; a .tflite file keeps its sizes. "
                    f"Received: {name}={value!r}"
                )
        source = model_lib.from_file(model, samples, representative_data)
    else:
        source = model_lib.from_model(
            model,
            batch_size=batch_size,
            samples=samples,
            representative_data=representative_data,
            input_shape=input_shape,
        )
    graph = Graph(source.dense)
    results = [tensor for op in graph.operators for tensor in op.outputs]
    types = {graph.tensors[tensor].type for tensor in results}
    integers = bool(types & {INT8, UINT8})
    if target in _INTEGERS and INT8 not in types:
        needed = "`representative_data`, to calibrate it"
        if given_file:
            needed = "a .tflite file in int8, or the Keras model and " + needed
        raise ValueError(f'`target="{target}"` needs {needed}.')
    if tolerance is None:
        tolerance = _INT8_WEIGHTS_TOLERANCE if quantize else _TOLERANCES[target]
        if integers:  # the kernels of the runtimes may differ by a step
            tolerance = max(tolerance, _TOLERANCES["int8"])
    graph.make_static()
    if graph.is_open:
        if target in ("sparse_speed", "npu", "micro"):
            raise ValueError(
                f'`target="{target}"` needs fixed sizes. Give `input_shape` with the '
                "Keras model."
            )
        for tensor, array in zip(graph.inputs, source.samples, strict=True):
            # The size that a runtime starts with, which must be one that works.
            sizes = [graph.shape(tensor)[0], *array.shape[1:]]
            graph.tensors[tensor].shape = sizes
    removed = dead_units.remove_dead_units(graph)
    asked = "int8" if quantize else "float16" if target == "float16" else None
    before = sum(graph.dtype(t).name == asked for t in sparsify.weights(graph))
    stay = [] if target == "npu" else sparsify.never_sparse(graph)
    graph, stored, notes = _rewrite(graph, target, quantize, integers, clusters)
    if asked and before == sum(weight.dtype == asked for weight in stored):
        option = "quantize" if quantize else "target"
        notes.append(
            f"`{option}` changes nothing: no weight is smaller as {asked}, or it was "
            "so before."
        )
    if stay:
        notes.append(
            f"the weights of {', '.join(stay)} stay dense, though most of their values "
            f"are zero: only those of {', '.join(sparsify.WEIGHTED)} are stored sparse."
        )
    if loops := any(graph.name(op) in ("WHILE", "IF") for op in graph.operators):
        notes.append(
            "the weights within a loop, such as a recurrent layer, stay dense float32 "
            "for every target. Build the layer with `unroll=True` to store them like "
            "the others."
        )
    fixed = data = graph.to_bytes(keep_names=keep_names)
    if source.batch_open:
        open_batch(graph)
        data = graph.to_bytes(keep_names=keep_names)
    on_batch = []
    with files.replacing(final) as temporary:
        temporary.write_bytes(data)
        check = source.samples, source.expected, tolerance
        checked = verify.verify(temporary, *check)
        if source.batch_open:
            size = graph.shape(graph.inputs[0])[0]
            try:
                wider = verify.verify(temporary, *check, batch=size + 2)
            except verify.WrongFileError as error:
                data = fixed
                temporary.write_bytes(data)
                checked = verify.verify(temporary, *check)
                on_batch.append(
                    f"the batch is fixed at {size}: for {size + 2} samples at once, "
                    f"{str(error)[:200]} `batch_size` fixes it at another size."
                )
            else:
                if wider.failures:
                    why = verify.listed(wider.failures)
                    on_batch.append(f"another batch cannot be set in {why}.")
        if source.smaller is not None:
            verify.verify(temporary, *source.smaller, tolerance)
        tried, more = devices.tried(target, os.fspath(path), data, source.dense)
        kept = Graph(data)
        plans = planner.plan(kept) | fates(kept)
        if not loops and not integers:
            notes += planner.warn(plans, target)
        narrow = integers and all(record.dtype.endswith("int8") for record in stored)
        if narrow and (quantize or target not in ("size", *_INTEGERS)):
            notes.append(
                'the weights are integers already: the file is that of "size".'
            )
        if any((record.form, record.dtype) == ("sparse", "uint8") for record in stored):
            notes.append(
                "uint8 weights are unpacked in every call, which takes time: compare "
                "with the given file by `benchmark_tflite`."
            )
        gzipped, plain = (len(gzip.compress(held, 9)) for held in (data, source.dense))
        if target != "npu" and plain < len(data):
            notes.append(
                f"gzip makes {plain / 1e3:,.1f} KB of the dense file and "
                f"{gzipped / 1e3:,.1f} KB of this one, for downloads."
            )
        notes += on_batch
        bound = _entropy_bound(source.float32, 1 if quantize else _VALUE_BYTES[target])
        operators = collections.Counter(kept.name(op) for op in kept.operators)
        return ExportReport(
            path=os.fspath(path),
            target=target,
            quantize=quantize,
            bytes=len(data),
            gzip_bytes=gzipped,
            dense_float32_bytes=len(source.float32),
            dense_int8_bytes=_dense_int8_bytes(source.float32),
            entropy_bound=bound,
            bound_ratio=len(data) / bound if bound and stored else None,
            removed_units=removed,
            weights=stored,
            operators=dict(operators.most_common()),
            plans=plans,
            difference=checked.difference,
            differences=checked.differences,
            checked_on=source.checked_on,
            agreement=checked.agreement,
            load_ram=checked.ram,
            devices=tried,
            warnings=(*source.notes, *notes, *more),
        )


def _rewrite(
    graph: Graph,
    target: Target,
    quantize: str | None,
    integers: bool,
    clusters: int | None,
) -> tuple[Graph, tuple[sparsify.Stored, ...], list[str]]:
    """Rewrites a dense graph for its target.

    Returns:
        The stored graph, how each weight is stored, and what the user should know.
    """
    if target == "micro":
        return graph, micro.store(graph), []
    if target == "npu":
        notes = []
        if clusters and not npu.cluster(graph, clusters):
            notes = [
                f"`clusters` changes nothing: no weight has over {clusters} values."
            ]
        stored = sparsify.sparsify(graph, dense=sparsify.weights(graph))
        return graph, stored, notes
    storage: sparsify.Storage = "int8" if quantize else "keep"
    if target == "float16":
        storage = "float16"
    kernel: set[int] = set()
    notes: list[str] = []
    as_before = True  # not rewritten for sparse kernels
    if target == "sparse_speed" and not integers:
        before = graph.model
        kernel, notes = make_fast(graph)
        if quantize and kernel:
            kernel = set()
            notes.append(
                "fully-connected layers compute dense, as TFLite's own sparse kernel "
                "takes float32 values only. Export without `quantize` to use it."
            )
        as_before = graph.model is before and not kernel
    if as_before:
        widen(graph, quantize=bool(quantize), always=integers)

    def store(graph: Graph) -> tuple[sparsify.Stored, ...]:
        return sparsify.sparsify(graph, storage, kernel=kernel)

    graph, stored, more = planner.store_right(graph, store)
    return graph, stored, notes + more


def _entropy_bound(float32: bytes, value_bytes: int) -> int:
    """Returns the bound for the model without units that change nothing."""
    graph = Graph(float32)
    graph.make_static()
    dead_units.remove_dead_units(graph)
    left = Graph(graph.to_bytes())  # without constants that are no longer used
    return sparsify.entropy_bound(left, value_bytes)


def _dense_int8_bytes(float32: bytes) -> int:
    graph = Graph(float32)
    graph.make_static()
    kernels = sparsify.weights(graph)
    sparsify.sparsify(graph, "int8", dense=kernels)
    return len(graph.to_bytes())


def _check(
    target: str,
    quantize: str | None,
    representative_data: Any,
    clusters: int | None,
    tolerance: float | None,
    batch_size: int,
) -> None:
    checks.choice("target", target, get_args(Target))
    if quantize not in (None, "weights"):
        raise ValueError(
            f'`quantize` must be None or "weights". Received: quantize={quantize!r}'
        )
    if quantize and target not in ("size", "sparse_speed"):
        raise ValueError(
            f'`quantize` goes with target "size" or "sparse_speed"; {target!r} already '
            "says how values are stored."
        )
    if representative_data is not None and target not in _INTEGERS:
        raise ValueError(
            f"`representative_data` is only for `target=` {' or '.join(_INTEGERS)}. "
            f"Received: target={target!r}"
        )
    if clusters is not None:
        checks.whole("clusters", clusters, 2)
        if target != "npu":
            raise ValueError(
                f'`clusters` is only for `target="npu"`. Received: target={target!r}'
            )
    if tolerance is not None:
        checks.check("tolerance", tolerance, _SHARE)
    checks.whole("batch_size", batch_size, 1)
