import numpy as np
import pytest
from making.tflite_files import one_layer, sparse_array

from tflottery.tflite import export_tflite
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.run import runtimes, verify, worker


@pytest.fixture
def file(tmp_path):
    data, samples = one_layer(sparse_array((5, 4), 0))
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    outputs, *_ = verify.run_everywhere(path, [samples])
    return path, samples, outputs["tensorflow"][0]


def test_a_right_file_is_run_in_every_runtime_with_and_without_xnnpack(file):
    path, samples, expected = file
    found = verify.verify(path, [samples], [expected], 1e-6)
    names = {n + x for n in runtimes.installed() for x in ("", "+xnnpack")}
    assert set(found.differences) == names
    assert found.agreement == 1


def test_a_wrong_output_is_an_error(file):
    path, samples, expected = file
    with pytest.raises(verify.WrongFileError, match="outputs differ"):
        verify.verify(path, [samples], [expected * 1.01], 0.005)
    with pytest.raises(verify.WrongFileError, match="gives 1 outputs, the model 2"):
        verify.verify(path, [samples], [expected, expected], 1)
    with pytest.raises(
        verify.WrongFileError, match="have other shapes than the model's"
    ):
        verify.verify(path, [samples], [expected[:, :2]], 1)


def test_each_output_is_measured_by_its_own_largest_value(tmp_path):
    import keras

    x = keras.Input((4,))
    large, small = keras.layers.Dense(3)(x), keras.layers.Dense(3)(x)
    model = keras.Model(x, [large, small])
    path = tmp_path / "model.tflite"
    export_tflite(model, path)
    samples = np.ones((2, 4), np.float32)
    expected = [np.asarray(output) for output in model(samples)]
    verify.verify(path, [samples], expected, 1e-4)
    wrong = [expected[0] * 1e-6, expected[1]]  # tiny beside the other one
    with pytest.raises(verify.WrongFileError, match="outputs differ"):
        verify.verify(path, [samples], wrong, 1e-4)


def test_a_file_that_does_not_load_is_an_error_that_says_where(file):
    path, samples, expected = file
    path.write_bytes(path.read_bytes()[:64])
    with pytest.raises(
        verify.WrongFileError, match=r"run: litert\+xnnpack, litert: .*; tensorflow"
    ):
        verify.verify(path, [samples], [expected], 1)


def test_a_runtime_that_dies_is_an_error_and_the_next_job_runs(file, monkeypatch):
    path, samples, expected = file
    graph = Graph(path.read_bytes())
    graph.operators[0].inputs[1] = 0  # a weight that is no constant, of another shape
    bad = path.with_name("bad.tflite")
    bad.write_bytes(graph.to_bytes())
    with pytest.raises(verify.WrongFileError):
        verify.verify(bad, [samples], [expected], 1)
    assert verify.verify(path, [samples], [expected], 1e-6).difference < 1e-6


def test_a_crash_in_one_runtime_does_not_hide_the_others(file, monkeypatch):
    path, samples, _ = file
    right = worker.call

    def crash(job, arrays):
        if crashing & set(job["variants"]):
            raise worker.JobError("The runtime crashed (SIGSEGV) while running it.")
        return right(job, arrays)

    monkeypatch.setattr(worker, "call", crash)
    crashing = {("litert", True), ("tensorflow", False)}
    target = path.with_name("new.tflite")
    report = export_tflite(path, target, samples=samples)
    assert set(report.differences) == {"litert", "tensorflow+xnnpack"}
    assert (
        "runs only in litert, tensorflow+xnnpack, so the new one was compared there "
        "(litert+xnnpack, tensorflow: The runtime crashed (SIGSEGV)"
    ) in report.warnings[0]
    crashing |= {("litert", False), ("tensorflow", True)}
    with pytest.raises(
        ValueError,
        match=r"does not run.* litert\+xnnpack, litert, .*, tensorflow: .*SIGSEGV",
    ):
        export_tflite(path, target, samples=samples)


def test_a_job_that_kills_its_process_says_how(tmp_path):
    import os
    import signal

    path = tmp_path / "kill.tflite"
    os.mkfifo(path)  # reading it waits for ever: the job's process is ended for it
    result = []

    def call():
        try:
            worker.call(
                {"do": "load", "path": str(path), "threads": 1, "runtime": None}
            )
        except worker.JobError as error:
            result.append(str(error))

    import threading
    import time

    import psutil

    before = set(psutil.Process().children(recursive=True))
    thread = threading.Thread(target=call)
    thread.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not result:
        for child in set(psutil.Process().children(recursive=True)) - before:
            if child.parent() in before and child.is_running():
                child.send_signal(signal.SIGSEGV)
        time.sleep(0.05)
    thread.join(timeout=60)
    assert "crashed (SIGSEGV) while loading" in result[0]


@pytest.mark.slow
def test_an_interrupted_job_and_a_dead_worker_leave_nothing_to_the_next_one(file):
    import signal
    import subprocess
    import sys
    import threading

    path, samples, expected = file
    # A warm call is far faster than the first ones, by which the calls are counted: the
    # job lasts much less than these seconds, and still long.
    job = {"threads": 1, "runtime": None, "rounds": 9, "seconds": 100_000}
    me = threading.get_ident()
    # A shell's background job ignores SIGINT, and so would this process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, signal.pthread_kill, (me, signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.call({"do": "time", "paths": [str(path)], **job})
    finally:
        signal.signal(signal.SIGINT, before)
    assert worker._process is None
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    dead = subprocess.Popen([sys.executable, "-c", ""], text=True, **pipes)
    dead.wait()
    worker._process = dead
    assert verify.verify(path, [samples], [expected], 1e-6).difference < 1e-6
    assert worker._process is not dead


@pytest.mark.parametrize(
    ("got", "gap"), [([1.0, -4.0], 0), ([1.0, np.nan], np.inf), ([1.0], np.inf)]
)
def test_the_difference_is_a_share_of_the_largest_output(got, gap):
    assert verify.difference(np.array([1.0, -4.0]), np.array(got)) == gap


def test_a_port_converts_by_its_scale():
    port = runtimes.Port(0, (2,), np.dtype(np.int8), 0.5, -3)
    assert port.quantize(np.array([0.0, 1.0, 1e9])).tolist() == [-3, -1, 127]
    assert port.dequantize(np.array([-3, -1], np.int8)).tolist() == [0.0, 1.0]
    whole = np.array([4], np.int8)
    assert port.quantize(whole) is not None
    assert port.quantize(whole).tolist() == [4]


def test_a_short_last_batch_is_filled_up_and_cut(tmp_path):
    import keras

    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    export_tflite(model, tmp_path / "model.tflite", batch_size=4)
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    (got,) = runtimes.Session(tmp_path / "model.tflite").predict([x])
    np.testing.assert_allclose(got, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
