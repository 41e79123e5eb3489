"""The benchmark: how fast a file is, beside another one, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import math
import os

import numpy as np

from tflottery.core.checks import is_number
from tflottery.tflite.run import runtimes, worker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast one file is.

    Attributes:
      path: The file.
      ms: Median milliseconds of a call.
      quartiles: The quarter and three-quarter marks of the rounds' milliseconds.
      load_ms: Milliseconds from opening the file to the end of the first call.
      peak_ram: Bytes that memory grew by at most, in loading and a first call; None
        where the system does not tell.
    """

    path: str
    ms: float
    quartiles: tuple[float, float]
    load_ms: float
    peak_ram: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """What `benchmark_tflite` measured; prints as two lines.

    Attributes:
      file: The file's timing.
      against: The other file's; None if there is none.
      speedup: How many times faster than the other file, the median over rounds that
        time one right after the other; None without another file.
      threads: Threads computed with.
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
) -> BenchmarkReport:
    """Measures how fast a file is, in a process of its own, on drawn inputs.

    The two files take turns in every round, so that what else the machine does hits
    both alike.

    Args:
      path: The file.
      threads: How many threads to compute with.
      against: Another file, usually the dense one.
      rounds: How many times each file has its turn.
      seconds: How long to measure in all.
      runtime: "litert" or "tensorflow"; LiteRT if it is installed, if None.

    Raises:
      TypeError: If `path` or `against` is no path.
      FileNotFoundError: If a file is not there.
      ValueError: If another argument does not fit.
      JobError: If a file does not run.
    """
    threads = worker.count(threads, "threads")
    rounds = worker.count(rounds, "rounds")
    _check(seconds, runtime)
    given, paths = [path], [worker.file(path)]
    if against is not None:
        given.append(against)
        paths.append(worker.file(against, "against"))
    common = {"threads": threads, "runtime": runtime}
    turns = {"rounds": rounds, "seconds": float(seconds)}
    timed = worker.call({"do": "time", "paths": paths, **turns, **common})["ms"]
    timings = []
    for shown, name, taken in zip(given, paths, timed, strict=True):
        loaded = worker.call({"do": "load", "path": name, **common})
        low, middle, high = np.quantile(taken, [0.25, 0.5, 0.75]).tolist()
        timings.append(
            Timing(
                path=os.fspath(shown),
                ms=middle,
                quartiles=(low, high),
                load_ms=loaded["load_ms"],
                peak_ram=loaded["ram"],
            )
        )
    speedup = None
    if against is not None:
        speedup = float(np.median(np.array(timed[1]) / np.array(timed[0])))
    return BenchmarkReport(
        file=timings[0],
        against=timings[1] if against is not None else None,
        speedup=speedup,
        threads=threads,
    )


def _check(seconds: float, runtime: str | None) -> None:
    if not is_number(seconds) or not 0 < seconds < math.inf:
        raise ValueError(
            f"`seconds` must be a number above 0, as 1.5. Received: seconds={seconds!r}"
        )
    runtimes.default()  # or there is none
    if runtime is not None and runtime not in runtimes.installed():
        raise ValueError(
            "`runtime` must be None or the name of one that is installed, of "
            f"{runtimes.installed()}. Received: runtime={runtime!r}"
        )
