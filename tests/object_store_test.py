"""Object store: a search kept in S3, which moto serves on this machine."""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys

import keras
import pytest

from tflottery.core import files
from tflottery.search import locks

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
from tflottery.search import locks, run_dir

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
with run_dir.opened("s3://tickets/other", {}):
    held = s3.get_object(Bucket="tickets", Key="other/lock")["Body"].read()
    try:
        find("s3://tickets/other")
    except locks.LockError as error:
        print(error)
    assert s3.get_object(Bucket="tickets", Key="other/lock")["Body"].read() == held
try:
    find("s3://tickets/run", rewind_step=1)
except run_dir.RunError as error:
    print(error)
names = [o["Key"] for o in s3.list_objects_v2(Bucket="tickets")["Contents"]]
print(*sorted(n for n in names if "rounds" not in n))
server.stop()
"""


@pytest.mark.slow
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


@pytest.fixture
def folder(tmp_path):
    """A folder in an object store in memory."""
    return files.path_of(f"memory://{tmp_path}/run")


def test_two_searches_do_not_share_a_folder_in_an_object_store(folder):
    with locks.held(folder):
        owner = (folder / "lock").read_text()
        with pytest.raises(locks.LockError) as caught, locks.held(folder):
            pass
        assert (folder / "lock").read_text() == owner
    assert re.fullmatch(rf"process {os.getpid()} on .+ since \S+ \S+\+00:00", owner)
    assert str(caught.value) == (
        f"`run_dir` {str(folder)!r} is in use by {owner}. Wait until it ends, stop it, "
        f"or choose another folder. If it was killed, delete '{folder}/lock' by hand."
    )
    with locks.held(folder):
        pass
    assert not (folder / "lock").exists()


def test_of_two_that_start_at_once_one_has_the_lock(folder, monkeypatch):
    opened, others = folder.fs.open, "process 7 on there since then"

    def late(path, mode="rb", **options):
        if mode == "xb":
            folder.fs.pipe_file(path, others.encode())
        return opened(path, mode, **options)

    monkeypatch.setattr(folder.fs, "open", late)
    with pytest.raises(locks.LockError, match=f"in use by {others}"):
        locks.held(folder).__enter__()
    assert (folder / "lock").read_text() == others


def test_a_lock_whose_first_request_was_repeated_is_held(folder, monkeypatch):
    opened = folder.fs.open

    @contextlib.contextmanager
    def twice(path, mode="rb", **options):
        with opened(path, mode, **options) as file:
            yield file
        if mode == "xb":
            opened(path, mode, **options)

    monkeypatch.setattr(folder.fs, "open", twice)
    with locks.held(folder):
        assert (folder / "lock").exists()
    assert not (folder / "lock").exists()


def test_a_lock_that_another_has_made_since_stays_the_others(folder):
    with locks.held(folder):
        (folder / "lock").write_text("process 7 on there since then")
    assert (folder / "lock").read_text() == "process 7 on there since then"


def test_a_store_that_cannot_be_written_is_an_error_of_its_own(folder, monkeypatch):
    def refuse(path, mode="rb", **options):
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(folder.fs, "open", refuse)
    with pytest.raises(PermissionError, match="403 Forbidden"), locks.held(folder):
        pass


@pytest.mark.parametrize("data", [b"mine", b"[1]", b'{"a": 1}'])
def test_an_object_of_that_name_that_is_no_lock_is_refused(folder, data):
    (folder / "lock").write_bytes(data)
    with (
        pytest.raises(files.FileError, match="lock is not a lock of tflottery"),
        locks.held(folder),
    ):
        pass
    assert (folder / "lock").read_bytes() == data
