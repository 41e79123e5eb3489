"""Memory: the peak of a search on a network of 100 million weights, over plain `fit`'s.

    python benchmarks/memory.py --million 100

Each runs in a process of its own; prints both peaks of resident memory and the ratio,
and exits with 1 where that is above 3.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def train(what: str, million: float, folder: str) -> None:
    """Runs `"fit"` or `"search"` and prints this process's peak in MiB."""
    import keras
    import numpy as np

    import tflottery

    width = round((million * 1e6 / 2) ** 0.5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, width)).astype("float32")
    y = rng.integers(0, 2, 32)
    model = keras.Sequential(
        [
            keras.layers.Input((width,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    if what == "fit":
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(x, y, epochs=2, validation_data=(x, y), verbose=0)
    else:
        tflottery.find_ticket(
            model,
            (x, y),
            validation_data=(x, y),
            epochs=2,
            rounds=2,
            tolerance=1.0,
            seed=0,
            run_dir=folder or None,
            verbose=0,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{peak:.0f}", flush=True)


def peak(what: str, million: float, folder: str = "") -> float:
    command = [sys.executable, __file__, "--million", str(million)]
    command += ["--what", what, "--folder", folder]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(answer.stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--million", type=float, default=100)
    parser.add_argument("--what", choices=("fit", "search"))
    parser.add_argument("--folder", default="")
    options = parser.parse_args()
    if options.what:
        train(options.what, options.million, options.folder)
        return 0
    fit = peak("fit", options.million)
    print(f"fit, {options.million:g} million weights: {fit:,.0f} MiB", flush=True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as root:
        for name, folder in (("search", ""), ("search with a run_dir", root)):
            found = peak("search", options.million, folder)
            worst = max(worst, found / fit)
            print(f"{name}: {found:,.0f} MiB, {found / fit:.2f}x", flush=True)
            files = [p for p in pathlib.Path(root).rglob("*") if p.is_file()]
            if files:
                size = sum(p.stat().st_size for p in files)
                print(f"on disk: {size / 2**20:,.0f} MiB")
    return 1 if worst > 3 else 0


if __name__ == "__main__":
    sys.exit(main())
