"""The report of an export: what was written, how far from ideal, and what to expect."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import rich.console
import rich.table

from tflottery.tflite.rewrite.sparsify import Stored
from tflottery.tflite.xnnpack.planner import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What `export_tflite` wrote. Sizes are in bytes; prints as a table.

    Attributes:
      path: The file.
      target: What the file was made for.
      quantize: How the weights are stored: None is as the target says.
      bytes: The file's size.
      gzip_bytes: Its size after gzip -9, as a download would be.
      dense_float32_bytes: The converter's own dense file of the same model.
      dense_int8_bytes: The same with every weight as dense int8.
      entropy_bound: Values, the entropy of their places, and all else whole: what an
        ideal sparse format would take for the units that are left.
      bound_ratio: `bytes` over `entropy_bound`; None if nothing needs to be stored.
      removed_units: Units that the clean-up removed.
      weights: How each weight is stored.
      operators: How many operators of each kind the file has.
      plans: The path predicted in each runtime: "x86", "arm", "wasm".
      difference: The largest output difference to the model, as a share of its largest
        output, over all runtimes that the file was run in.
      differences: The same per runtime.
      agreement: Share of samples with the same largest output.
      load_ram: Bytes of memory that loading and a first call take; None if unknown.
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
    agreement: float
    load_ram: int | None
    warnings: tuple[str, ...]

    @property
    def sparsity(self) -> float:
        """Share of the weights' values that are zero."""
        total = sum(_size(stored.shape) for stored in self.weights)
        nonzeros = sum(stored.nonzeros for stored in self.weights)
        return 1 - nonzeros / total if total else 0.0

    def to_json(self) -> str:
        """Returns every field as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def __str__(self) -> str:
        stream = io.StringIO()
        console = rich.console.Console(file=stream, width=88, color_system=None)
        for table in self._tables():
            console.print(table)
        for warning in self.warnings:
            console.print(f"Note: {warning}")
        return stream.getvalue().rstrip()

    def _tables(self) -> list[Any]:
        summary = rich.table.Table(title=self.path, show_header=False)
        for name, value in (
            ("target", f"{self.target}" + (f", {self.quantize}" * bool(self.quantize))),
            ("file", f"{_kb(self.bytes)} (gzip {_kb(self.gzip_bytes)})"),
            ("dense float32 / int8", _pair(self)),
            (
                "entropy bound",
                _kb(self.entropy_bound)
                + (f" (file: {self.bound_ratio:.2f}x)" if self.bound_ratio else ""),
            ),
            ("sparsity", f"{self.sparsity:.1%}, {self.removed_units} units removed"),
            ("largest difference", f"{self.difference:.2g} of the largest output"),
            ("same prediction", f"{self.agreement:.1%} of the samples"),
            (
                "memory when loaded",
                "?" if self.load_ram is None else _kb(self.load_ram),
            ),
            ("operators", ", ".join(f"{n} {c}" for n, c in self.operators.items())),
            *((f"on {name}", plan.summary) for name, plan in self.plans.items()),
        ):
            summary.add_row(name, value)
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


def _pair(report: ExportReport) -> str:
    return f"{_kb(report.dense_float32_bytes)} / {_kb(report.dense_int8_bytes)}"


def _kb(size: int) -> str:
    return f"{size / 1000:,.1f} KB"


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
