"""Planner: which kernel each runtime will take, op by op, and never a wrong one."""

from __future__ import annotations

import collections
import copy
import dataclasses
import platform
from collections.abc import Callable

import numpy as np

from tflottery.tflite.file.graph import Graph, inputs
from tflottery.tflite.rewrite.sparsify import WEIGHTED
from tflottery.tflite.xnnpack import outlook as outlook_lib

RUNTIMES = ("x86", "arm", "wasm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The path predicted for each weighted operator in one runtime.

    Attributes:
      paths: Per operator in the file's order, its kind and "sparse", "dense" or
        "wrong".
      reasons: Why an operator is wrong.
    """

    paths: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]

    @property
    def path(self) -> str:
        """The worst that happens to the file: "wrong", else "sparse", else "dense"."""
        found = {path for _, path in self.paths}
        return next((p for p in ("wrong", "sparse") if p in found), "dense")

    @property
    def summary(self) -> str:
        counts = collections.Counter(path for _, path in self.paths)
        return ", ".join(f"{count} ops {path}" for path, count in counts.items())


def plan(graph: Graph) -> dict[str, Plan]:
    """Returns what each of `RUNTIMES` will do with the file's weighted operators.

    On x86 with AVX, XNNPACK has no sparse kernels, so only TFLite's own for fully-
    connected layers computes sparse there.
    """
    outlook = outlook_lib.outlook(graph)
    planar = {id(op) for op in outlook.sparse}
    wrong = {id(op) for op, _ in outlook.wrong}
    own = {
        id(op)
        for op in graph.operators
        if graph.name(op) == "FULLY_CONNECTED"
        and graph.version(op) == 8
        and graph.tensors[inputs(op)[1]].sparsity is not None
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


def make_right(graph: Graph, store: Callable[[Graph], object]) -> list[str]:
    """Rewires, in place, a graph that XNNPACK would compute wrongly on ARM or wasm.

    Every such graph enters the planar layout at a 3x3 convolution of stride 2 over 3
    channels, padded by 1. As a 4x4 one, with zeros in the last row and column, it is no
    entry, so the graph is computed dense there, and right.

    Args:
      graph: A graph before its weights are stored.
      store: What will store them; it is tried on a copy.

    Returns:
      What was done, in words; empty if nothing was.

    Raises:
      ValueError: If the graph would be wrong even so.
    """
    if not _wrong(graph, store):
        return []
    _close_entries(graph)
    left = _wrong(graph, store)
    if left:
        raise ValueError(
            "XNNPACK would compute this file wrongly on ARM and wasm, and no rewriting "
            f"is known that helps ({left}). Was the model's first convolution built in "
            "an unusual way?"
        )
    return [
        "XNNPACK's sparse path would be wrong for this network on ARM and wasm; the "
        "first convolution was widened so that it runs dense and right there."
    ]


def _wrong(graph: Graph, store: Callable[[Graph], object]) -> str:
    """Returns the reasons why the graph would be wrong once stored; "" if it is not."""
    trial = copy.deepcopy(graph)
    store(trial)
    return "; ".join(
        f"{trial.name(op)}: {why}" for op, why in outlook_lib.outlook(trial).wrong
    )


def _close_entries(graph: Graph) -> None:
    producers, readers = graph.producers(), graph.consumers()
    counts = collections.Counter({t: len(found) for t, found in readers.items()})
    for op in list(graph.operators):
        if graph.name(op) != "CONV_2D":
            continue
        found = outlook_lib.fused_padding(graph, op, producers, counts)
        weight = graph.const(inputs(op)[1])
        if found is None or found[1] != (1, 1, 1, 1) or weight is None:
            continue
        if weight.shape[1:] != (3, 3, 3) or weight.dtype != np.float32:
            continue
        amounts = np.array([(0, 0), (1, 2), (1, 2), (0, 0)], np.int32)
        shape = np.array(graph.shape(found[0])) + amounts.sum(axis=1)
        padded = graph.add_tensor(shape.tolist(), like=found[0])
        pad = graph.op("PAD", [found[0], graph.add_const(amounts)], [padded])
        graph.operators.insert(graph.operators.index(op), pad)
        graph.operators.remove(producers[inputs(op)[0]])
        wide = graph.add_const(np.pad(weight, [(0, 0), (0, 1), (0, 1), (0, 0)]))
        graph.tensors[wide].name = graph.tensors[inputs(op)[1]].name
        op.inputs = np.array([padded, wide, *inputs(op)[2:]], np.int32)


def warn(plans: dict[str, Plan], target: str) -> list[str]:
    """Returns what the user should know about the file's speed."""
    result = []
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if target in ("size", "float16") and plans["x86"].path == "dense":
        here = "this x86 CPU" if on_x86 else "an x86 CPU"
        result.append(
            f"on {here} the file is no faster than dense float32; "
            '`target="int8"` usually is, by 3x or more.'
        )
    if target == "sparse_speed" and plans["x86"].paths != plans["arm"].paths:
        result.append(
            "the file is made for ARM and wasm: on x86 it may be slower than dense."
        )
    if target == "sparse_speed" and plans["arm"].path == "dense":
        result.append(
            "no sparse kernel pays for this network: the file computes dense."
        )
    return result
