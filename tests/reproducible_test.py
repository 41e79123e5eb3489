"""Reproducible: one seed, one ticket file, whatever process found it."""

import importlib.util
import os
import subprocess
import sys

import pytest
from making import QUICK_XLA

# Arrays, dropout, BatchNorm, momentum, and a step to rewind to inside an epoch.
SEARCH = """
import sys
import keras
import numpy as np
import tflottery

rng = np.random.default_rng(0)
x = rng.normal(size=(96, 6)).astype("float32")
y = (x[:, 0] > 0).astype("int64")
keras.utils.set_random_seed(3)
model = keras.Sequential(
    [
        keras.layers.Input((6,)),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(2, activation="softmax"),
    ]
)
tflottery.find_ticket(
    model,
    (x, y),
    validation_data=(x, y),
    epochs=2,
    rounds=2,
    rewind_step=4,
    select="last",
    seed=3,
    verbose=0,
).ticket.save(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_fresh_processes_write_equal_bytes(tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": QUICK_XLA}
    files = [tmp_path / name for name in ("a", "b")]
    for file, seed in zip(files, ("1", "2"), strict=True):
        subprocess.run(
            [sys.executable, "-c", SEARCH, file],
            env={**environment, "PYTHONHASHSEED": seed},
            check=True,
        )
    assert files[0].read_bytes() == files[1].read_bytes()
