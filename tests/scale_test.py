"""Scale: several devices and several workers find what one device finds."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import tflottery
from tflottery.core import masks as masks_lib

DATA_PARALLEL = """
import sys
import keras
import numpy as np
import tflottery

if sys.argv[2] == "4":
    devices = keras.distribution.list_devices()
    assert len(devices) == 4, devices
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
rng = np.random.default_rng(0)
x = rng.normal(size=(128, 6)).astype("float32")
y = (x[:, 0] + x[:, 1] > 0).astype("int64")
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
ticket.save(sys.argv[1])
model.fit(x, y, verbose=0)
for path, mask in ticket.masks.items():
    layer, _ = path.split("/")
    kernel = keras.ops.convert_to_numpy(model.get_layer(layer).kernel)
    assert not np.any(kernel[~mask]), path
"""

# From `keras`, `strategy` and `dies`: data, a network with statistics, and a death.
NETWORK = """
rng = np.random.default_rng(0)
x = rng.normal(size=(64, 6)).astype("float32")
y = (x[:, 0] + x[:, 1] > 0).astype("int64")
keras.utils.set_random_seed(3)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(2, activation="softmax", name="output"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy",
                  metrics=["accuracy"])


class Dies(keras.callbacks.Callback):
    epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        Dies.epochs += 1
        if dies == "dies" and Dies.epochs == 4:
            os.kill(os.getpid(), 9)
"""

WORKER = (
    """
import json
import os
import sys

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
import numpy as np
import tf_keras as keras

import tflottery

folder, out, dies = sys.argv[1:]
"""
    + NETWORK
    + """

options = tf.data.Options()
policy = tf.data.experimental.AutoShardPolicy.DATA
options.experimental_distribute.auto_shard_policy = policy
ds = tf.data.Dataset.from_tensor_slices((x, y)).batch(16).with_options(options)
ticket = tflottery.find_ticket(
    model, ds, validation_data=ds, epochs=2, rounds=2, target_sparsity=0.6, seed=3,
    select="last", verbose=0, run_dir=folder, callbacks=[Dies()],
).ticket
ticket.save(out)
print("epochs", Dies.epochs, flush=True)
"""
)


REPLICAS = (
    """
import importlib
import os
import sys

import numpy as np
import tensorflow as tf

import tflottery

folder, generation, dies = sys.argv[1:]
keras = importlib.import_module(generation)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""
    + NETWORK
    + """

ds = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
tflottery.find_ticket(
    model, ds, validation_data=ds, epochs=2, rounds=2, target_sparsity=0.6, seed=3,
    select="last", verbose=0, run_dir=folder, callbacks=[Dies()],
)
"""
)


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
def test_data_parallel_jax_finds_the_masks_of_one_device(tmp_path):
    flags = "--xla_force_host_platform_device_count=4"
    for devices in ("1", "4"):
        subprocess.run(
            [sys.executable, "-c", DATA_PARALLEL, tmp_path / devices, devices],
            env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags},
            check=True,
        )
    one, four = (tflottery.load_ticket(tmp_path / devices) for devices in "14")
    assert masks_lib.overlap(one.masks, four.masks) == 1.0
    for path, w in one.trained.items():
        np.testing.assert_allclose(four.trained[path], w, atol=1e-4)


def _ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _run_workers(folder, outs, dies):
    """Runs two workers; returns their exit statuses and outputs."""
    addresses = [f"127.0.0.1:{port}" for port in _ports(2)]
    workers = []
    for index, out in enumerate(outs):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", WORKER, folder, out, dies if index else ""],
                env={**environment, "GRPC_FAIL_FAST": "use_caller"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    if dies:  # What waits for the dead is ended, as a cluster does.
        workers[1].wait(timeout=600)
        time.sleep(1)
        workers[0].kill()
    outputs = [worker.communicate(timeout=600)[0] for worker in workers]
    return [worker.returncode for worker in workers], outputs


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
)
def test_two_workers_find_one_ticket_and_go_on_after_one_has_died(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    outs = [tmp_path / "chief", tmp_path / "worker"]
    statuses, outputs = _run_workers(whole, outs, "")
    assert statuses == [0, 0], "\n".join(outputs)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert outs[0].read_bytes() == (whole / "ticket.safetensors").read_bytes()
    owner = (whole / "lock").read_text()
    assert owner.startswith("process ")
    statuses, outputs = _run_workers(broken, outs, "dies")
    assert statuses[1] == -9, "\n".join(outputs)
    statuses, outputs = _run_workers(broken, outs, "")
    assert statuses == [0, 0], "\n".join(outputs)
    for output in outputs:
        epochs = int(output.split("epochs ")[-1].split()[0])
        assert epochs < 6  # Of six, those that had ended were not trained again.
    name = "rounds/002.ticket"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
)
@pytest.mark.parametrize("generation", ["keras", "tf_keras"])
def test_replicas_with_statistics_go_on_to_the_same_ticket(tmp_path, generation):
    def run(folder, dies, status):
        command = [sys.executable, "-c", REPLICAS, tmp_path / folder, generation, dies]
        assert subprocess.run(command).returncode == status

    run("whole", "", 0)
    run("broken", "dies", -9)
    run("broken", "", 0)
    whole, broken = (
        [file.read_bytes() for file in sorted((tmp_path / folder).glob("**/*.ticket"))]
        for folder in ("whole", "broken")
    )
    assert len(whole) == 3
    assert whole == broken
