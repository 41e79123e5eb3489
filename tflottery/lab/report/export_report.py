"""Export report: a ticket's student on another task, and its files, for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from tflottery import ExportReport
from tflottery.lab.report.page import Section, Table
from tflottery.showing import drawing
from tflottery.showing.drawing import share

# A file's report, and its metrics as `evaluate_tflite` returns them.
Exported = tuple[ExportReport, Mapping[str, float]]


def students(found: Mapping[str, tuple[float, float]]) -> Section:
    """Returns the section on the students of one transfer.

    `found` holds the density and the test accuracy of each by name, both in [0, 1]; the
    first is dense.
    """
    rows = [
        {
            "student": name,
            "left": share(density),
            "test accuracy (%)": f"{100 * accuracy:.2f}",
        }
        for name, (density, accuracy) in found.items()
    ]

    def plot(axes: Any) -> None:
        percents = {name: 100 * accuracy for name, (_, accuracy) in found.items()}
        drawing.bars(axes, {name: (n, n, n) for name, n in percents.items()})
        axes.set_xlabel("test accuracy (%)")

    listed = ", ".join(f"{name} {share(found[name][1])}" for name in found)
    figure = drawing.draw(
        plot,
        height=0.9 + 0.24 * len(found),
        alt=f"Test accuracy of the students: {listed}.",
        caption="Test accuracy on the new task. One seed: no interval, so no claim.",
    )
    caption = "The students: a new head on each network, trained in the same way"
    table = Table(caption, rows, ("student",))
    return Section(title="Transfer", table=table, figures=[figure])


def exported(files: Sequence[Exported]) -> Section:
    """Returns the section on one network's files: sizes, metrics and plans."""
    reports = [report for report, _ in files]
    runtimes = {name: f"on {name}" for name in reports[0].plans}
    rows = [
        {
            "made for": _kind(report),
            "bytes": f"{report.bytes:,}",
            "gzip": f"{report.gzip_bytes:,}",
            "of dense": share(report.bytes / report.dense_float32_bytes),
            "to the bound": report.bound_ratio and f"{report.bound_ratio:.2f}x",
            **{name: f"{value:.4f}" for name, value in metrics.items()},
            "largest difference": f"{report.difference:.2g}",
            "checked on": report.checked_on,
            **{title: report.plans[name].summary for name, title in runtimes.items()},
            "file": report.path,
        }
        for report, metrics in files
    ]
    caption = (
        "Each file was run and compared with the network; the largest difference is a "
        "share of the network's largest output. The bound is the size in an ideal "
        "sparse format."
    )
    text = ("made for", "checked on", *runtimes.values(), "file")
    return Section(
        title="Files",
        table=Table(caption, rows, text),
        figures=[_sizes(reports)],
        notes=[f"{_kind(r)}: {warning}" for r in reports for warning in r.warnings],
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
        kilobytes = {kind: size / 1000 for kind, size in sizes.items()}
        drawing.bars(axes, {kind: (n, n, n) for kind, n in kilobytes.items()})
        axes.set_xlabel("size (KB)")

    listed = ", ".join(f"{kind} {size:,}" for kind, size in sizes.items())
    return drawing.draw(
        plot,
        height=0.9 + 0.24 * len(sizes),
        alt=f"Bytes of the files: {listed}.",
        caption="Size of each file in KB, below the sizes of the dense network.",
    )
