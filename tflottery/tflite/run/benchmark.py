"""Benchmark: how fast a file is, alone or compared with another one."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import pathlib

import numpy as np

from tflottery.core import checks
from tflottery.tflite.devices import report as devices
from tflottery.tflite.run import runtimes, worker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast one file is.

    Attributes:
        path: Path of the file.
        ms: Median milliseconds of a call.
        quartiles: First and third quartile of the milliseconds, over rounds.
        load_ms: Milliseconds from opening the file to the end of the first call.
        peak_ram: Peak growth of memory during loading and the first call, in bytes;
            None if the system does not report it.
    """

    path: str
    ms: float
    quartiles: tuple[float, float]
    load_ms: float
    peak_ram: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """What `benchmark_tflite` measured; prints as a few lines.

    Attributes:
        file: Timing of the file.
        against: Timing of the other file, or None.
        speedup: How many times faster the file is than the other one: the median of the
            ratios per round. None without another file.
        threads: Number of threads used.
    """

    file: Timing
    against: Timing | None
    speedup: float | None
    threads: int

    def to_json(self) -> str:
        """Returns every field as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def __str__(self) -> str:
        lines = []
        for timing in filter(None, (self.file, self.against)):
            low, high = timing.quartiles
            ram = "?" if timing.peak_ram is None else f"{timing.peak_ram / 1e6:.1f} MB"
            lines.append(
                f"{timing.path}: {timing.ms:.4f} ms ({low:.4f} to {high:.4f}), "
                f"loaded in {timing.load_ms:.1f} ms, peak {ram}"
            )
        if self.speedup is not None:
            on = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            lines.append(f"{self.speedup:.2f}x as fast, on {on}")
        return "\n".join(lines)


def benchmark_tflite(
    path: str | os.PathLike[str],
    *,
    threads: int = 1,
    against: str | os.PathLike[str] | None = None,
    rounds: int = 15,
    seconds: float = 1.5,
    runtime: str | None = None,
    on: str | None = None,
) -> BenchmarkReport | devices.DeviceReport:
    """Measures how fast a file is on random inputs, in a separate process.

    Two files take turns, so that other load on the machine affects both equally.
    With `on`, asks the tool of a device instead, which takes only `path` and `against`.

    Args:
        path: Path of the file.
        threads: Number of threads to use.
        against: Path of another file, usually the dense one.
        rounds: Number of turns of each file.
        seconds: Duration of all turns together.
        runtime: "litert" or "tensorflow"; by default LiteRT if it is installed.
        on: A device: "ethos-u55-128", or another size of Arm's Ethos-U55, U65 and U85,
            for which Vela compiles the file and estimates its speed
            (`pip install 'tflottery[npu]'`); or "tflite-micro", which runs it and tells
            its memory (`pip install 'tflottery[micro]'`).

    Returns:
        The report; print it. With `on`, a `DeviceReport`.

    Raises:
        TypeError: If `path` or `against` is not a path.
        FileNotFoundError: If a file does not exist.
        ModuleNotFoundError: If the tool of the device is not installed.
        ValueError: If another argument is out of range, or the tool of the device does
            not take a file.
        JobError: If a file does not run.
    """
    paths = [worker.file(path)]
    if against is not None:
        paths.append(worker.file(against, "against"))
    names = [os.fspath(given) for given in (path, against) if given is not None]
    if on is not None:
        checks.choice("on", on, devices.DEVICES)
        turns = {"threads": threads, "rounds": rounds, "seconds": seconds}
        turns |= {"runtime": runtime}
        plain = inspect.signature(benchmark_tflite).parameters
        given = [f"{n}={v!r}" for n, v in turns.items() if v != plain[n].default]
        if given:
            raise ValueError(
                "`on` goes with `path` and `against` only. Received: "
                f"{', '.join(given)}"
            )
        held = [pathlib.Path(file).read_bytes() for file in paths]
        return devices.measure(on, dict(zip(names, held, strict=True)))
    threads = checks.whole("threads", threads, 1)
    rounds = checks.whole("rounds", rounds, 1)
    checks.check("seconds", seconds, checks.POSITIVE)
    runtimes.default()  # raises if no runtime is installed
    if runtime is not None and runtime not in runtimes.installed():
        raise ValueError(
            f"`runtime` must be None or an installed one, of {runtimes.installed()}. "
            f"Received: runtime={runtime!r}"
        )
    common = {"threads": threads, "runtime": runtime}
    turns = {"rounds": rounds, "seconds": float(seconds)}
    timed = worker.call({"do": "time", "paths": paths, **turns, **common})["ms"]
    timings = []
    for name, file, taken in zip(names, paths, timed, strict=True):
        loaded = worker.call({"do": "load", "path": file, **common})
        low, middle, high = np.quantile(taken, [0.25, 0.5, 0.75]).tolist()
        load = {"load_ms": loaded["load_ms"], "peak_ram": loaded["ram"]}
        timings.append(Timing(path=name, ms=middle, quartiles=(low, high), **load))
    one = against is None
    return BenchmarkReport(
        file=timings[0],
        against=None if one else timings[1],
        speedup=None if one else float(np.median(np.divide(timed[1], timed[0]))),
        threads=threads,
    )
