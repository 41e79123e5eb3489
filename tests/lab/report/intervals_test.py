"""Statistics: intervals, verdicts and choices, on numbers worked by hand."""

import dataclasses
import math

import pytest

from tflottery.lab.report import intervals, results
from tflottery.lab.report.intervals import Comparison, Interval

# Student's t at 0.975, from a table.
T = {1: 12.706, 2: 4.303, 4: 2.776}


def cell(arm, seed, metric, *, density=1.0, **more):
    return results.Cell(arm=arm, seed=seed, density=density, metric=metric, **more)


def point(density, metrics, validation=None, arm="ticket", failed=()):
    """Returns a point with one cell per metric, seeds 0, 1, 2, ..."""
    validation = validation or metrics
    return results.Point(
        density,
        tuple(
            cell(arm, seed, metric, density=density, val_metric=val)
            for seed, (metric, val) in enumerate(zip(metrics, validation, strict=True))
        ),
        failed,
    )


def curve(*points):
    return results.Curve("ticket", "trained", points)


DENSE = point(1.0, [0.90, 0.91, 0.92], arm="dense")


def shifted(density, test, validation=None, spread=0.001):
    """Returns a ticket so much better than DENSE, with differences ± `spread`."""
    dense = [0.90, 0.91, 0.92]
    noise = [-spread, 0.0, spread]

    def values(shift):
        return [d + shift + n for d, n in zip(dense, noise, strict=True)]

    return point(
        density, values(test), values(test if validation is None else validation)
    )


@pytest.mark.parametrize(
    ("values", "mean", "half"),
    [
        # s = 0.1, half = t(2) * 0.1 / sqrt(3).
        ([0.1, 0.2, 0.3], 0.2, T[2] * 0.1 / math.sqrt(3)),
        # s = sqrt(2) * 0.1, half = t(1) * 0.1.
        ([0.1, 0.3], 0.2, T[1] * 0.1),
        # s = sqrt(10 / 4) = 1.5811.
        ([1, 2, 3, 4, 5], 3, T[4] * math.sqrt(2.5) / math.sqrt(5)),
    ],
)
def test_an_interval_is_students_t(values, mean, half):
    found = intervals.interval(values)
    assert found.mean == pytest.approx(mean)
    assert found.half == pytest.approx(half, rel=1e-3)
    assert found.count == len(values)
    assert (found.lower, found.upper) == pytest.approx(
        (mean - half, mean + half), rel=1e-3
    )


def test_one_seed_has_no_interval_and_never_wins():
    found = intervals.interval([0.5])
    assert found == Interval(0.5, None, 1)
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert not intervals.is_winning(found, tolerance=1.0)


def test_equal_differences_have_an_interval_without_width():
    # 0.1 + 0.1 + 0.1 is not 0.3 in floats, but equal values have no deviation.
    assert intervals.interval([0.1, 0.1, 0.1]).half == 0
    assert intervals.interval([0.1, 0.1, 0.1]).is_flat
    assert not intervals.is_winning(intervals.interval([0.1, 0.1]))
    dense = point(1.0, [0.8, 0.9], arm="dense")
    choice = intervals.choose(curve(point(0.1, [0.9, 1.0])), dense)
    assert choice is not None
    assert intervals.headline(choice) == (
        "Not settled by 2 seeds, which all differ by the same: the ticket with 10.0 % "
        "of the weights differs from dense by +10.0 ± 0.0 points (tolerance 0 points)."
    )


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_an_interval_of_nothing_or_of_nan_is_an_error(values):
    with pytest.raises(ValueError, match="`values` must hold at least one number"):
        intervals.interval(values)


def test_pairing_takes_out_what_seeds_share():
    # The seeds differ by 10 points, the ticket by 0.4 ± 0.25 from its own dense.
    dense = {0: 0.70, 1: 0.80, 2: 0.90}
    ticket = {0: 0.703, 1: 0.804, 2: 0.905}
    found = intervals.paired(ticket, dense)
    assert found is not None
    assert found.mean == pytest.approx(0.004)
    assert found.half == pytest.approx(T[2] * 0.001 / math.sqrt(3), rel=1e-3)
    assert intervals.is_winning(found)
    apart = intervals.interval(ticket.values())
    assert apart.half is not None
    assert apart.half > 0.2


@pytest.mark.parametrize(
    ("mean", "half", "tolerance", "winning", "verdict"),
    [
        (0.004, 0.002, 0.0, True, "beats"),
        (0.004, 0.002, 0.005, True, "beats"),
        (0.001, 0.002, 0.005, True, "ties"),
        (-0.002, 0.001, 0.005, True, "ties"),
        (-0.002, 0.003, 0.005, True, "ties"),  # Its lower end is the tolerance.
        (-0.002, 0.0031, 0.005, False, "not settled"),
        (0.001, 0.002, 0.0, False, "not settled"),
        # The interval reaches -tolerance, but that is no confidence in winning.
        (-0.006, 0.002, 0.005, False, "not settled"),
        (-0.008, 0.002, 0.005, False, "falls short"),
        (0.01, 0.0, 0.0, False, "no spread: no interval"),
        (0.5, None, 0.005, False, "1 seed: no interval"),
    ],
)
def test_winning_is_not_below_the_tolerance_with_confidence(
    mean, half, tolerance, winning, verdict
):
    difference = Interval(mean, half, 1 if half is None else 3)
    found = Comparison(density=0.1, test=difference, validation=None)
    assert intervals.is_winning(difference, tolerance) is winning
    assert intervals.verdict(found, tolerance) == verdict


