"""Report: what a device's own tool says of a file, beside another file."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.tflite.devices import micro, npu, tflm, vela
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.run.verify import WrongFileError

DEVICES = (*vela.DEVICES, tflm.DEVICE)
_TRIED = ("ethos-u55-128", "ethos-u85-256")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """What a device's own tool says of a file; prints as a few lines.

    Attributes:
        device: Name of the device.
        tool: The tool, and what its figures are.
        file: Its figures of the file.
        against: Its figures of the other file, or None.
        speedup: How many times faster the file is than the other one, by Vela; else
            None.
    """

    device: str
    tool: str
    file: vela.Estimate | tflm.MicroRun
    against: vela.Estimate | tflm.MicroRun | None

    @property
    def speedup(self) -> float | None:
        times = [getattr(found, "us", None) for found in (self.file, self.against)]
        return times[1] / times[0] if times[0] and times[1] else None

    def to_json(self) -> str:
        """Returns every field as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def __str__(self) -> str:
        lines = [f"on {self.device}, by {self.tool}:"]
        lines += [f"{f.name}: {f}" for f in (self.file, self.against) if f]
        if self.speedup is not None:
            lines.append(f"{self.speedup:.2f}x as fast")
        elif self.against is not None and self.device == tflm.DEVICE:
            same = getattr(self.file, "digest", 0) == getattr(self.against, "digest", 1)
            lines.append(f"outputs {'equal' if same else 'differ'}, bit for bit")
        return "\n".join(lines)


def measure(device: str, files: Mapping[str, bytes]) -> DeviceReport:
    """Returns the report of a file, and of another one to compare it with.

    Args:
        device: One of `DEVICES`.
        files: Name -> content of one or two files.

    Raises:
        ModuleNotFoundError: If the tool of the device is not installed.
        ValueError: If the tool does not take a file.
    """
    if device == tflm.DEVICE:
        found = tflm.run(files)
        return _report(device, tflm.tool(), found)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        several = itertools.repeat(device)
        found = list(pool.map(vela.estimate, files, files.values(), several))
    return _report(device, vela.tool(), found)


def _report(device: str, tool: str, found: Sequence[Any]) -> DeviceReport:
    against = found[1] if len(found) > 1 else None
    return DeviceReport(device=device, tool=tool, file=found[0], against=against)


def tried(
    target: str, name: str, data: bytes, dense: bytes
) -> tuple[dict[str, DeviceReport], list[str]]:
    """Asks the tools of the devices that a target is for, where they are installed.

    Args:
        target: What the file was exported for.
        name: Name of the file.
        data: Its content.
        dense: The dense file that it was made from.

    Returns:
        The report per device, and what the user should know.

    Raises:
        ValueError: If TFLite Micro does not run a file that is for it.
        WrongFileError: If it computes its weights wrongly.
    """
    if target == "micro":
        return _tried_micro(name, data, dense)
    if target != "npu":
        return {}, []
    if not vela.installed():
        notes = [
            "Vela is not installed, so no compiler has tried the file. Try: "
            "pip install 'tflottery[npu]'"
        ]
        if floats := npu.in_float(Graph(data)):
            notes.append(f"not in integers, so not on the NPU: {vela.counted(floats)}.")
        return {}, notes
    unpruned = npu.filled(Graph(dense)).to_bytes()
    files = {name: data, f"{name}, as if unpruned": unpruned}
    found: dict[str, DeviceReport] = {}
    notes = []
    for device in _TRIED:
        try:
            found[device] = measure(device, files)
        except ValueError as error:
            notes.append(str(error))
            continue
        if on_cpu := getattr(found[device].file, "cpu_operators", ()):
            notes.append(f"{device} leaves to the CPU: {vela.counted(on_cpu)}.")
    return found, notes


def _tried_micro(
    name: str, data: bytes, dense: bytes
) -> tuple[dict[str, DeviceReport], list[str]]:
    notes = []
    if largest := micro.largest(Graph(data)):
        notes.append(
            "TFLite Micro unpacks a weight into RAM each time it is used; the largest "
            f"takes {largest / 1000:,.1f} KB."
        )
    if not tflm.installed():
        notes.append(
            "TFLite Micro is not installed: tflottery's own decoder unpacked the file, "
            "and other runtimes verified it. Try: pip install 'tflottery[micro]'"
        )
        return {}, notes
    files = {name: data, "unpacked": micro.unpack(data), f"{name}, dense": dense}
    file, unpacked, other = tflm.run(files)
    if file.digest != unpacked.digest:
        raise WrongFileError("TFLite Micro unpacks the weights of the file wrongly.")
    return {tflm.DEVICE: _report(tflm.DEVICE, tflm.tool(), [file, other])}, notes
