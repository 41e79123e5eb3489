"""Scale: several devices and several workers find what one device finds."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from making import QUICK_XLA

import tflottery
from tflottery.core import masks as masks_lib

pytestmark = pytest.mark.slow
PROGRAM = pathlib.Path(__file__).with_name("making") / "distributed.py"
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
)

DATA_PARALLEL = """
import sys
import keras
import numpy as np
import tflottery

rng = np.random.default_rng(0)
x = rng.normal(size=(128, 6)).astype("float32")
y = (x[:, 0] + x[:, 1] > 0).astype("int64")
devices = keras.distribution.list_devices()
assert len(devices) == 2, devices
for parallel in (False, True):
    if parallel:
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices)
        )
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.Dense(2, activation="softmax", name="output"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    ticket = tflottery.find_ticket(
        model, (x, y), validation_data=(x, y), epochs=3, rounds=3, rewind_step=4,
        target_sparsity=0.7, select="last", seed=3, verbose=0,
    ).ticket
    ticket.save(sys.argv[1 + parallel])
    model.fit(x, y, verbose=0)
    for path, mask in ticket.masks.items():
        layer, _ = path.split("/")
        kernel = model.get_layer(layer).kernel
        assert len(kernel.value.devices()) == (2 if parallel else 1)
        assert not np.any(keras.ops.convert_to_numpy(kernel)[~mask]), path
"""


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
def test_data_parallel_jax_finds_the_masks_of_one_device(tmp_path):
    flags = f"{QUICK_XLA} --xla_force_host_platform_device_count=2"
    files = [tmp_path / "one", tmp_path / "two"]
    subprocess.run(
        [sys.executable, "-c", DATA_PARALLEL, *files],
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags},
        check=True,
    )
    one, two = map(tflottery.load_ticket, files)
    assert masks_lib.overlap(one.masks, two.masks) == 1.0
    for path, w in one.trained.items():
        np.testing.assert_allclose(two.trained[path], w, atol=1e-4)


def run(kind, folder):
    """Runs searches that die and resume; returns what the program printed."""
    done = subprocess.run(
        [sys.executable, PROGRAM, kind, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@needs_tensorflow
def test_two_workers_find_one_ticket_and_go_on_after_one_has_died(tmp_path):
    (whole, broken, resumed), text = run("workers", tmp_path)
    assert whole == [0, 0], text
    assert broken[1] == -9, text
    assert resumed == [0, 0], text
    for name in ("whole", "broken"):
        saved = (tmp_path / name / "ticket.safetensors").read_bytes()
        for index in range(2):
            out = tmp_path / f"{name}-out"
            assert (out / f"{index}.ticket").read_bytes() == saved
            epochs = int((out / f"{index}.epochs").read_text())
            # Of four, those that had ended were not trained again.
            assert (epochs == 4) == (name == "whole")
            assert epochs <= 4
        assert (tmp_path / name / "lock").read_text().startswith("process ")
    tickets = (tmp_path / name / "rounds/001.ticket" for name in ("whole", "broken"))
    assert next(tickets).read_bytes() == next(tickets).read_bytes()


@needs_tensorflow
def test_replicas_with_statistics_go_on_to_the_same_ticket(tmp_path):
    statuses, text = run("replicas", tmp_path)
    assert statuses == [0, -9, 0], text
    whole, broken = (
        [p.read_bytes() for p in sorted(tmp_path.glob(f"{run}/**/*.ticket"))]
        for run in ("whole", "broken")
    )
    assert len(whole) == 2
    assert whole == broken
