"""Reproducible: one seed, one ticket file, whatever process found it."""

import os
import runpy
import subprocess
import sys

import keras
import pytest

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
    rounds=1,
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
@pytest.mark.without_tensorflow
@pytest.mark.filterwarnings("ignore")
def test_a_fresh_process_and_a_line_more_write_equal_bytes_and_fingerprints(
    tmp_path, monkeypatch, capsys
):
    files, programs = ([tmp_path / f"{n}{end}" for n in "ab"] for end in ("", ".py"))
    for number, program in enumerate(programs):
        program.write_text(PROGRAM.format(blank="\n" * number, seed=number))
    keras.backend.clear_session()  # Layers are numbered from 0, as in a fresh process.
    monkeypatch.setattr(sys, "argv", [str(programs[0]), str(files[0])])
    runpy.run_path(str(programs[0]), run_name="__main__")
    here = capsys.readouterr().out.splitlines()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", programs[1], files[1]],
        env={
            **os.environ,
            "PYTHONHASHSEED": "2",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert files[0].read_bytes() == files[1].read_bytes()
    assert here == done.stdout.splitlines()
    assert here[0] != here[1]
