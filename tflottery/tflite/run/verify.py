"""Verify: a written file answers like its model, in every installed runtime."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tflottery.tflite.run import runtimes, worker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """How a file answered; see `ExportReport`.

    A difference is a share of the largest value of an output. A share of each value
    would be too strict: if large terms cancel, rounding alone can exceed what is left.
    """

    differences: dict[str, float]
    agreement: float  # in the runtime with the lowest
    failures: dict[str, str]  # runtimes that do not run it, and why
    ram: int | None

    @property
    def difference(self) -> float:
        return max(self.differences.values())


class WrongFileError(ValueError):
    """A written file does not run, or does not answer like its model."""


def difference(expected: np.ndarray, got: np.ndarray) -> float:
    """Returns the largest difference as a share of the largest expected value.

    Infinite if the shapes differ or a value is NaN.

    >>> difference(np.array([1.0, -4.0]), np.array([1.0, -3.0]))
    0.25
    """
    if expected.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    if not expected.size:
        return 0.0
    top = float(np.abs(expected).max())
    gap = float(np.abs(expected.astype(np.float64) - got).max())
    return gap / top if top > 0 else gap


def run_everywhere(
    path: str | pathlib.Path, samples: Sequence[np.ndarray], batch: int | None = None
) -> tuple[dict[str, list[np.ndarray]], dict[str, str], int | None]:
    """Runs the file in every installed runtime, with and without XNNPACK.

    They share a process, unless one crashes, or none runs the file: then each runs in
    one of its own, so that a crash does not hide the others.

    Returns:
        The outputs per runtime, the error per runtime that cannot run the file, and the
        bytes of memory that it took in the first one, if known.
    """
    job = {"do": "run", "path": os.path.abspath(path), "batch": batch}
    variants = list(itertools.product(runtimes.installed(), (True, False)))
    try:
        done = worker.call(job | {"variants": variants}, samples)
        return done["outputs"], done["failures"], done["ram"]
    except worker.JobError:
        outputs, failures, rams = {}, {}, []
    for runtime, xnnpack in variants:
        name = f"{runtime}+xnnpack" if xnnpack else runtime
        try:
            done = worker.call(job | {"variants": [(runtime, xnnpack)]}, samples)
            outputs |= done["outputs"]
            rams.append(done["ram"])
        except worker.JobError as error:
            failures[name] = str(error)
    return outputs, failures, rams[0] if rams else None


def listed(failures: Mapping[str, str]) -> str:
    """Returns failures as text, runtimes that say the same together.

    >>> listed({"litert": "No.", "tensorflow": "No."})
    'litert, tensorflow: No'
    """
    names = collections.defaultdict(list)
    for name, why in failures.items():
        names[why.rstrip(".")].append(name)
    return "; ".join(f"{', '.join(same)}: {why}" for why, same in names.items())


def verify(
    path: str | pathlib.Path,
    samples: Sequence[np.ndarray],
    expected: Sequence[np.ndarray] | Mapping[str, Sequence[np.ndarray]],
    tolerance: float,
    *,
    batch: int | None = None,
) -> Verification:
    """Checks that a file gives the expected outputs, one array per input and output.

    The expected outputs may be those of each runtime to check the file in. With
    `batch`, only so many samples are run, in one call, and a runtime may fail.

    Raises:
        WrongFileError: If the file does not run in one of the runtimes, or an output
            differs by more than `tolerance`.
    """
    samples = [array[:batch] for array in samples]
    outputs, failures, ram = run_everywhere(path, samples, batch)
    if not isinstance(expected, Mapping):
        expected = dict.fromkeys([*outputs, *failures], expected)
    failures = {name: why for name, why in failures.items() if name in expected}
    if failures and (batch is None or len(failures) == len(expected)):
        raise WrongFileError(f"The file does not run: {listed(failures)}")
    differences, agreement = {}, 1.0
    for name, wanted in expected.items():
        if name in failures:
            continue
        got = outputs[name]
        if len(got) != len(wanted):
            raise WrongFileError(
                f"The file gives {len(got)} outputs, the model {len(wanted)}."
            )
        pairs = list(zip(wanted, got, strict=True))
        if batch:  # an output may have several rows for a sample
            pairs = [(e[: max(batch, len(g))], g) for e, g in pairs]
        shapes = [(e.shape, g.shape) for e, g in pairs]
        if other := [pair for pair in shapes if pair[0] != pair[1]]:
            raise WrongFileError(
                "The file's outputs have other shapes than the model's: "
                + ", ".join(f"{b} for {a}" for a, b in other)
            )
        differences[name] = max(difference(e, g) for e, g in pairs)
        agreement = min([agreement, *(_agreement(e, g) for e, g in pairs)])
    result = Verification(
        differences=differences, agreement=agreement, failures=failures, ram=ram
    )
    if not result.difference <= tolerance:
        each = ", ".join(f"{n}: {d:.2g}" for n, d in differences.items())
        raise WrongFileError(
            f"The file's outputs differ from the model's by {result.difference:.3g} of "
            f"the largest output; `tolerance` allows {tolerance:.3g} ({each})."
        )
    return result


def _agreement(expected: np.ndarray, got: np.ndarray) -> float:
    if expected.ndim < 2 or expected.shape[-1] < 2 or expected.shape != got.shape:
        return 1.0
    return float((expected.argmax(axis=-1) == got.argmax(axis=-1)).mean())
