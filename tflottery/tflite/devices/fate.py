"""Fate: what becomes of a file's weights in runtimes that cannot all be run here.

docs/export.md gives the source of each rule.
"""

from __future__ import annotations

from tflottery.tflite.devices import micro
from tflottery.tflite.file.graph import FLOAT32, Graph
from tflottery.tflite.rewrite.sparsify import WEIGHTED
from tflottery.tflite.xnnpack.planner import Plan

_FORMS: list[str] = ["densify", "kernel", "decode"]
_UNPACKING = {"DENSIFY": "densify", micro.NAME: "decode"}
# Runtime -> what becomes of a weight behind DENSIFY, of one for the sparse kernel, and
# of one behind TFLM_DECODE; and why.
_FATES = {
    "LiteRT CompiledModel, CPU": (
        "unpacked sparse refused",
        "it runs, and warns that sparsity may not be fully supported",
    ),
    "LiteRT GPU (ML Drift)": ("refused refused refused", "it takes no sparse tensors"),
    "TFLite GPU delegate": (
        "unpacked unknown refused",
        "it unpacks DENSIFY when the file is loaded",
    ),
    "YNNPACK": ("unpacked unpacked refused", "it has no sparse kernels"),
    "TFLite Micro": (
        "refused refused unpacked",
        "it has no DENSIFY, but an operator of its own",
    ),
    "Ethos-U55, U65": (
        "refused refused refused",
        "its compiler takes no sparse weights; it compresses dense ones",
    ),
    "Ethos-U85": (
        "unpacked refused unpacked",
        "the CPU unpacks them in each call, and only dense ones are compressed",
    ),
    "Edge TPU": (
        "unknown unknown refused",
        "its compiler is not open, and was not tried",
    ),
}


def fates(graph: Graph) -> dict[str, Plan]:
    """Returns what other runtimes do with the operators of a file that have weights.

    Each is "sparse", "unpacked", "dense", "refused" or "unknown". Of the runtimes that
    `planner.plan` tells of, only those that refuse the file are among them.
    """
    stored = _stored(graph)
    decoded = any(form == "decode" for _, form, _ in stored)
    result = {}
    for runtime, (words, why) in _FATES.items():
        fate = dict(zip(_FORMS, words.split(), strict=True))
        is_npu = runtime.startswith("Ethos-U")
        paths = tuple(
            (name, "refused" if is_npu and floats else fate.get(form, "dense"))
            for name, form, floats in stored
        )
        if is_npu and any(floats for *_, floats in stored):
            why = "it computes in integers only"
        elif decoded and fate["decode"] == "refused":
            why = "it has no TFLM_DECODE"
        reasons = (why,) if any(path != "dense" for _, path in paths) else ()
        result[runtime] = Plan(paths=paths, reasons=reasons)
    if decoded:
        result |= dict.fromkeys(("x86", "arm", "wasm"), result["YNNPACK"])
    return result


def _stored(graph: Graph) -> list[tuple[str, str, bool]]:
    """Returns each operator with a weight, how that is stored, and if in float."""
    producers = graph.producers()
    result = []
    for op in graph.operators:
        if graph.name(op) not in WEIGHTED:
            continue
        kernel = graph.tensors[op.inputs[1]].sparsity is not None
        form, maker = "kernel" if kernel else "dense", producers.get(op.inputs[1])
        while maker is not None and form == "dense":
            form = _UNPACKING.get(graph.name(maker), form)
            maker = producers.get(maker.inputs[0])
        floats = graph.tensors[op.inputs[0]].type == FLOAT32
        result.append((graph.name(op), form, floats))
    return result
