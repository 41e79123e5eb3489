"""Export report: a ticket's student on another task, and its files, for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from tflottery import ExportReport
from tflottery.lab.report import drawing
from tflottery.lab.report.intervals import share
from tflottery.lab.report.page import Section, Table

# A file's report, and its metrics as `evaluate_tflite` returns them.
Exported = tuple[ExportReport, Mapping[str, float]]


def student(accuracy: float) -> Section:
    """Returns the section on a transferred ticket.

    Args:
        accuracy: Test accuracy on its own task, in [0, 1].
    """
    return Section(
        title="Student",
        text="With a new head and the same masks, the ticket was trained on the other "
        f"classes: test accuracy {share(accuracy)}.",
    )


def exported(files: Sequence[Exported]) -> Section:
    """Returns the section on one network's files: sizes, metrics and plans."""
    return Section(
        title="Files",
        table=_table(files),
        figures=[_sizes([report for report, _ in files])],
        notes=[
            f"{_kind(report)}: {warning}"
            for report, _ in files
            for warning in report.warnings
        ],
    )


def _kind(report: ExportReport) -> str:
    return report.target + (", int8 weights" if report.quantize else "")


def _sizes(reports: Sequence[ExportReport]) -> drawing.Picture:
    sizes = {
        "dense float32": reports[0].dense_float32_bytes,
        "dense int8 weights": reports[0].dense_int8_bytes,
        **{_kind(report): report.bytes for report in reports},
    }

    def plot(axes: Any) -> None:
        kilobytes = [size / 1000 for size in sizes.values()]
        drawing.bars(axes, list(sizes), kilobytes)
        axes.set_xlabel("size (KB)")

    listed = ", ".join(f"{kind} {size:,}" for kind, size in sizes.items())
    return drawing.draw(
        plot,
        height=0.9 + 0.24 * len(sizes),
        alt=f"Bytes of the files: {listed}.",
        caption="Size of each file in KB, below the sizes of the dense network.",
    )


def _table(files: Sequence[Exported]) -> Table:
    first, metrics = files[0]
    runtimes = [f"on {name}" for name in first.plans]
    head = ["made for", "bytes", "gzip", "of dense", "to the bound", *metrics]
    rows = [
        [
            _kind(report),
            f"{report.bytes:,}",
            f"{report.gzip_bytes:,}",
            share(report.bytes / report.dense_float32_bytes),
            None if report.bound_ratio is None else f"{report.bound_ratio:.2f}x",
            *(f"{value:.4f}" for value in found.values()),
            f"{report.difference:.2g}",
            *(plan.summary for plan in report.plans.values()),
            report.path,
        ]
        for report, found in files
    ]
    return Table(
        head=[*head, "largest difference", *runtimes, "file"],
        rows=rows,
        caption="Each file was run and compared with the network; the largest "
        "difference is a share of the network's largest output. The bound is the size "
        "in an ideal sparse format.",
        text=("made for", *runtimes, "file"),
    )
