"""Reproducible: one seed, one ticket file, whatever process found it."""

import importlib.util
import os
import subprocess
import sys

import pytest
from making import QUICK_XLA

# Arrays, dropout, BatchNorm, momentum, and a step to rewind to inside an epoch. Then
# the fingerprints of networks with functions of the program's own.
PROGRAM = """
import sys
import keras
import numpy as np
import tflottery
from tflottery.search import fingerprint
{blank}
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

for factor in (2.0, 3.0):
    def times(x, factor=factor):
        return factor * x
    keras.utils.set_random_seed({seed})
    model = keras.Sequential([
        keras.layers.Input((6,)),
        keras.layers.Lambda(lambda x: x + 1.0),
        keras.layers.Dense(3, activation=times, kernel_initializer="he_normal"),
    ])
    model.compile("adam", lambda y, p: {{"a", "b"}} and (p - y) ** 2, ["mse"])
    print(fingerprint.of_network(model), fingerprint.of_training(model))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_fresh_process_and_a_line_more_write_equal_bytes_and_fingerprints(
    tmp_path, backend
):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": QUICK_XLA}
    files, told = [tmp_path / name for name in ("a", "b")], []
    for number, file in enumerate(files):
        program = file.with_suffix(".py")
        program.write_text(PROGRAM.format(blank="\n" * number, seed=number))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", program, file],
            env={**environment, "PYTHONHASHSEED": str(number + 1)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines())
    assert files[0].read_bytes() == files[1].read_bytes()
    assert told[0] == told[1]
    assert told[0][0] != told[0][1]
