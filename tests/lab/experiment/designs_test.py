"""Designs hold what the papers compared, and no cell twice."""

import dataclasses

import pytest

from tflottery.lab.experiment import design as design_lib
from tflottery.lab.experiment import designs

ALL = [design for presets in designs.DESIGNS.values() for design in presets.values()]


def test_the_papers_transfer_compares_every_arm_regime_and_head():
    paper = designs.design("sparse_transfer", "paper")
    trials = list(paper.trials(0))
    assert len(trials) == 4 * (1 + 15 * 5)
    assert {t.weights for t in trials if t.arm == "ticket"} == {
        "trained",
        "rewind",
        "initial",
    }
    assert {t.regime for t in trials} == {"fine_tuned", "frozen"}
    assert {t.head for t in trials} == {"linear", "two_layer"}
    # 20 % of what is left each round, as in the paper.
    assert paper.density(1) == pytest.approx(0.8, abs=0.01)


def test_the_figures_have_eight_densities_down_to_5_percent_and_five_arms():
    sanity = {("dense", "fresh"), ("dense", "longer"), ("layer_shuffled", "trained")}
    for name, seeds, more in (
        ("sparse_transfer", 3, sanity),
        ("few_shot_transfer", 3, sanity),
        ("lenet_transfer", 5, set()),
    ):
        figure = designs.design(name, "cpu")
        densities = [figure.density(number) for number in figure.rounds]
        assert len(densities) >= 6
        assert densities[-1] <= 0.05 + 1e-9
        assert figure.seeds == seeds
        trials = {(t.arm, t.weights) for t in figure.trials(0)}
        assert trials == more | {
            ("dense", "trained"),
            ("ticket", "trained"),
            ("ticket", "initial"),
            ("reinitialized", "fresh"),
            ("randomly_masked", "fresh"),
        }


def test_only_the_tickets_own_weights_and_dense_ones_are_frozen_with_every_head():
    trials = list(designs.design("sparse_transfer", "cpu").trials(0))
    targets = ("fashion_mnist_50", "fashion_mnist_500", "fashion_mnist_all")
    assert {t.target for t in trials} == set(targets)
    assert len(trials) == 3 * ((3 + 6 * 5) + 2 * (2 + 6))
    frozen = [t for t in trials if t.regime == "frozen"]
    assert {(t.arm, t.weights) for t in frozen} == {
        ("dense", "trained"),
        ("dense", "longer"),
        ("ticket", "trained"),
    }
    assert {t.head for t in frozen} == {"linear", "two_layer"}
    assert {t.head for t in trials if t.regime == "fine_tuned"} == {"linear"}


@pytest.mark.parametrize("design", ALL, ids=lambda d: f"{d.name}-{d.preset}")
def test_every_cell_has_a_name_of_its_own(design):
    names = [t.name for seed in range(2) for t in design.trials(seed)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", designs.DESIGNS)
def test_designs_that_smoke_need_no_download(name):
    smoke = designs.DESIGNS[name].get("smoke")
    if smoke is not None:
        assert smoke.source.dataset == "digits"
        assert all(target.dataset == "digits" for target in smoke.targets)


def test_an_arm_of_step_k_needs_a_rewind_step():
    paper = designs.design("sparse_transfer", "paper")
    source = dataclasses.replace(paper.source, rewind_step=0)
    with pytest.raises(ValueError, match=r"`arms` has 'rewind' .* rewind_step=0"):
        dataclasses.replace(paper, source=source)


def test_dense_is_trained_as_long_only_where_rounds_keep_their_weights():
    figure = designs.design("few_shot_transfer", "cpu")
    source = dataclasses.replace(figure.source, retrain="rewind")
    with pytest.raises(ValueError, match=r"`arms` has 'trained_longer'.*retrain='rew"):
        dataclasses.replace(figure, source=source)
    with pytest.raises(ValueError, match=r"'trained_longer'.*, 0 targets"):
        dataclasses.replace(figure, targets=())


def test_one_shot_searches_once_for_each_density():
    design = dataclasses.replace(
        designs.design("sparse_transfer", "paper"), one_shot=True, rounds=(3, 9)
    )
    found = design.searches(seed=2)
    assert [(search.name, search.prunings) for search in found] == [
        ("seed2-once03", 1),
        ("seed2-once09", 1),
    ]
    assert found[1].sparsity == pytest.approx(1 - design.density(9))
    assert design.ticket(2, 9) == "seed2-once09/rounds/001.ticket"
    assert design.ticket(2, 0) == "seed2-once03/rounds/000.ticket"


def test_a_comparison_of_costs_searches_once_for_all_densities_that_it_can():
    design = designs.design("cost_accuracy", "cpu")
    found = {search.name: search for search in design.searches(seed=1)}
    assert found["seed1-ticket15"].prunings == 15
    once = found["seed1-one_shot_rewound10"]
    assert once.prunings == 1
    assert once.sparsity == pytest.approx(0.903, abs=0.001)
    for name in design_lib.SEARCHES:
        searches = [s for s in found.values() if s.name.startswith(f"seed1-{name}")]
        own = "one_shot" in name or name == "settle"
        assert len(searches) == (4 if own else 1)
    settled = found["seed1-settle07"]
    assert settled.prunings == 7
    assert settled.sparsity == pytest.approx(1 - design.density(7))
    assert design.ticket(1, 7) == "seed1-ticket15/rounds/007.ticket"
    once = design.ticket_of("one_shot_rewound", 1, 15)
    assert once == "seed1-one_shot_rewound15/rounds/001.ticket"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("luck",)}, "`methods` must be one of ticket, .*'luck'"),
        ({"arms": ("best",)}, "`arms` must be one of trained, .*'best'"),
        ({"rounds": (0,)}, "`rounds` must be one of 1, 2.*Received: 0"),
        ({"heads": ("big",)}, "`heads` must be one of linear, two_layer"),
    ],
)
def test_a_design_that_cannot_be_run_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(designs.design("sparse_transfer", "cpu"), **changes)


@pytest.mark.parametrize(
    ("name", "preset", "message"),
    [
        ("sparse_transfr", "cpu", "one of sparse_transfer.*Did you mean"),
        ("lenet_mnist", "huge", "`preset` must be one of"),
    ],
)
def test_an_unknown_design_is_an_error_that_names_the_known(name, preset, message):
    with pytest.raises(ValueError, match=message):
        designs.design(name, preset)
