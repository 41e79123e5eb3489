"""Jobs: what the worker does with files; each job runs in a new process."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tflottery.tflite.run import runtimes

Progress = Callable[[str], Any]  # notes where the job is, for the error if it dies
_ARENA = 1 << 28  # bytes that TFLite Micro may use


def run(
    progress: Progress,
    arrays: list[np.ndarray],
    *,
    path: str,
    variants: list[tuple[str, bool]],
    threads: int = 1,
    batch: int | None = None,
) -> dict[str, Any]:
    """Runs a file on the inputs in each variant: (runtime, whether with XNNPACK)."""
    outputs: dict[str, list[np.ndarray]] = {}
    failures = {}
    before, ram = status("RssAnon"), None
    for runtime, xnnpack in variants:
        key = f"{runtime}+xnnpack" if xnnpack else runtime
        progress(f"in {key}" if len(variants) > 1 else "while running it")
        try:
            session = runtimes.Session(path, runtime, xnnpack=xnnpack, threads=threads)
            outputs[key] = session.predict(arrays, batch)
        except (RuntimeError, ValueError) as error:
            failures[key] = " ".join(str(error).split())[:500]
        if ram is None and before is not None:
            ram = (status("RssAnon") or before) - before
    if not outputs:
        raise RuntimeError("; ".join(dict.fromkeys(failures.values())))
    return {"outputs": outputs, "failures": failures, "ram": ram}


def micro(
    progress: Progress, arrays: list[np.ndarray], *, paths: list[str], outputs: int
) -> dict[str, Any]:
    """Runs files in TFLite Micro on inputs `[calls, batch, ...]` of the files' types.

    Also returns the bytes of the arena that each file takes.
    """
    from tflite_micro import runtime

    found, arenas = {}, []
    with tempfile.NamedTemporaryFile("r") as said:  # its errors and its sizes
        os.dup2(os.open(said.name, os.O_WRONLY | os.O_APPEND), 2)
        for number, path in enumerate(paths):
            progress(f"in TFLite Micro, while running {path}")
            try:
                interpreter = runtime.Interpreter.from_file(path, arena_size=_ARENA)
                calls = []
                for call in zip(*arrays, strict=True):
                    for index, array in enumerate(call):
                        interpreter.set_input(array, index)
                    interpreter.invoke()
                    got = [interpreter.get_output(i).copy() for i in range(outputs)]
                    calls.append(got)
            except RuntimeError as error:
                raise RuntimeError(f"{error}: {said.read()}") from error
            interpreter.print_allocations()
            sizes = re.findall(r"Arena allocation total (\d+)", said.read())
            arenas.append(int(sizes[-1]))
            found[str(number)] = [np.stack(each) for each in zip(*calls, strict=True)]
    return {"outputs": found, "arenas": arenas}


def load(
    progress: Progress,
    arrays: list[np.ndarray],
    *,
    path: str,
    threads: int,
    runtime: str | None,
) -> dict[str, Any]:
    """Loads a file and calls it once; returns the milliseconds and bytes it took."""
    before = status("VmHWM")
    start = time.perf_counter()
    _called(path, progress, threads, runtime)
    taken = (time.perf_counter() - start) * 1e3
    peak = status("VmHWM")
    ram = None if peak is None or before is None else peak - before
    return {"load_ms": taken, "ram": ram}


def time_files(
    progress: Progress,
    arrays: list[np.ndarray],
    *,
    paths: list[str],
    threads: int,
    runtime: str | None,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Returns the milliseconds per call of each file in each round; they take turns."""
    calls = []  # function and how often to call it in a round
    for path in paths:
        invoke = _called(path, progress, threads, runtime).invoke
        once = statistics.median(_seconds(invoke, 1) for _ in range(5))
        share = seconds / rounds / len(paths)
        calls.append((invoke, max(1, int(share / max(once, 1e-7)))))
    turns = [[_seconds(*call) * 1e3 for call in calls] for _ in range(rounds)]
    return {"ms": np.transpose(turns).tolist()}


def _seconds(invoke: Callable[[], None], count: int) -> float:
    """Returns the seconds that a call takes, of so many."""
    start = time.perf_counter()
    for _ in range(count):
        invoke()
    return (time.perf_counter() - start) / count


def _called(
    path: str, progress: Progress, threads: int, runtime: str | None
) -> runtimes.Session:
    """Returns a loaded file that was called once, on random inputs."""
    progress(f"while loading {path}")
    session = runtimes.Session(path, runtime, threads=threads)
    generator = np.random.default_rng(0)
    session.set_inputs(
        [
            generator.normal(size=port.shape).astype(np.float32)
            if port.scale or port.dtype.kind == "f"
            else generator.integers(0, 2, port.shape).astype(port.dtype)
            for port in session.inputs
        ]
    )
    session.invoke()
    return session


def status(field: str) -> int | None:
    """Returns a memory field of this process in bytes; None if it is unknown."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
