"""Object store: a search kept in S3, which moto serves on this machine."""

import importlib.util
import json
import os
import subprocess
import sys
import time

import keras
import pytest

from tflottery.core import files
from tflottery.search import locks, run_dir

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


class Store:
    """A path in an object store that can fail, in memory."""

    objects: dict[str, bytes]
    error: Exception | None

    def __init__(self, path):
        self.path = path

    def __truediv__(self, name):
        return Store(f"{self.path}/{name}")

    def __str__(self):
        return self.path

    def exists(self):
        return self.path in Store.objects

    def read_bytes(self):
        return Store.objects[self.path]

    def write_bytes(self, data):
        if Store.error is not None:
            raise Store.error
        Store.objects[self.path] = data

    def unlink(self):
        del Store.objects[self.path]


LOCK = "gs://b/run/lock"


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(locks, "_RENEW", 0.02)
    monkeypatch.setattr(locks, "_SETTLE", 0.0)
    monkeypatch.setattr(Store, "objects", {}, raising=False)
    monkeypatch.setattr(Store, "error", None, raising=False)
    return Store("gs://b/run")


def eventually(check):
    end = time.monotonic() + 10
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


def written():
    return json.loads(Store.objects[LOCK])["time"]


def test_a_lock_in_an_object_store_is_renewed_after_an_error_of_any_kind(store):
    with locks.held(store):
        Store.error = RuntimeError("503 try again")
        time.sleep(0.1)
        Store.error, before = None, written()
        eventually(lambda: written() > before)
    assert Store.objects == {}


def test_a_lock_that_another_took_over_is_lost_and_stays_the_others(store):
    theirs = json.dumps({"owner": "process 7 on there", "key": "k", "time": 0})
    with locks.held(store):
        locks.check(store)
        Store.objects[LOCK] = theirs.encode()
        time.sleep(0.1)
        with pytest.raises(locks.LockError) as caught:
            locks.check(store)
    assert str(caught.value) == (
        "`run_dir` 'gs://b/run' was taken over by process 7 on there, as this search "
        "could not renew its lock for 180 seconds. Nothing more was written. Call "
        "again when the other ends."
    )
    assert Store.objects == {LOCK: theirs.encode()}
    locks.check(store)


def test_a_process_that_slept_looks_before_it_writes(store, monkeypatch):
    monkeypatch.setattr(locks, "_RENEW", 1000.0)
    with locks.held(store):
        Store.objects[LOCK] = b'{"owner": "process 7 on there", "key": "k", "time": 0}'
        locks.check(store)
        monkeypatch.setattr(locks, "_ABANDONED", 0.0)
        with pytest.raises(locks.LockError, match="taken over by process 7 on there"):
            locks.check(store)


def test_a_lock_that_is_gone_is_written_again(store):
    with locks.held(store):
        del Store.objects[LOCK]
        eventually(lambda: LOCK in Store.objects)
        locks.check(store)


def test_a_run_whose_lock_is_lost_writes_nothing(tmp_path, monkeypatch):
    with run_dir.opened(tmp_path, {}) as run:

        def lost(folder):
            raise locks.LockError(str(folder))

        monkeypatch.setattr(locks, "check", lost)
        with pytest.raises(locks.LockError, match=str(tmp_path)):
            run.save("current", {}, {})
        assert not (tmp_path / "current.safetensors").exists()


@pytest.mark.parametrize("data", [b"mine", b"[1]", b'{"a": 1}'])
def test_an_object_of_that_name_that_is_no_lock_is_refused(store, data):
    Store.objects[LOCK] = data
    with (
        pytest.raises(files.FileError, match="lock is no lock of tflottery's"),
        locks.held(store),
    ):
        pass
    assert Store.objects == {LOCK: data}


@pytest.mark.parametrize("data", [b"", b"process 7 on a", b'{"owner": "process 7'])
def test_what_a_dead_owner_left_of_a_lock_is_taken(store, data):
    Store.objects[LOCK] = data
    with locks.held(store):
        assert written() > 0
