"""The worker: a process that runs files in the runtimes, so that a crash is a result.

It imports the runtimes once and forks for every job: a job that dies takes nothing
with it, and starts with none of another job's memory.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflottery.tflite import runtimes

_LIMIT = 900  # seconds; a job that takes longer is ended
_TURN = threading.Lock()  # one job at a time


class JobError(RuntimeError):
    """A job raised, or its process died."""


def call(job: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> dict[str, Any]:
    """Runs one job in the worker and returns its result.

    Args:
      job: `{"do": "run" | "load" | "time", ...}`, see the functions of those names.
      arrays: The inputs, one per input of the file, each `[samples, ...]`.

    Returns:
      The job's result; with "outputs", a list of arrays per runtime, for "run".

    Raises:
      JobError: If the runtime raised or crashed; the message says which and where.
    """
    with tempfile.TemporaryDirectory(prefix="tflottery-") as name:
        folder = pathlib.Path(name)
        np.savez(folder / "inputs.npz", *arrays)
        (folder / "job.json").write_text(json.dumps(job))
        code = _worker()(name)
        progress = folder / "progress"
        where = progress.read_text() if progress.exists() else "at the start"
        if code < 0:
            kind = signal.Signals(-code).name
            raise JobError(f"The runtime crashed ({kind}) {where}.")
        result = json.loads((folder / "result.json").read_text())
        if "error" in result:
            raise JobError(f"{result['error']} ({where})")
        if (folder / "outputs.npz").exists():
            with np.load(folder / "outputs.npz") as stored:
                result["outputs"] = {
                    key: [stored[f"{key}/{i}"] for i in range(count)]
                    for key, count in result["counts"].items()
                }
        return result


@functools.cache
def _worker() -> Any:
    """Starts the worker; returns a function that runs a folder's job in it."""
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    root = str(pathlib.Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(
        [root, *filter(None, [environment.get("PYTHONPATH")])]
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tflottery.tflite.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def stop() -> None:
        with contextlib.suppress(OSError):
            stdin.close()
        process.kill()  # its jobs are done: they are waited for
        process.wait()
        stdout.close()

    atexit.register(stop)

    def run(folder: str) -> int:
        try:
            with _TURN:
                stdin.write(folder + "\n")
                stdin.flush()
                answer = stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            _worker.cache_clear()
            raise JobError("The process that runs .tflite files ended by itself.")
        return int(answer)

    return run


def main() -> None:
    """Answers each folder named on stdin with the exit code of its job's process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints must not look like an answer
    for runtime in runtimes.installed():
        runtimes.preload(runtime)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(_LIMIT)
            _do(pathlib.Path(line.strip()))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        answers.write(f"{code}\n")
        answers.flush()


def _do(folder: pathlib.Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    jobs = {"run": run, "load": load, "time": time_files}

    def progress(text: str) -> None:
        (folder / "progress").write_text(text)

    try:
        with np.load(folder / "inputs.npz") as stored:
            arrays = [stored[f"arr_{i}"] for i in range(len(stored.files))]
        result = jobs[job.pop("do")](folder, arrays, progress, **job)
    except Exception as error:
        message = " ".join(str(error).split())
        result = {"error": f"{type(error).__name__}: {message[:500]}"}
    (folder / "result.json").write_text(json.dumps(result))


def run(
    folder: pathlib.Path,
    arrays: list[np.ndarray],
    progress: Any,
    *,
    path: str,
    variants: list[tuple[str, bool]],
) -> dict[str, Any]:
    """Runs a file on the inputs, in each (runtime, with XNNPACK or not)."""
    outputs, counts, failures, before = {}, {}, {}, _anonymous()
    ram: int | None = None
    for runtime, xnnpack in variants:
        key = f"{runtime}+xnnpack" if xnnpack else runtime
        progress(f"in {key}")
        try:
            session = runtimes.Session(path, runtime, xnnpack=xnnpack)
            results = session.predict(arrays)
        except (RuntimeError, ValueError) as error:
            failures[key] = " ".join(str(error).split())[:500]
            continue
        if ram is None and before is not None:
            ram = (_anonymous() or before) - before
        counts[key] = len(results)
        outputs |= {f"{key}/{i}": result for i, result in enumerate(results)}
    np.savez(folder / "outputs.npz", **outputs)
    return {"counts": counts, "failures": failures, "ram": ram}


def load(
    folder: pathlib.Path,
    arrays: list[np.ndarray],
    progress: Any,
    *,
    path: str,
    threads: int,
    runtime: str | None,
) -> dict[str, Any]:
    """Loads a file and calls it once: the milliseconds and the bytes that this took."""
    del folder
    progress(f"while loading {path}")
    peak_before = _status("VmHWM")
    start = time.perf_counter()
    session = runtimes.Session(path, runtime, threads=threads)
    session.set_inputs(arrays or _drawn(session))
    session.invoke()
    taken = (time.perf_counter() - start) * 1e3
    peak = _status("VmHWM")
    if peak is None or peak_before is None:
        return {"load_ms": taken, "ram": None}
    return {"load_ms": taken, "ram": peak - peak_before}


def time_files(
    folder: pathlib.Path,
    arrays: list[np.ndarray],
    progress: Any,
    *,
    paths: list[str],
    threads: int,
    runtime: str | None,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Times calls of the files, in turn, so that what else the machine does hits all.

    Returns:
      Per file, the milliseconds per call in each round.
    """
    del folder
    sessions, calls = [], []
    for path in paths:
        progress(f"while timing {path}")
        session = runtimes.Session(path, runtime, threads=threads)
        session.set_inputs(arrays or _drawn(session))
        session.invoke()
        once = []
        for _ in range(5):
            start = time.perf_counter()
            session.invoke()
            once.append(time.perf_counter() - start)
        sessions.append(session)
        share = seconds / rounds / len(paths)
        calls.append(max(1, int(share / max(statistics.median(once), 1e-7))))
    taken: list[list[float]] = [[] for _ in paths]
    for _ in range(rounds):
        for session, count, result in zip(sessions, calls, taken, strict=True):
            invoke = session.invoke
            start = time.perf_counter()
            for _ in range(count):
                invoke()
            result.append((time.perf_counter() - start) / count * 1e3)
    return {"ms": taken}


def _drawn(session: runtimes.Session) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        generator.normal(size=port.shape).astype(np.float32)
        if port.scale or port.dtype.kind == "f"
        else generator.integers(0, 2, port.shape).astype(port.dtype)
        for port in session.inputs
    ]


def _anonymous() -> int | None:
    return _status("RssAnon")


def _status(field: str) -> int | None:
    """Returns a field of this process's memory in bytes; None where unknown."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    main()
