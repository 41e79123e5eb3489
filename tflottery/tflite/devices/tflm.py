"""TFLM: files in TFLite Micro's own runtime, which its Python package brings."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import pathlib
import tempfile
from collections.abc import Mapping

import numpy as np

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.run import worker

DEVICE = "tflite-micro"
_CALLS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroRun:
    """What a file takes in TFLite Micro, which has run it.

    Attributes:
        name: Name of the file.
        flash: Size of the file, which a microcontroller keeps in flash.
        arena: Bytes of RAM for its tensors, including weights while they are unpacked.
        digest: Hash of its outputs for random inputs.
    """

    name: str
    flash: int
    arena: int
    digest: str

    def __str__(self) -> str:
        return (
            f"runs; flash {self.flash / 1e3:,.1f} KB, arena {self.arena / 1e3:,.1f} KB"
        )


def installed() -> bool:
    return importlib.util.find_spec("tflite_micro") is not None


def tool() -> str:
    """Returns the name of the runtime with its version."""
    return (
        f"tflite-micro {importlib.metadata.version('tflite_micro')}, which ran it here"
    )


def run(files: Mapping[str, bytes]) -> list[MicroRun]:
    """Runs files on the same random inputs, in a separate process.

    Args:
        files: Name -> content of files, all with the same inputs.

    Raises:
        ModuleNotFoundError: If TFLite Micro is not installed.
        ValueError: If it does not run a file, or their inputs differ.
    """
    if not installed():
        raise ModuleNotFoundError(
            "TFLite Micro is not installed. Try: pip install 'tflottery[micro]'"
        )
    graphs = [Graph(data, name) for name, data in files.items()]
    graph, needed = graphs[0], [_inputs(graph) for graph in graphs]
    if any(inputs != needed[0] for inputs in needed):
        raise ValueError(
            "Files are compared on the same inputs. Received: "
            f"{'; '.join(map(', '.join, needed))}"
        )
    inputs = [_drawn(graph, tensor) for tensor in graph.inputs]
    with tempfile.TemporaryDirectory(prefix="tflottery-") as folder:
        paths = [f"{folder}/{number}.tflite" for number in range(len(files))]
        for path, data in zip(paths, files.values(), strict=True):
            pathlib.Path(path).write_bytes(data)
        job = {"do": "micro", "paths": paths, "outputs": len(graph.outputs)}
        try:
            found = worker.call(job, inputs)
        except worker.JobError as error:
            said = str(error)
            for path, name in zip(paths, files, strict=True):
                said = said.replace(path, name)
            remedy = ' Export it with `target="micro"`.' if "DENSIFY" in said else ""
            raise ValueError(
                f"TFLite Micro does not run the file: {said}.{remedy}"
            ) from error
    each = zip(files.items(), found["arenas"], found["outputs"].values(), strict=True)
    return [
        MicroRun(name=name, flash=len(data), arena=arena, digest=_digest(outputs))
        for (name, data), arena, outputs in each
    ]


def _inputs(graph: Graph) -> list[str]:
    return [f"{graph.dtype(t)} {graph.shape(t)}" for t in graph.inputs]


def _digest(outputs: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in outputs)).hexdigest()


def _drawn(graph: Graph, tensor: int) -> np.ndarray:
    generator, dtype = np.random.default_rng(0), graph.dtype(tensor)
    shape = (_CALLS, *graph.shape(tensor))
    if dtype.kind == "f":
        return generator.normal(size=shape).astype(dtype)
    ends = (0, 1)
    if graph.quantization(tensor) is not None:
        ends = np.iinfo(dtype).min, np.iinfo(dtype).max
    return generator.integers(*ends, shape, dtype, endpoint=True)
