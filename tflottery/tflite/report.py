"""Report: what an export wrote, how close to ideal, and how it will run."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import rich.console
import rich.table

from tflottery.tflite.devices.report import DeviceReport
from tflottery.tflite.rewrite.sparsify import Stored
from tflottery.tflite.xnnpack.planner import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What `export_tflite` wrote. Sizes are in bytes; prints as a table.

    Attributes:
        path: Path of the file.
        target: Target of the file.
        quantize: "weights" if they are stored as int8, or None.
        bytes: Size of the file.
        gzip_bytes: Size after gzip -9, like a download.
        dense_float32_bytes: Size of the dense file that the converter writes.
        dense_int8_bytes: The same with all weights as dense int8.
        entropy_bound: Size of the remaining units in an ideal sparse format: the
            values, the entropy of their places, and everything else whole.
        bound_ratio: `bytes` over `entropy_bound`; None if the bound is 0.
        removed_units: Number of units removed because they change nothing.
        weights: How each weight is stored.
        operators: Number of operators of each kind.
        plans: Prediction of how XNNPACK on "x86", "arm" and "wasm" computes the file,
            and of what becomes of its weights in other runtimes.
        difference: Largest difference from the outputs of the model, as a share of its
            largest output, in any runtime.
        differences: The same per runtime.
        checked_on: What inputs the file and the model were compared on.
        agreement: Share of samples with the same largest output.
        load_ram: Bytes of memory that loading and a first call take; None if unknown.
        devices: What the tools of the target's devices say of the file, beside the same
            network with nothing pruned; empty if none is installed.
        warnings: What to know before using the file.
    """

    path: str
    target: str
    quantize: str | None
    bytes: int
    gzip_bytes: int
    dense_float32_bytes: int
    dense_int8_bytes: int
    entropy_bound: int
    bound_ratio: float | None
    removed_units: int
    weights: tuple[Stored, ...]
    operators: dict[str, int]
    plans: dict[str, Plan]
    difference: float
    differences: dict[str, float]
    checked_on: str
    agreement: float
    load_ram: int | None
    devices: dict[str, DeviceReport]
    warnings: tuple[str, ...]

    @property
    def sparsity(self) -> float:
        """Share of zeros among the values of the weights."""
        total = sum(math.prod(stored.shape) for stored in self.weights)
        nonzeros = sum(stored.nonzeros for stored in self.weights)
        return 1 - nonzeros / total if total else 0.0

    def to_json(self) -> str:
        """Returns every field as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def __str__(self) -> str:
        stream = io.StringIO()
        # In a notebook, a console would show itself beside the text.
        console = rich.console.Console(
            file=stream, width=88, color_system=None, force_jupyter=False, markup=False
        )
        for table in self._tables():
            console.print(table)
        for device in self.devices.values():
            console.print(str(device), highlight=False)
        for warning in self.warnings:
            console.print(f"Note: {warning}")
        return stream.getvalue().rstrip()

    def _tables(self) -> list[rich.table.Table]:
        ratio = f" (file: {self.bound_ratio:.2f}x)" if self.bound_ratio else ""
        dense = f"{_kb(self.dense_float32_bytes)} / {_kb(self.dense_int8_bytes)}"
        ram = "?" if self.load_ram is None else _kb(self.load_ram)
        rows = {
            "target": ", ".join(filter(None, (self.target, self.quantize))),
            "file": f"{_kb(self.bytes)} (gzip {_kb(self.gzip_bytes)})",
            "dense float32 / int8": dense,
            "entropy bound": _kb(self.entropy_bound) + ratio,
            "sparsity": f"{self.sparsity:.1%}, {self.removed_units} units removed",
            "largest difference": f"{self.difference:.2g} of the largest output",
            "checked on": self.checked_on,
            "same prediction": f"{self.agreement:.1%} of the samples",
            "memory when loaded": ram,
            "operators": ", ".join(f"{n} {c}" for n, c in self.operators.items()),
        }
        for name, plan in self.plans.items():
            rows[f"on {name}"] = ": ".join((plan.summary, *plan.reasons))
        summary = rich.table.Table(title=self.path, show_header=False)
        for row in rows.items():
            summary.add_row(*row)
        weights = rich.table.Table()
        for title in ("weight", "shape", "nonzeros", "stored as", "bytes"):
            right = title in ("nonzeros", "bytes")
            weights.add_column(title, justify="right" if right else "left")
        for stored in self.weights:
            weights.add_row(
                stored.name.rpartition(";")[0][-32:] or stored.name[-32:],
                "x".join(map(str, stored.shape)),
                f"{stored.nonzeros:,}",
                f"{stored.form} {stored.dtype}",
                f"{stored.bytes:,}",
            )
        return [summary, weights]


def _kb(size: int) -> str:
    return f"{size / 1000:,.1f} KB"