def test_an_arm_that_failed_with_a_seed_wins_nowhere():
    good = Comparison(density=0.1, test=Interval(0.01, 0.001, 3), validation=None)
    assert intervals.verdict(good) == "beats"
    failed = dataclasses.replace(good, failed=(3,))
    assert intervals.verdict(failed) == "not settled"
    assert intervals.headline(intervals.Choice(failed, "winning")) == (
        "Not settled by 3 seeds, and 1 failed: the ticket with 10.0 % of the weights "
        "differs from dense by +1.0 ± 0.1 points (tolerance 0 points)."
    )


def test_missing_and_failed_pairs_are_counted_and_left_out():
    ticket = results.Point(
        0.1, (cell("ticket", 0, 0.95), cell("ticket", 5, 0.1)), failed=(1,)
    )
    found = intervals.compare(ticket, DENSE)
    assert found.test is not None
    assert (found.test.mean, found.test.count) == (pytest.approx(0.05), 1)
    assert found.failed == (1,)
    assert found.missing == (2, 5)
    assert found.validation is None


def test_no_pair_is_no_comparison():
    found = intervals.compare(point(0.1, []), DENSE)
    assert found.test is None
    assert intervals.verdict(found) == "no pair"
    assert intervals.choose(curve(point(0.1, [])), DENSE) is None
    assert intervals.choose(curve(shifted(0.1, 0.1)), None) is None


def test_the_smallest_density_that_wins_on_validation_is_chosen():
    arm = curve(shifted(0.5, 0.004), shifted(0.2, 0.004), shifted(0.1, -0.02))
    choice = intervals.choose(arm, DENSE)
    assert choice is not None
    assert (choice.comparison.density, choice.how) == (0.2, "winning")


def test_the_test_accuracy_chooses_nothing():
    # At 0.1 the ticket is best on the test set, and worst on validation.
    arm = curve(
        shifted(0.5, -0.02, validation=0.004), shifted(0.1, 0.05, validation=-0.02)
    )
    choice = intervals.choose(arm, DENSE)
    assert choice is not None
    assert choice.comparison.density == 0.5
    assert intervals.headline(choice) == (
        "The ticket with 50.0 % of the weights, the smallest that wins on validation, "
        "is 2.0 ± 0.2 points below dense on the test set."
    )


def test_the_best_on_validation_is_chosen_where_none_wins():
    arm = curve(shifted(0.5, -0.02), shifted(0.2, -0.013), shifted(0.1, -0.04))
    choice = intervals.choose(arm, DENSE, tolerance=0.005)
    assert choice is not None
    assert choice.how == "best"
    # s = 0.001, half = 4.303 * 0.001 / sqrt(3) = 0.0025.
    assert intervals.headline(choice, 0.005) == (
        "No ticket reaches dense: the ticket with 20.0 % of the weights, the best on "
        "validation, is 1.3 ± 0.2 points below."
    )


def test_a_density_where_a_seed_failed_is_chosen_last():
    failed = dataclasses.replace(shifted(0.1, 0.01), failed=(3,))
    fewer = point(0.05, [0.95, 0.96])
    arm = curve(shifted(0.5, 0.004), failed, fewer)
    choice = intervals.choose(arm, DENSE)
    assert choice is not None
    assert choice.comparison.density == 0.5
    only = intervals.choose(curve(failed), DENSE)
    assert only is not None
    assert only.comparison.density == 0.1


def test_without_validation_accuracies_the_smallest_density_is_chosen():
    bare = [
        dataclasses.replace(
            p, cells=tuple(dataclasses.replace(c, val_metric=None) for c in p.cells)
        )
        for p in (shifted(0.5, 0.01), shifted(0.1, -0.01))
    ]
    choice = intervals.choose(curve(*bare), DENSE)
    assert choice is not None
    assert (choice.comparison.density, choice.how) == (0.1, "smallest")
    assert intervals.headline(choice).startswith("The ticket with 10.0 % of")


def test_one_seed_makes_no_claim():
    dense = point(1.0, [0.9])
    arm = curve(point(0.5, [0.95]), point(0.1, [0.91]), point(0.05, [0.5]))
    choice = intervals.choose(arm, dense)
    assert choice is not None
    assert intervals.headline(choice) == (
        "1 seed: no interval. The ticket with 10.0 % of the weights differs from dense "
        "by +1.0 points; that is no claim."
    )


def test_the_headlines_of_a_winner():
    # s = 0.0008, half = 4.303 * 0.0008 / sqrt(3) = 0.0020.
    beats = intervals.choose(curve(shifted(0.0687, 0.004, spread=0.0008)), DENSE)
    assert intervals.headline(beats) == (
        "The ticket with 6.9 % of the weights beats dense by 0.4 ± 0.2 points."
    )
    ties = intervals.choose(curve(shifted(0.0687, -0.001)), DENSE, 0.005)
    assert intervals.headline(ties, 0.005) == (
        "The ticket with 6.9 % of the weights ties with dense: a difference of "
        "-0.1 ± 0.2 points (tolerance 0.5 points)."
    )
    assert intervals.headline(None) == (
        "Nothing to compare yet: no seed has both a ticket and a dense network."
    )
