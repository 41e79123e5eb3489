"""Cells: rows are checked, then grouped into settings, curves and points."""

import math

import pytest

from tflottery.lab.report import results


def rows():
    def row(arm, weights, density, seed, **more):
        values = {"arm": arm, "weights": weights, "density": density, "seed": seed}
        return values | {"metric": 0.5} | more

    return [
        row("dense", "initial", 1.0, 0),
        row("dense", "trained", 1.0, 0, metric=0.9),
        row("ticket", "initial", 0.5, 0),
        row("ticket", "trained", 0.1000, 0, metric=0.7),
        row("ticket", "trained", 0.1004, 1, metric=math.nan),
        row("ticket", "trained", 0.5, 0, failure="diverged"),
        row("ticket", "trained", 0.08, 0),
        row("ticket", "trained", 0.5, 0, regime="frozen"),
    ]


def test_cells_are_grouped_into_settings_curves_and_points():
    tuned, frozen = results.settings(results.read(rows()))
    assert (tuned.regime, frozen.regime, frozen.dense) == (None, "frozen", None)
    assert tuned.dense is not None
    assert tuned.dense.by_seed("metric") == {0: 0.9}  # That of the trained weights.
    assert [(c.arm, c.weights) for c in tuned.curves] == [
        ("dense", "initial"),
        ("ticket", "initial"),
        ("ticket", "trained"),
    ]
    assert [c.weights for c in tuned.tickets] == ["trained", "initial"]
    dense_end, tenth, last = tuned.tickets[0].points
    assert (dense_end.failed, dense_end.cells) == ((0,), ())
    # Two densities that differ by rounding are one point; NaN is a failure.
    assert (tenth.density, tenth.failed) == (pytest.approx(0.1002), (1,))
    assert tenth.by_seed("metric") == {0: 0.7}
    assert last.density == 0.08


def test_the_ticket_at_density_1_is_dense_where_no_arm_is():
    found = [
        {"arm": "ticket", "density": d, "seed": 0, "metric": 0.8} for d in (0.5, 1.0)
    ]
    (setting,) = results.settings(results.read(found))
    assert setting.dense is not None
    assert setting.dense.density == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"density": 0}, r"rows\[1\].*`density` must be a number in \(0, 1\]"),
        ({"density": math.nan}, "`density` must be a number"),
        (
            {"seed": -1},
            "`seed` must be a whole number of at least 0. Received: seed=-1",
        ),
        ({"arm": None}, "`arm` must be a string"),
        ({"metric": "high"}, "`metric` must be a number, or None"),
        ({"density_per_layer": {"a": "b"}}, "`density_per_layer` must be a dict"),
    ],
)
def test_a_row_that_is_no_cell_is_an_error(changes, message):
    found = rows()
    found[1] |= changes
    with pytest.raises(ValueError, match=message):
        results.read(found)


@pytest.mark.parametrize("found", [None, {}, [1]])
def test_rows_that_are_no_list_of_objects_are_an_error(found):
    with pytest.raises(ValueError, match="rows must be a list of objects"):
        results.read(found)
