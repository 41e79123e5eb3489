"""How fast are the files compared with dense ones, in LiteRT.js and on this CPU?

    (cd tools/wasm_check && npm ci)
    python benchmarks/export_speed.py --networks mobilenet,conv6,resnet20,lenet

Weights are random and pruned at random, as values do not change the speed. LiteRT.js
uses XNNPACK's sparse kernels, like ARM; on x86 there is only TFLite's own sparse kernel
for fully-connected layers. Each ratio is a median over rounds in which the files take
turns.
"""

import json
import pathlib
import subprocess
import tempfile

import keras
import numpy as np
from absl import app, flags

import tflottery
from tflottery.lab import models
from tflottery.tflite.source import model as model_lib

NETWORKS = flags.DEFINE_list(
    "networks", ["mobilenet", "conv6", "resnet20", "lenet"], "Networks to measure."
)
SPARSITIES = flags.DEFINE_list(
    "sparsities", ["0.9", "0.95"], "Shares of the weights to prune."
)
ROUNDS = flags.DEFINE_integer("rounds", 15, "Number of turns of each file.")
OUT = flags.DEFINE_string("out", None, "JSON file to add the figures to.")

CHECK = pathlib.Path(__file__).parents[1] / "tools" / "wasm_check" / "check.mjs"
BUILDERS = {
    "mobilenet": lambda: keras.applications.MobileNet(
        (224, 224, 3), weights=None, classifier_activation=None
    ),
    "conv6": lambda: models.conv6((32, 32, 3), 10),
    "resnet20": lambda: models.resnet20((32, 32, 3), 10),
    "lenet": lambda: models.lenet_300_100((28, 28, 1), 10),
}


def main(_):
    figures = {}
    for name in NETWORKS.value:
        for sparsity in map(float, SPARSITIES.value):
            figures[f"{name} {sparsity}"] = measure(name, sparsity)
            if OUT.value:
                out = pathlib.Path(OUT.value)
                known = json.loads(out.read_text()) if out.exists() else {}
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps({**known, **figures}, indent=2) + "\n")


def measure(name, sparsity):
    model = prune(BUILDERS[name](), sparsity)
    with tempfile.TemporaryDirectory() as folder:
        dense, fast, small = (
            pathlib.Path(folder) / f"{kind}.tflite"
            for kind in ("dense", "fast", "small")
        )
        dense.write_bytes(model_lib.from_model(model).float32)
        report = tflottery.export_tflite(model, fast, target="sparse_speed")
        tflottery.export_tflite(model, small)
        row = {"path": {name: plan.path for name, plan in report.plans.items()}}
        row["wasm"] = in_wasm(dense, fast)
        for kind, path in (("sparse_speed", fast), ("size", small)):
            timed = tflottery.benchmark_tflite(path, against=dense, rounds=ROUNDS.value)
            row[f"native {kind}"] = {"ms": timed.file.ms, "speedup": timed.speedup}
        print(name, sparsity, json.dumps(row), flush=True)
    return row


def in_wasm(dense, fast):
    command = ["node", str(CHECK), "--rounds", str(ROUNDS.value), "--ms", "40"]
    done = subprocess.run(
        [*command, str(dense), str(fast)], capture_output=True, text=True, check=True
    )
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    return {
        "dense_ms": first["ms"],
        "ms": second["ms"],
        "speedup": second["speedup"],
        "difference": second["difference"],
    }


def prune(model, sparsity):
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if type(layer).__name__ in ("Conv2D", "Dense"):
            kernel, *rest = layer.get_weights()
            # He's scale for the remaining weights, so that outputs do not vanish.
            left = np.prod(kernel.shape[:-1]) * (1 - sparsity)
            kernel = generator.normal(size=kernel.shape) * np.sqrt(2 / left)
            flat = kernel.reshape(-1)
            flat[generator.permutation(flat.size)[: round(sparsity * flat.size)]] = 0
            layer.set_weights([kernel, *rest])
    return model


if __name__ == "__main__":
    app.run(main)
