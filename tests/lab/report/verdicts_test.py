"""Verdicts say of each claim what the arms show, in one sentence."""

import pytest

from tflottery.lab.report import figures, results, verdicts


def row(arm, weights, density, values, **more):
    return [
        {
            "arm": arm,
            "weights": weights,
            "density": density,
            "seed": seed,
            "metric": value / 100,
            "val_metric": value / 100,
            "val_metrics": [0.5, value / 100],
            "steps": 100,
            "regime": "fine_tuned",
        }
        | more
        for seed, value in enumerate(values)
    ]


ROWS = [
    *row("dense", "trained", 1, (90, 91, 92)),
    *row("dense", "fresh", 1, (80, 81, 82)),
    *row("dense", "longer", 1, (85.1, 86.2, 87)),
    *row("ticket", "trained", 0.2, (90.1, 91.1, 92.0)),
    *row("ticket", "trained", 0.05, (86.1, 87.0, 88.0)),
    *row("layer_shuffled", "trained", 0.05, (82, 83.1, 84)),
    *row("ticket", "initial", 0.05, (80, 83, 81)),
    *row("reinitialized", "fresh", 0.05, (81, 82, 81)),
]
FROZEN = [
    *row("dense", "trained", 1, (70, 71, 72), regime="frozen"),
    *row("ticket", "trained", 0.05, (50, 51.2, 52), regime="frozen"),
]


def judged(rows, tolerance=0.005):
    settings = results.settings(results.read(rows))
    return dict(verdicts.verdicts(settings, tolerance, lambda settings, setting: ""))


def test_each_claim_has_a_sentence_with_its_interval():
    found = judged(ROWS + FROZEN)
    assert found == {
        "θT equals pretrained dense": (
            "down to 20.0 % left (+0.1 ± 0.1 points at 20.0 %, "
            "-4.0 ± 0.1 points at 5.0 %)."
        ),
        "θT equals dense trained as long as the last θT": (
            "down to 5.0 % left (+0.9 ± 0.3 points at 5.0 %)."
        ),
        "θT less dense from scratch": ("+6.0 ± 0.1 points at 5.0 %, ahead."),
        "θT less its layer-shuffled twin": ("+4.0 ± 0.2 points at 5.0 %, ahead."),
        "θ0 less re-initialized": "+0.0 ± 2.5 points at 5.0 %, not settled.",
        "Steps until as good as dense on validation": "never at 5.0 %.",
        "Frozen, θT equals dense": (
            "not shown at any density (-19.9 ± 0.3 points at 5.0 %)."
        ),
    }


def test_one_seed_settles_nothing():
    found = judged([r for r in ROWS if r["seed"] == 0])
    claim = "θT equals pretrained dense"
    assert found[claim] == "1 seed, no interval (-3.9 points at 5.0 %)."


def test_steps_are_counted_to_the_first_epoch_that_is_as_good_as_dense_at_its_end():
    rows = row("dense", "trained", 1, (90, 91)) + row("dense", "fresh", 1, (80, 81))
    rows += row("ticket", "trained", 0.05, (89, 92))
    late = rows[4]
    late["val_metrics"] = [0.896, 0.89]
    found = judged(rows)["Steps until as good as dense on validation"]
    assert found == "75, dense 100 at 5.0 %."
    late["val_metrics"] = [0.5, 0.6]
    found = judged(rows)["Steps until as good as dense on validation"]
    assert found == "100, dense 100 (never with 1 of 2 seeds) at 5.0 %."


def test_experiments_without_dense_from_scratch_have_no_verdicts():
    assert not judged([r for r in ROWS if r["weights"] != "fresh"])


def test_the_gain_starts_with_the_pretrained_dense_network():
    pytest.importorskip("matplotlib")
    picture = figures.gain(results.settings(results.read(ROWS + FROZEN)))
    assert picture is not None
    assert "all images +10.0 at 100 %, +6.0 at 5.0 %" in picture.alt
    assert figures.gain(results.settings(results.read(FROZEN))) is None
