"""Planner: which kernels each runtime will use, and a way around the wrong ones."""

from __future__ import annotations

import collections
import copy
import dataclasses
import platform
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite.sparsify import WEIGHTED
from tflottery.tflite.xnnpack import outlook as outlook_lib
from tflottery.tflite.xnnpack.canvas import pad

_Records = TypeVar("_Records")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What one runtime is predicted to do with the operators that have weights.

    Attributes:
        paths: Per operator, in the order of the file, its name and "sparse", "dense" or
            "wrong"; for other runtimes than XNNPACK also "unpacked", "refused" or
            "unknown".
        reasons: Why operators are not dense.
    """

    paths: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]

    @property
    def path(self) -> str:
        """The worst path of any operator, from "wrong" to "dense"."""
        found = {path for _, path in self.paths}
        order = ("wrong", "refused", "unknown", "unpacked", "sparse")
        return next((path for path in order if path in found), "dense")

    @property
    def summary(self) -> str:
        counts = collections.Counter(path for _, path in self.paths)
        return ", ".join(f"{count} ops {path}" for path, count in counts.items())


def plan(graph: Graph) -> dict[str, Plan]:
    """Returns what "x86", "arm" and "wasm" runtimes will do with a file.

    XNNPACK has no sparse kernels on x86 with AVX, but TFLite has one for
    fully-connected layers on every CPU.
    """
    outlook = outlook_lib.outlook(graph)
    planar = {id(op) for op in outlook.sparse}
    wrong = {id(op) for op, _ in outlook.wrong}
    own = {
        id(op)
        for op in graph.operators
        if graph.name(op) == "FULLY_CONNECTED"
        and graph.version(op) == 8
        and graph.tensors[op.inputs[1]].sparsity is not None
    }

    def paths(sparse: set[int], wrong: set[int]) -> tuple[tuple[str, str], ...]:
        result = []
        for op in graph.operators:
            if graph.name(op) in WEIGHTED or id(op) in wrong:
                path = "sparse" if id(op) in sparse else "dense"
                result.append((graph.name(op), "wrong" if id(op) in wrong else path))
        return tuple(result)

    reasons = tuple(f"{graph.name(op)}: {why}" for op, why in outlook.wrong)
    planned = Plan(paths=paths(own | planar, wrong), reasons=reasons)
    return {
        "x86": Plan(paths=paths(own, set()), reasons=()),
        "arm": planned,
        "wasm": planned,
    }


def store_right(
    graph: Graph, store: Callable[[Graph], _Records]
) -> tuple[Graph, _Records, list[str]]:
    """Stores the weights of a graph so that XNNPACK computes it right everywhere.

    What would be wrong on ARM or wasm is made to run dense there. Every such graph
    enters planar layout at a 3x3 convolution of stride 2 over 3 channels, padded by 1,
    and a 4x4 kernel with zeros in the last row and column is not an entry.

    Returns:
        A stored copy of the graph, what `store` returned, and notes on what was done.

    Raises:
        ValueError: If the graph would still be wrong.
    """
    stored = copy.deepcopy(graph)
    records = store(stored)
    if not outlook_lib.outlook(stored).wrong:
        return stored, records, []
    stored = copy.deepcopy(graph)
    _close_entries(stored)
    records = store(stored)
    wrong = outlook_lib.outlook(stored).wrong
    if wrong:
        reasons = "; ".join(f"{stored.name(op)}: {why}" for op, why in wrong)
        raise ValueError(
            "XNNPACK would compute this file wrongly on ARM and wasm, and there is no "
            f"known way around it ({reasons}). Build the model with another first "
            "convolution."
        )
    note = (
        "XNNPACK's sparse path would be wrong for this network on ARM and wasm; the "
        "first convolution was widened so that it runs dense and right there."
    )
    return stored, records, [note]


def _close_entries(graph: Graph) -> None:
    producers, readers = graph.producers(), graph.consumers()
    counts = collections.Counter({t: len(found) for t, found in readers.items()})
    for op in list(graph.operators):
        if graph.name(op) != "CONV_2D":
            continue
        found = outlook_lib.fused_padding(graph, op, producers, counts)
        weight = graph.const(op.inputs[1])
        if found is None or found[1] != (1, 1, 1, 1) or weight is None:
            continue
        if weight.shape[1:] != (3, 3, 3) or weight.dtype != np.float32:
            continue
        wider = pad(graph, found[0], [(0, 0), (1, 2), (1, 2), (0, 0)])
        graph.operators.insert(graph.operators.index(op), wider)
        graph.operators.remove(producers[op.inputs[0]])
        wide = graph.add_const(np.pad(weight, [(0, 0), (0, 1), (0, 1), (0, 0)]))
        graph.tensors[wide].name = graph.tensors[op.inputs[1]].name
        op.inputs[:2] = [wider.outputs[0], wide]


def warn(plans: dict[str, Plan], target: str) -> list[str]:
    """Returns what the user should know about the speed of the file."""
    result = []
    if target in ("size", "float16") and plans["x86"].path == "dense":
        on_x86 = platform.machine().lower() in ("x86_64", "amd64")
        result.append(
            f"on {'this' if on_x86 else 'an'} x86 CPU the file is no faster than dense "
            'float32; `target="int8"` usually is, by 3x or more.'
        )
    if target == "sparse_speed" and plans["x86"].paths != plans["arm"].paths:
        result.append(
            "the file is made for ARM and wasm: on x86 it may be slower than dense."
        )
    if target == "sparse_speed" and plans["arm"].path == "dense":
        result.append(
            "sparse kernels would not speed up this network, so it computes dense."
        )
    return result
