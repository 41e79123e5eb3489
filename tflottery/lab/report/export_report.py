"""Export report: what became of a ticket, on another task and as files, for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from tflottery.lab.report import drawing, page
from tflottery.lab.report.intervals import share
from tflottery.lab.report.page import Html, element
from tflottery.tflite import ExportReport

# A file's report, and its metrics as `evaluate_tflite` returns them.
Exported = tuple[ExportReport, Mapping[str, float]]


def student(accuracy: float) -> Html:
    """Returns what a transferred ticket reached.

    Args:
        accuracy: on the test images of its own task, in [0, 1].
    """
    return page.join(
        (
            element("h2", "Student"),
            element(
                "p",
                "Under a new head, with the same masks, the ticket was trained on the "
                f"other classes: test accuracy {share(accuracy)}.",
            ),
        )
    )


def exported(files: Sequence[Exported]) -> Html:
    """Returns the sizes, metrics and plans of one network's files, one or more."""
    notes = [
        element("li", f"{_kind(report)}: {warning}")
        for report, _ in files
        for warning in report.warnings
    ]
    return page.join(
        (
            element("h2", "Files"),
            page.figures([_sizes([report for report, _ in files])]),
            _table(files),
            element("ul", *notes) if notes else Html(),
        )
    )


def _kind(report: ExportReport) -> str:
    return report.target + (", int8 weights" if report.quantize else "")


def _sizes(reports: Sequence[ExportReport]) -> drawing.Picture:
    sizes = {
        "dense float32": reports[0].dense_float32_bytes,
        "dense int8 weights": reports[0].dense_int8_bytes,
        **{_kind(report): report.bytes for report in reports},
    }
    kilobytes = [size / 1000 for size in sizes.values()]

    def plot(axes: Any) -> None:
        ranges = [(size, size) for size in kilobytes]
        drawing.bars(axes, list(sizes), kilobytes, ranges)
        axes.set_xlabel("size (KB)")

    listed = ", ".join(f"{kind} {size:,}" for kind, size in sizes.items())
    return drawing.draw(
        plot,
        height=0.9 + 0.24 * len(sizes),
        alt=f"Bytes of the files: {listed}.",
        caption="Size of every file in KB, below those of the dense network.",
    )


def _table(files: Sequence[Exported]) -> Html:
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
    return page.table(
        [*head, "largest difference", *runtimes, "file"],
        rows,
        caption="Every file was run and compared with the network; the largest "
        "difference is a share of its largest output. The bound is what an ideal "
        "sparse format would take.",
        text=("made for", *runtimes, "file"),
    )
