"""What becomes of real `.tflite` files, as they are and pruned, with every target?

    python benchmarks/real_files.py FOLDER

Exports each file of a folder, as it is and with 85 % of each weight zeroed, for every
target that takes a file. Prints the size before and after, or the refusal, and counts;
--out saves them as JSON.
"""

import collections
import json
import pathlib
import tempfile

import numpy as np
from absl import app, flags

import tflottery
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite.sparsify import WEIGHTED

SPARSITY = flags.DEFINE_float("sparsity", 0.85, "Share of each weight to zero.")
TARGETS = flags.DEFINE_list(
    "targets",
    ["size", "weights", "float16", "sparse_speed", "int8", "npu", "micro"],
    'Targets to export for; "weights" is the target "size" with quantize="weights".',
)
OUT = flags.DEFINE_string("out", None, "JSON file of the figures.")


def main(argv):
    rows, counts = [], collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(pathlib.Path(argv[1]).glob("*.tflite")):
            pruned = pathlib.Path(folder) / "pruned.tflite"
            pruned.write_bytes(zeroed(path.read_bytes()))
            for kind, source in {"dense": path, "pruned": pruned}.items():
                for target in TARGETS.value:
                    said = export(source, pathlib.Path(folder) / "out.tflite", target)
                    row = {"file": path.stem, "weights": kind, "target": target, **said}
                    rows.append(row)
                    counts[target, kind][said["result"].partition(":")[0]] += 1
                    print(json.dumps(row, ensure_ascii=False), flush=True)
    for (target, kind), found in counts.items():
        print(f"{target}, {kind}: {dict(found)}")
    if OUT.value:
        pathlib.Path(OUT.value).write_text(json.dumps(rows, indent=1) + "\n")


def export(source, path, target):
    options = {"target": target}
    if target == "weights":
        options = {"quantize": "weights"}
    try:
        report = tflottery.export_tflite(source, path, **options)
    except Exception as error:
        return {"result": f"{type(error).__name__}: {error}"}
    return {
        "result": "written, equal",
        "before": source.stat().st_size,
        "after": report.bytes,
        "difference": report.difference,
        "bound_ratio": report.bound_ratio,
        "notes": report.warnings,
    }


def zeroed(data):
    """Returns the file with the smallest values of each weight at their zero point."""
    graph = Graph(data)
    made = graph.producers()
    for op in graph.operators:
        if graph.name(op) not in WEIGHTED:
            continue
        tensor = op.inputs[1]
        if tensor in made and graph.name(made[tensor]) == "DEQUANTIZE":
            tensor = made[tensor].inputs[0]
        array = graph.const(tensor)
        if array is None:  # sparse already, or computed
            continue
        scale = graph.tensors[tensor].quantization
        zero = 0 if scale is None or scale.zeroPoint is None else scale.zeroPoint[0]
        far = np.abs(array.astype(np.float32) - zero).reshape(-1)
        flat = array.reshape(-1).copy()
        flat[np.argsort(far, kind="stable")[: int(SPARSITY.value * far.size)]] = zero
        graph.set_const(tensor, flat.reshape(array.shape))
    return graph.to_bytes(keep_names=True)


if __name__ == "__main__":
    app.run(main)
