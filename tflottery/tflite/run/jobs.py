"""Jobs: what the worker does with files; each job runs in a new process."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import statistics
import time
from typing import Any

import numpy as np

from tflottery.tflite.run import runtimes

_ARENA = 1 << 28  # bytes that TFLite Micro may use


def predict(
    folder: pathlib.Path,
    arrays: list[np.ndarray],
    progress: Any,
    *,
    path: str,
    threads: int,
) -> dict[str, Any]:
    """Runs a file on the inputs in the default runtime."""
    progress(f"while running {path}")
    results = runtimes.Session(path, threads=threads).predict(arrays)
    outputs: dict[str, Any] = {f"file/{i}": array for i, array in enumerate(results)}
    np.savez(folder / "outputs.npz", **outputs)
    return {"counts": {"file": len(results)}}


def run(
    folder: pathlib.Path,
    arrays: list[np.ndarray],
    progress: Any,
    *,
    path: str,
    variants: list[tuple[str, bool]],
) -> dict[str, Any]:
    """Runs a file on the inputs in each variant: (runtime, whether with XNNPACK)."""
    outputs, counts, failures, before = {}, {}, {}, status("RssAnon")
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
            ram = (status("RssAnon") or before) - before
        counts[key] = len(results)
        outputs |= {f"{key}/{i}": result for i, result in enumerate(results)}
    np.savez(folder / "outputs.npz", **outputs)
    return {"counts": counts, "failures": failures, "ram": ram}


def micro(
    folder: pathlib.Path,
    arrays: list[np.ndarray],
    progress: Any,
    *,
    paths: list[str],
    outputs: int,
) -> dict[str, Any]:
    """Runs files in TFLite Micro on inputs `[calls, batch, ...]` of the files' types.

    Returns:
        Also the bytes of the arena that each file takes.
    """
    from tflite_micro import runtime

    said = folder / "said"  # TFLite Micro prints its errors and its sizes
    os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    stored, arenas = {}, []
    for number, path in enumerate(paths):
        progress(f"in TFLite Micro, while running {path}")
        try:
            interpreter = runtime.Interpreter.from_file(path, arena_size=_ARENA)
            calls = []
            for call in zip(*arrays, strict=True):
                for index, array in enumerate(call):
                    interpreter.set_input(array, index)
                interpreter.invoke()
                calls.append([interpreter.get_output(i).copy() for i in range(outputs)])
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {said.read_text()}") from error
        interpreter.print_allocations()
        found = re.findall(r"Arena allocation total (\d+)", said.read_text())
        arenas.append(int(found[-1]))
        for index, column in enumerate(zip(*calls, strict=True)):
            stored[f"{number}/{index}"] = np.stack(column)
    np.savez(folder / "outputs.npz", **stored)
    return {"counts": {str(n): outputs for n in range(len(paths))}, "arenas": arenas}


def load(
    folder: pathlib.Path,
    arrays: list[np.ndarray],
    progress: Any,
    *,
    path: str,
    threads: int,
    runtime: str | None,
) -> dict[str, Any]:
    """Loads a file and calls it once; returns the milliseconds and bytes it took."""
    del folder
    progress(f"while loading {path}")
    peak_before = status("VmHWM")
    start = time.perf_counter()
    session = runtimes.Session(path, runtime, threads=threads)
    session.set_inputs(arrays or _drawn(session))
    session.invoke()
    taken = (time.perf_counter() - start) * 1e3
    peak = status("VmHWM")
    ram = None if peak is None or peak_before is None else peak - peak_before
    return {"load_ms": taken, "ram": ram}


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
    """Times calls of the files, which take turns.

    Returns:
        The milliseconds per call of each file in each round.
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


def status(field: str) -> int | None:
    """Returns a memory field of this process in bytes; None if it is unknown."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
