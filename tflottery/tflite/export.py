"""Export: a sparse model as the smallest or fastest file that answers right."""

from __future__ import annotations

import collections
import gzip
import math
import os
import pathlib
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
# Bytes of a value, and the largest output difference allowed by default, as a share of
# the largest output.
_LIMITS = {"size": (4, 1e-4), "sparse_speed": (4, 1e-4), "float16": (2, 0.01)}
_LIMITS |= dict.fromkeys(_INTEGERS, (1, 0.3))
_INT8_WEIGHTS = (1, 0.1)
_SHARE = checks.Kind(
    lambda v: checks.is_number(v) and 0 <= v < math.inf,
    "a number of at least 0, such as 0.01 for 1 % of the largest output",
)


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
    _check(target, quantize, representative_data, clusters)
    if tolerance is not None:
        checks.check("tolerance", tolerance, _SHARE)
    checks.whole("batch_size", batch_size, 1)
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
    types = {graph.tensors[tensor].type for tensor in graph.producers()}
    integers = bool(types & {INT8, UINT8})
    if target in _INTEGERS and INT8 not in types:
        needed = "`representative_data`, to calibrate it"
        if given_file:
            needed = "a .tflite file in int8, or the Keras model and " + needed
        raise ValueError(f'`target="{target}"` needs {needed}.')
    value_bytes, allowed = _INT8_WEIGHTS if quantize else _LIMITS[target]
    if tolerance is None:  # the kernels of the runtimes may differ by a step
        tolerance = max(allowed, _LIMITS["int8"][1]) if integers else allowed
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
    stay = [] if target == "npu" else sparsify.never_sparse(graph)
    graph, stored, notes = _rewrite(graph, target, quantize, clusters, integers)
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
    with files.replacing(final) as temporary:
        checked, on_batch = _write(temporary, graph, source, tolerance, keep_names)
        data = temporary.read_bytes()
        tried, more = devices.tried(target, os.fspath(path), data, source.dense)
        kept = Graph(data)
        plans = planner.plan(kept) | fates(kept)
        if not loops and not integers:
            notes += planner.warn(plans, target)
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
        bound = _entropy_bound(source.float32, value_bytes)
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
            warnings=(*source.notes, *notes, *on_batch, *more),
        )


def _check(
    target: str, quantize: str | None, representative_data: Any, clusters: int | None
) -> None:
    """Checks the target, and that the options go with it."""
    checks.choice("target", target, get_args(Target))
    checks.check("quantize", quantize, checks.or_none(checks.one_of(["weights"])))
    checks.check("clusters", clusters, checks.or_none(checks.whole_from(2)))
    for name, value, targets in (
        ("quantize", quantize, ("size", "sparse_speed")),
        ("representative_data", representative_data, _INTEGERS),
        ("clusters", clusters, ("npu",)),
    ):
        if value is not None and target not in targets:
            raise ValueError(
                f"`{name}` is only for "
                + " or ".join(f'`target="{fitting}"`' for fitting in targets)
                + f". Received: target={target!r}"
            )


def _rewrite(
    graph: Graph,
    target: str,
    quantize: str | None,
    clusters: int | None,
    integers: bool,
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
    asked = "int8" if quantize else "float16" if target == "float16" else None
    before = sum(graph.dtype(t).name == asked for t in sparsify.weights(graph))
    kernel: set[int] = set()
    notes: list[str] = []
    as_before = True  # not rewritten for sparse kernels
    if target == "sparse_speed" and not integers:
        old = graph.model
        kernel, notes = make_fast(graph)
        if quantize and kernel:
            kernel = set()
            notes.append(
                "fully-connected layers compute dense, as TFLite's own sparse kernel "
                "takes float32 values only. Export without `quantize` to use it."
            )
        as_before = graph.model is old and not kernel
    if as_before:
        widen(graph, quantize=bool(quantize), always=integers)

    def store(graph: Graph) -> tuple[sparsify.Stored, ...]:
        return sparsify.sparsify(graph, asked or "keep", kernel=kernel)

    graph, stored, more = planner.store_right(graph, store)
    same, why = asked and before == sum(record.dtype == asked for record in stored), ""
    if integers and all(record.dtype.endswith("int8") for record in stored):
        same = quantize or target in ("float16", "sparse_speed")
        why = 'the weights are integers already: the file is that of "size".'
    if same:
        option = "quantize" if quantize else "target"
        why = why or f"no weight is smaller as {asked}, or it was so before."
        more.append(f"`{option}` changes nothing: {why}")
    return graph, stored, notes + more


def _write(
    path: pathlib.Path,
    graph: Graph,
    source: model_lib.Source,
    tolerance: float,
    keep_names: bool,
) -> tuple[verify.Verification, list[str]]:
    """Writes and verifies a file, with an open batch if the graph allows it.

    Returns:
        How the file answered, and what the user should know of its batch.
    """
    check = source.samples, source.expected, tolerance
    fixed, notes = graph.to_bytes(keep_names=keep_names), []
    if source.batch_open:
        open_batch(graph)
    path.write_bytes(graph.to_bytes(keep_names=keep_names))
    checked = verify.verify(path, *check)
    if source.batch_open:
        size = graph.shape(graph.inputs[0])[0]
        try:
            wider = verify.verify(path, *check, batch=size + 2)
        except verify.WrongFileError as error:
            path.write_bytes(fixed)
            checked = verify.verify(path, *check)
            notes = [
                f"the batch is fixed at {size}; `batch_size` fixes it at another size. "
                f"With {size + 2} samples in a call: {error}"
            ]
        else:
            if wider.failures:
                why = verify.listed(wider.failures)
                notes = [f"another batch cannot be set in {why}."]
    if source.smaller is not None:
        verify.verify(path, *source.smaller, tolerance)
    return checked, notes


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
