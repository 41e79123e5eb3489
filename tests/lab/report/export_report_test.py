"""Parts of a page: a student and its files, said as they are and never as code."""

import base64

from tflottery.lab.report import export_report, page
from tflottery.tflite import ExportReport
from tflottery.tflite.xnnpack.planner import Plan

EVIL = "<script>alert(1)</script>"


def report(**more):
    plan = Plan(paths=(("CONV_2D", "dense"), ("FULLY_CONNECTED", "sparse")), reasons=())
    fields = {
        "path": f"{EVIL}.tflite",
        "target": "size",
        "quantize": None,
        "bytes": 1_500,
        "gzip_bytes": 1_400,
        "dense_float32_bytes": 20_000,
        "dense_int8_bytes": 5_000,
        "entropy_bound": 1_200,
        "bound_ratio": 1.25,
        "removed_units": 0,
        "weights": (),
        "operators": {"CONV_2D": 1},
        "plans": {"x86": plan, "arm": plan},
        "difference": 0.0,
        "differences": {"litert": 0.0},
        "checked_on": "8 random inputs",
        "agreement": 1.0,
        "load_ram": None,
        "devices": {},
        "warnings": (),
    }
    return ExportReport(**{**fields, **more})


def render(section):
    return page.render("title", "headline", [section]).decode()


def test_files_are_listed_with_their_sizes_beside_dense():
    small = report(quantize="weights", bytes=900, bound_ratio=None, warnings=(EVIL,))
    files = [(report(), {"accuracy": 0.9}), (small, {"a": 0.8})]
    html = render(export_report.exported(files))
    assert "1,500" in html
    assert "7.5\N{NO-BREAK SPACE}%" in html
    assert "1.25x" in html
    assert "1 ops dense, 1 ops sparse" in html
    assert "dense float32 20,000, dense int8 weights 5,000, size 1,500, " in html
    assert "size, int8 weights 900" in html
    svg = base64.b64decode(html.split("base64,")[1].split('"')[0])
    assert svg.startswith(b"<?xml")


def test_what_comes_from_a_file_is_text():
    files = [(report(warnings=(EVIL,)), {EVIL: 1.0})]
    html = render(export_report.exported(files))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 3


def test_students_stand_side_by_side_with_their_accuracy():
    html = render(export_report.students({"dense": (1.0, 0.98), EVIL: (0.07, 0.975)}))
    assert "7.0\N{NO-BREAK SPACE}%" in html
    assert ">97.50<" in html
    assert "<script" not in html
