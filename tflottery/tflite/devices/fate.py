"""Fate: what becomes of a file's weights in runtimes that cannot all be run here.

docs/export.md gives the source of each rule.
"""

from __future__ import annotations

from typing import Any

from tflottery.tflite.devices import micro
from tflottery.tflite.file.graph import FLOAT32, Graph
from tflottery.tflite.rewrite.sparsify import WEIGHTED
from tflottery.tflite.xnnpack.planner import Plan

# Runtime -> what becomes of a weight behind DENSIFY, of one for the sparse kernel, and
# of one behind TFLM_DECODE; and why.
_FATES: dict[str, tuple[str, str, str, str]] = {
    "LiteRT CompiledModel, CPU": (
        *("unpacked", "sparse", "refused"),
        "it runs, and warns that sparsity may not be fully supported",
    ),
    "LiteRT GPU (ML Drift)": (
        *("refused", "refused", "refused"),
        "it takes no sparse tensors",
    ),
    "TFLite GPU delegate": (
        *("unpacked", "unknown", "refused"),
        "it unpacks DENSIFY when the file is loaded",
    ),
    "YNNPACK": (
        *("unpacked", "unpacked", "refused"),
        "it has no sparse kernels",
    ),
    "TFLite Micro": (
        *("refused", "refused", "unpacked"),
        "it has no DENSIFY, but an operator of its own",
    ),
    "Ethos-U": (
        *("refused", "refused", "refused"),
        "its compiler takes no sparse weights; it compresses dense ones",
    ),
    "Edge TPU": (
        *("unknown", "unknown", "refused"),
        "its compiler is not open, and was not tried",
    ),
}


def fates(graph: Graph) -> dict[str, Plan]:
    """Returns what other runtimes do with the operators of a file that have weights.

    Each is "sparse", "unpacked", "dense", "refused" or "unknown". Of the runtimes that
    `planner.plan` tells of, only those that refuse the file are among them.
    """
    kinds = _kinds(graph)
    result = {}
    for runtime, (*found, why) in _FATES.items():
        fate = dict(zip(("densify", "kernel", "decode"), found, strict=True))
        fate |= {"dense": "dense", "float": "dense"}
        if runtime == "Ethos-U":
            fate["float"] = "refused"
        paths = tuple((name, fate[kind]) for name, kind in kinds)
        reasons = (why,) if any(path != "dense" for _, path in paths) else ()
        result[runtime] = Plan(paths=paths, reasons=reasons)
    if any(kind == "decode" for _, kind in kinds):
        paths = result["YNNPACK"].paths
        refused = Plan(paths=paths, reasons=("it has no TFLM_DECODE",))
        result |= dict.fromkeys(("x86", "arm", "wasm"), refused)
    return result


def _kinds(graph: Graph) -> list[tuple[str, str]]:
    """Returns each operator with a weight, and how that is stored."""
    producers = graph.producers()
    result = []
    for op in graph.operators:
        if graph.name(op) not in WEIGHTED:
            continue
        kind = "float" if graph.tensors[op.inputs[0]].type == FLOAT32 else "dense"
        if graph.tensors[op.inputs[1]].sparsity is not None:
            kind = "kernel"
        maker = producers.get(op.inputs[1])
        while maker is not None and kind not in ("densify", "decode"):
            kind = _unpacks(graph, maker) or kind
            maker = producers.get(maker.inputs[0])
        result.append((graph.name(op), kind))
    return result


def _unpacks(graph: Graph, op: Any) -> str | None:
    if micro.is_decode(graph, op):
        return "decode"
    return "densify" if graph.name(op) == "DENSIFY" else None
