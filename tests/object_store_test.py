"""Object store: a search kept in S3, which moto serves on this machine."""

import importlib.util
import os
import subprocess
import sys

import keras
import pytest

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
MISSING = [
    name
    for name in ("moto", "flask", "s3fs", "boto3")
    if importlib.util.find_spec(name) is None
]

# In a process of its own, as the server, the client's loop and its connections last
# as long as one.
SEARCH = """
import os
import sys

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
os.environ["AWS_ENDPOINT_URL"] = "http://%s:%d" % server.get_host_and_port()

import boto3
import keras
import numpy as np

import tflottery
from tflottery import locks, runs

s3 = boto3.client("s3")
s3.create_bucket(Bucket="tickets")
rng = np.random.default_rng(0)
x = rng.normal(size=(64, 6)).astype("float32")
y = rng.integers(0, 3, 64)


class Stop(keras.callbacks.Callback):
    epochs, at = 0, 4

    def on_epoch_begin(self, epoch, logs=None):
        Stop.epochs += 1
        if Stop.epochs == Stop.at:
            raise KeyboardInterrupt


def find(folder, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, activation="softmax", name="output"),
        ]
    )
    return tflottery.find_ticket(
        model, (x, y), validation_data=(x, y), epochs=2, rounds=2, seed=1,
        select="last", verbose=0, run_dir=folder, callbacks=[Stop()], **options,
    )


Stop.at = 0
find(sys.argv[1])
Stop.epochs, Stop.at = 0, 4
try:
    find("s3://tickets/run")
except KeyboardInterrupt:
    print("stopped")
find("s3://tickets/run")
for name in ("ticket.safetensors", "rounds/000.ticket", "rounds/002.ticket"):
    there = s3.get_object(Bucket="tickets", Key=f"run/{name}")["Body"].read()
    with open(f"{sys.argv[1]}/{name}", "rb") as file:
        assert there == file.read(), name
ticket = tflottery.load_ticket("s3://tickets/run/ticket.safetensors")
print(f"{ticket.round} rounds")
with runs.opened("s3://tickets/other", {}):
    locks._held_here.clear()  # As in another process.
    try:
        find("s3://tickets/other")
    except locks.LockError as error:
        print(error)
try:
    find("s3://tickets/run", rewind_step=1)
except runs.RunError as error:
    print(error)
names = [o["Key"] for o in s3.list_objects_v2(Bucket="tickets")["Contents"]]
print(*sorted(n for n in names if "rounds" not in n))
server.stop()
"""


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.skipif(not ON_TENSORFLOW, reason="once is enough")
def test_a_search_is_kept_in_s3_goes_on_there_and_is_locked(tmp_path):
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    answer = subprocess.run(
        [sys.executable, "-c", SEARCH, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr
    first, rounds, locked, other, config, names = answer.stdout.splitlines()
    assert (first, rounds) == ("stopped", "2 rounds")
    assert locked.startswith("`run_dir` 's3://tickets/other' is in use by process ")
    assert other.startswith("`run_dir` 's3://tickets/run' holds another search.")
    assert config == "  config.rewind_step: 0 there, 1 now"
    assert names.split() == [
        "other/run.json",
        "run/current.safetensors",
        "run/run.json",
        "run/start.safetensors",
        "run/ticket.safetensors",
    ]
