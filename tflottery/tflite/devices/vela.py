"""Vela: Arm's compiler for Ethos-U, which estimates how a file runs on an NPU."""

from __future__ import annotations

import collections
import csv
import dataclasses
import importlib.metadata
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tflottery.tflite.file.graph import Graph

# Sizes, system configuration and memory mode in Arm/vela.ini, which comes with Vela.
_SYSTEMS = {
    "u55": ((32, 64, 128, 256), "Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "u65": ((256, 512), "Ethos_U65_High_End", "Dedicated_Sram"),
    "u85": ((128, 256, 512, 1024, 2048), "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram"),
}
DEVICES = tuple(f"ethos-{u}-{n}" for u, (sizes, *_) in _SYSTEMS.items() for n in sizes)
_LIMIT = 600  # seconds after which a compilation is ended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What Vela estimates of a file; nothing was run on a device.

    Attributes:
        name: Name of the file.
        bytes: Size of the compiled file.
        weights: Bytes of its encoded weights, in flash or DRAM.
        sram: Bytes of SRAM that it uses.
        us: Microseconds of a call.
        cycles: Cycles of a call.
        npu_operators: Number of operators on the NPU, into which Vela divides those of
            the file.
        cpu_operators: Operators left to the CPU.
    """

    name: str
    bytes: int
    weights: int
    sram: int
    us: float
    cycles: int
    npu_operators: int
    cpu_operators: tuple[str, ...]

    def __str__(self) -> str:
        on_cpu = counted(self.cpu_operators) or "none"
        if not self.npu_operators:
            return f"nothing runs on the NPU; on the CPU: {on_cpu}"
        sizes = {"file": self.bytes, "weights": self.weights, "SRAM": self.sram}
        listed = ", ".join(
            f"{name} {size / 1e3:,.1f} KB" for name, size in sizes.items()
        )
        return (
            f"{self.us:,.0f} µs, {self.cycles:,} cycles; {listed}; "
            f"{self.npu_operators} operators on the NPU, on the CPU: {on_cpu}"
        )


def counted(names: Sequence[str]) -> str:
    """Returns the names of operators with their numbers.

    >>> counted(["MUL", "ELU", "MUL"])
    'MUL 2, ELU 1'
    """
    return ", ".join(f"{n} {c}" for n, c in collections.Counter(names).items())


def installed() -> bool:
    return importlib.util.find_spec("ethosu") is not None


def tool() -> str:
    """Returns the name of the compiler with its version."""
    version = importlib.metadata.version("ethos-u-vela")
    return f"the estimate of ethos-u-vela {version}, without a device"


def estimate(name: str, data: bytes, device: str) -> Estimate:
    """Compiles a file for a device, in a process of its own.

    Args:
        name: Name of the file, for the estimate and for errors.
        data: Its content.
        device: One of `DEVICES`.

    Raises:
        ModuleNotFoundError: If Vela is not installed.
        ValueError: If Vela does not compile the file.
    """
    if not installed():
        raise ModuleNotFoundError(
            "Vela is not installed. Try: pip install 'tflottery[npu]'"
        )
    Graph(data, name)  # raises if it is damaged
    _, system, memory = _SYSTEMS[device.split("-")[1]]
    with tempfile.TemporaryDirectory(prefix="tflottery-") as path:
        folder = pathlib.Path(path)
        (folder / "in.tflite").write_bytes(data)
        command = [sys.executable, "-W", "ignore", "-m", "ethosu.vela", "in.tflite"]
        command += ["--accelerator-config", device, "--system-config", system]
        command += ["--memory-mode", memory, "--config", "Arm/vela.ini"]
        command += ["--output-dir", ".", "--show-cpu-operations"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"Vela takes over {_LIMIT} s to compile {name}."
            ) from error
        summary = next(folder.glob("in_summary_*.csv"), None)
        if done.returncode or summary is None:
            said = " ".join((done.stdout + done.stderr).splitlines()[-1:])
            unpacked = "Non-passthrough" in said  # a weight of that kind
            remedy = ' Export it with `target="npu"`.' if unpacked else ""
            raise ValueError(
                f"Vela does not compile {name} for {device}: {said}.{remedy}"
            )
        with summary.open() as file:
            row = next(csv.DictReader(file))
        compiled = (folder / "in_vela.tflite").read_bytes()
        graph = Graph(compiled)
        operators = map(graph.name, graph.operators)
        return Estimate(
            name=name,
            bytes=len(compiled),
            weights=int(row["total_npu_encoded_weights"]),
            sram=round(float(row["sram_memory_used"]) * 1024),
            us=float(row["inference_time"]) * 1e6,
            cycles=round(float(row["cycles_total"])),
            npu_operators=int(re.findall(r"NPU operators = (\d+)", done.stdout)[0]),
            # What runs on the NPU is one custom operator by now.
            cpu_operators=tuple(name for name in operators if name != "ethos-u"),
        )
