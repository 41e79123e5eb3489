"""Soak: one long search in one process; does anything grow?

    python benchmarks/soak.py --rounds 200
    KERAS_BACKEND=jax python benchmarks/soak.py --rounds 200

Notes after every round the process's resident memory, its open files, its threads and
the processor time that the round took, and prints the last over the tenth. Exits with
1 where memory grew by more than 5 %, files were left open, or rounds became slower.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tflottery
from tflottery.lab.data import pipelines

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 32)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64")


class Notes(keras.callbacks.Callback):
    """Notes at the end of every round what the process holds."""

    def __init__(self):
        super().__init__()
        self.memory, self.files, self.threads, self.seconds = [], [], [], []
        self._last = time.process_time()

    def on_train_end(self, logs=None):
        now = time.process_time()
        page = os.sysconf("SC_PAGE_SIZE")
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
        self.memory.append(int(pages) * page / 2**20)
        self.files.append(len(os.listdir("/proc/self/fd")))
        self.threads.append(threading.active_count())
        self.seconds.append(now - self._last)
        self._last = now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--data", choices=("arrays", "batches"), default="arrays")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((32,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    ds = (X, Y)
    if options.data == "batches":
        ds = pipelines.train_pipeline(X, Y, batch_size=64, seed=0)
    notes = Notes()
    with tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        tflottery.find_ticket(
            model,
            ds,
            validation_data=(X, Y),
            epochs=1,
            rounds=options.rounds,
            target_sparsity=0.95,
            select="last",
            seed=0,
            run_dir=folder,
            callbacks=[notes],
            verbose=0,
        )
    quarter = max(1, len(notes.seconds) // 4)
    memory = notes.memory[-1] / notes.memory[9]
    pace = statistics.median(notes.seconds[-quarter:]) / statistics.median(
        notes.seconds[10 : 10 + quarter]
    )
    print(f"{keras.backend.backend()}, {options.data}, {len(notes.memory)} rounds")
    print(f"memory: {notes.memory[9]:.0f} MiB to {notes.memory[-1]:.0f}: {memory:.3f}x")
    print(f"processor time of a round, last to first quarter: {pace:.2f}x")
    quarters = [
        statistics.median(notes.seconds[start : start + quarter])
        for start in range(0, quarter * 4, quarter)
    ]
    print("by quarter:", *(f"{1000 * q:.0f} ms" for q in quarters))
    print(f"open files: {notes.files[9]} to {notes.files[-1]}")
    print(f"threads: {notes.threads[9]} to {notes.threads[-1]}")
    grew = memory > 1.05 or pace > 1.2 or notes.files[-1] > notes.files[9]
    return 1 if grew else 0


if __name__ == "__main__":
    sys.exit(main())
