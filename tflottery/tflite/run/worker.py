"""Worker: a process that runs files in the runtimes, so that a crash is an error.

It imports the runtimes once and forks for every job. A job that dies affects nothing
else, and no job sees the memory of another one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from tflottery.tflite.run import jobs, runtimes

_LIMIT = 900  # seconds after which a job is ended
# The limit of a job's memory, as a damaged file may ask for any amount.
_MEMORY = 8 << 30  # bytes
_MEMORY_PER_BYTE = 16  # more for each byte of the file and of the inputs
_TURN = threading.Lock()  # one job at a time
_process: subprocess.Popen[str] | None = None


class JobError(RuntimeError):
    """A job raised, or its process died."""


def file(path: str | os.PathLike[str], argument: str = "path") -> str:
    """Returns the absolute path of a file, which jobs need.

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If there is no such file.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"`{argument}` must be the path of a .tflite file, such as "
            f'"student.tflite". Received: {path!r}'
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
    return os.path.abspath(path)


def call(job: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> dict[str, Any]:
    """Runs one job in the worker and returns what its function in `jobs` returns.

    Args:
        job: `{"do": "run" | "load" | "time" | "micro", ...}` with the arguments of the
            function. Paths must be absolute, as the worker does not follow changes of
            the working directory.
        arrays: One array per input of the file, each `[samples, ...]`.

    Raises:
        JobError: If the runtime raised or crashed; the message says where.
    """
    with tempfile.TemporaryDirectory(prefix="tflottery-") as name:
        folder = pathlib.Path(name)
        np.savez(folder / "inputs.npz", *arrays)
        (folder / "job.json").write_text(json.dumps(job))
        code = _run(folder)
        progress = folder / "progress"
        where = progress.read_text() if progress.exists() else "at the start"
        if code < 0:
            kind = signal.Signals(-code).name
            hint = {
                "SIGABRT": f" The limit of its memory is {_MEMORY >> 30} GB.",
                "SIGALRM": f" The limit of its time is {_LIMIT} s.",
            }.get(kind, "")
            raise JobError(f"The runtime crashed ({kind}) {where}.{hint}")
        if not (folder / "result.json").exists():
            raise JobError(f"The runtime ended its process (exit code {code}) {where}.")
        result = json.loads((folder / "result.json").read_text())
        if "error" in result:
            raise JobError(f"{result['error']} ({where})")
        with np.load(folder / "outputs.npz") as stored:
            result["outputs"] = {
                key: [stored[f"{key}/{i}"] for i in range(count)]
                for key, count in result["outputs"].items()
            }
        return result


def _run(folder: pathlib.Path) -> int:
    """Runs a folder's job in the worker; returns the exit code of its process."""
    with _TURN:
        for _ in range(2):
            try:
                answer = _ask(folder)
            except BaseException:
                # The next job would take an answer that is still to come for its own.
                _stop()
                raise
            if answer:
                return int(answer)
            _stop()
            if (folder / "progress").exists():
                break  # the job may have ended the worker, so it is not run again
        raise JobError("The process that runs .tflite files ended unexpectedly.")


def _ask(folder: pathlib.Path) -> str:
    """Returns the answer of the worker, which is started if need be; "" if it died."""
    global _process
    if _process is not None and _process.poll() is not None:
        _stop()
    if _process is None:
        _process = _start()
    stdin, stdout = _pipes(_process)
    with contextlib.suppress(BrokenPipeError):
        stdin.write(f"{folder}\n")
        stdin.flush()
        return stdout.readline()
    return ""


def environment() -> dict[str, str]:
    """Returns that of a quiet process on the CPU that finds this one's modules."""
    paths = [str(pathlib.Path(__file__).parents[3]), *map(os.path.abspath, sys.path)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths)}


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tflottery.tflite.run.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        text=True,
        start_new_session=True,  # so that it can be ended together with its job
    )


def _stop() -> None:
    """Ends the worker, and the job that it runs."""
    global _process
    process, _process = _process, None
    if process is None:
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in _pipes(process):
        with contextlib.suppress(OSError):
            pipe.close()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


atexit.register(_stop)


def main() -> None:
    """Reads folders from stdin, and answers each with the exit code of its job."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that what a runtime prints is not taken for an answer
    for runtime in runtimes.installed():
        runtimes.preload(runtime)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(_LIMIT)
            _do(pathlib.Path(line.rstrip("\n")))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        answers.write(f"{code}\n")
        answers.flush()


def _do(folder: pathlib.Path) -> None:
    functions = {
        "run": jobs.run,
        "load": jobs.load,
        "time": jobs.time_files,
        "micro": jobs.micro,
    }
    progress = (folder / "progress").write_text
    progress("at the start")
    try:
        job = json.loads((folder / "job.json").read_text())
        with np.load(folder / "inputs.npz") as stored:
            arrays = [stored[f"arr_{i}"] for i in range(len(stored.files))]
        _limit_memory(job, arrays)
        result = functions[job.pop("do")](progress, arrays, **job)
        outputs = result.pop("outputs", {})
        result["outputs"] = {key: len(found) for key, found in outputs.items()}
        named = {
            f"{k}/{i}": a for k, found in outputs.items() for i, a in enumerate(found)
        }
        np.savez(folder / "outputs.npz", **named)
    except Exception as error:
        message = " ".join(str(error).split())
        result = {"error": f"{type(error).__name__}: {message[:500]}"}
    (folder / "result.json").write_text(json.dumps(result))


def _limit_memory(job: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    used = jobs.status("VmSize")
    if used is None:
        return
    import resource  # does not exist on every system

    paths = job.get("paths") or [job["path"]]
    held = sum(os.path.getsize(path) for path in paths)
    held += sum(array.nbytes for array in arrays)
    most = used + _MEMORY + _MEMORY_PER_BYTE * held
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
