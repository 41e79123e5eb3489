"""Pruning: exact counts, nested masks, ties in order, no layer emptied."""

import importlib.util
import pathlib
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tflottery.core import masks as masks_lib
from tflottery.core import plan, pruning

FOUR = np.ones(4, bool)


def half_up(x):
    """What "rounded half up" means for an x written in decimals."""
    return int(np.floor(round(x, 9) + 0.5))


def bits(mask):
    return mask.astype(int).tolist()


def test_the_lowest_scores_go():
    result = pruning.prune({"w": np.array([3.0, 1.0, 4.0, 2.0])}, {"w": FOUR}, 0.5)
    assert bits(result["w"]) == [1, 0, 1, 0]


def test_what_is_pruned_stays_pruned_however_high_its_score():
    mask = np.array([True, True, False, True])
    scores = {"w": np.array([3.0, 1.0, 9.0, 2.0])}
    assert bits(pruning.prune(scores, {"w": mask}, 1 / 3)["w"]) == [1, 0, 0, 1]
    assert bits(mask) == [1, 1, 0, 1]


def test_global_scope_ranks_all_layers_together():
    scores = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0, 5.0, 6.0])}
    masks = {"a": np.ones(2, bool), "b": FOUR}
    result = pruning.prune(scores, masks, 1 / 3, scope="layer")
    assert [bits(m) for m in result.values()] == [[0, 1], [0, 1, 1, 1]]
    with pytest.warns(UserWarning, match="would have emptied the layer 'a'"):
        result = pruning.prune(scores, masks, 1 / 3)
    assert [bits(m) for m in result.values()] == [[0, 1], [0, 1, 1, 1]]


def test_ties_are_kept_by_the_order_of_paths_then_by_flat_index():
    masks = {"b": np.ones((2, 2), bool), "a": FOUR}
    scores = {"a": np.zeros(4), "b": np.zeros((2, 2))}
    result = pruning.prune(scores, masks, 3 / 8)
    assert list(result) == ["b", "a"]
    assert bits(result["b"]) == [[1, 1], [1, 1]]
    assert bits(result["a"]) == [1, 0, 0, 0]


def test_one_of_five_equal_weights_is_pruned_when_one_is_asked_for():
    result = pruning.prune({"w": np.zeros(5)}, {"w": np.ones(5, bool)}, 0.2)
    assert bits(result["w"]) == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("left", "fraction", "kept"),
    [(5, 0.1, 5), (15, 0.9, 2), (1000, 0.2, 800), (2, 0.2, 2), (3, 0.5, 2)],
)
def test_counts_are_rounded_half_up(left, fraction, kept):
    scores = {"w": np.arange(left, dtype=float)}
    for scope in pruning.SCOPES:
        result = pruning.prune(
            scores, {"w": np.ones(left, bool)}, fraction, scope=scope
        )
        assert masks_lib.kept(result) == kept


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16, "int8", "bool"]
)
def test_scores_of_any_type_are_ranked(dtype):
    scores = {"w": np.array([1, 0, 1, 0]).astype(dtype)}
    assert bits(pruning.prune(scores, {"w": FOUR}, 0.5)["w"]) == [1, 0, 1, 0]


def test_scores_of_several_types_are_ranked_together():
    # In float16 both would be 1.0: the difference must be seen.
    scores = {
        "a": np.array([1.0], np.float16),
        "b": np.array([0.9999, 0.5], np.float32),
        "c": np.array([1.0001, 0.25]).astype(ml_dtypes.bfloat16),
    }
    masks = {path: np.ones(s.shape, bool) for path, s in scores.items()}
    result = pruning.prune(scores, masks, 0.4)
    assert [bits(m) for m in result.values()] == [[1], [1, 0], [1, 0]]


def test_infinite_scores_are_the_highest_and_the_lowest():
    scores = {"w": np.array([-np.inf, 1.0, np.inf, -np.inf])}
    assert bits(pruning.prune(scores, {"w": FOUR}, 0.5)["w"]) == [0, 1, 1, 0]
    assert bits(pruning.prune(scores, {"w": FOUR}, 0.25)["w"]) == [1, 1, 1, 0]


def test_a_rescued_weight_is_one_that_was_left():
    # All that is left in "a" scores -inf, as what is pruned there might.
    scores = {"a": np.full(4, -np.inf), "b": np.full(4, np.inf)}
    masks = {"a": np.array([False, False, True, True]), "b": FOUR}
    with pytest.warns(UserWarning, match="emptied the layer 'a'"):
        result = pruning.prune(scores, masks, 0.5)
    assert [bits(m) for m in result.values()] == [[0, 0, 1, 0], [1, 1, 0, 0]]


def test_an_emptied_layer_keeps_its_best_and_the_worst_kept_goes():
    scores = {"a": np.array([1.0, 2.0]), "b": np.array([5.0, 3.0, 4.0, 0.0])}
    masks = {"a": np.ones(2, bool), "b": FOUR}
    with pytest.warns(
        UserWarning,
        match="Pruning would have emptied the layer 'a', so its best weight was kept. "
        "Use",
    ):
        result = pruning.prune(scores, masks, 0.5)
    assert [bits(m) for m in result.values()] == [[0, 1], [1, 0, 1, 0]]


def test_of_equal_weights_the_last_in_order_makes_room():
    scores = {"a": np.zeros(1), "b": np.ones(2), "c": np.ones(2)}
    masks = {path: np.ones(score.shape, bool) for path, score in scores.items()}
    with pytest.warns(UserWarning, match="emptied the layer 'a'"):
        result = pruning.prune(scores, masks, 0.2)
    assert [bits(m) for m in result.values()] == [[1], [1, 1], [1, 0]]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_last_weight_of_a_layer_stays_with_a_warning(scope):
    with pytest.warns(UserWarning, match="emptied the layer 'only'"):
        result = pruning.prune(
            {"only": np.array([1.0])}, {"only": np.ones(1, bool)}, 0.9, scope=scope
        )
    assert bits(result["only"]) == [1]


def test_where_no_layer_can_give_each_keeps_one():
    scores = {path: np.array([1.0]) for path in "abc"}
    masks = {path: np.ones(1, bool) for path in "abc"}
    with pytest.warns(UserWarning, match="emptied the layer") as caught:
        result = pruning.prune(scores, masks, 0.6)
    assert masks_lib.kept(result) == 3
    assert len(caught) == 2  # The first in order won the only place.


def test_a_layer_that_was_empty_before_stays_so_without_a_warning():
    scores = {"a": np.ones(2), "b": np.arange(4.0), "c": np.ones((0, 3))}
    masks = {"a": np.zeros(2, bool), "b": FOUR, "c": np.ones((0, 3), bool)}
    for scope in pruning.SCOPES:
        result = pruning.prune(scores, masks, 0.5, scope=scope)
        assert bits(result["a"]) == [0, 0]
        assert bits(result["b"]) == [0, 0, 1, 1]
        assert result["c"].shape == (0, 3)


def test_no_masks_give_no_masks():
    for scope in pruning.SCOPES:
        assert pruning.prune({}, {}, 0.5, scope=scope, target_density=0.1) == {}


def test_layer_fractions_prune_their_layers_alone():
    scores = {"head/kernel": np.arange(10.0), "body/kernel": np.arange(10.0) - 100}
    masks = {path: np.ones(10, bool) for path in scores}
    result = pruning.prune(scores, masks, 0.5, layer_fractions={"head": 0.1, "*": 0.3})
    assert masks_lib.kept({"h": result["head/kernel"]}) == 9
    assert masks_lib.kept({"b": result["body/kernel"]}) == 7


def test_the_target_density_is_met_exactly():
    masks = {path: np.ones(7, bool) for path in "abc"}
    scores = {path: np.arange(7.0) for path in masks}
    for scope in pruning.SCOPES:
        result = pruning.prune(scores, masks, 0.9, scope=scope, target_density=10 / 21)
        assert masks_lib.kept(result) == 10, scope


def test_the_target_is_met_exactly_by_many_small_layers():
    masks = {f"{i:03d}": np.ones(2, bool) for i in range(100)}
    scores = {path: np.array([1.0, 2.0]) for path in masks}
    result = pruning.prune(scores, masks, 0.5, scope="layer", target_density=0.75)
    assert masks_lib.kept(result) == 150


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), "0.5", None, True])
def test_a_fraction_out_of_range_is_an_error(fraction):
    with pytest.raises(ValueError, match=r"`fraction` must be in \(0, 1\), both ends"):
        pruning.prune({"w": np.ones(4)}, {"w": FOUR}, fraction)
    with pytest.raises(ValueError, match=r"`layer_fractions\['w'\]` must be in"):
        pruning.prune(
            {"w": np.ones(4)}, {"w": FOUR}, 0.5, layer_fractions={"w": fraction}
        )


def test_an_unknown_scope_is_an_error():
    with pytest.raises(ValueError, match=r"`scope` must be one of .*scope='all'"):
        pruning.prune({"w": np.ones(4)}, {"w": FOUR}, 0.5, scope="all")


def test_nan_is_an_error_that_names_the_layer():
    scores = {"a": np.ones(4), "dense/kernel": np.array([1, np.nan, 2, np.inf])}
    masks = {"a": FOUR, "dense/kernel": FOUR}
    for dtype in ("float16", "float32", ml_dtypes.bfloat16):
        typed = {path: s.astype(dtype) for path, s in scores.items()}
        message = "'dense/kernel' contain NaN: training div"
        with pytest.raises(ValueError, match=message):
            pruning.prune(typed, masks, 0.5)


def test_nan_where_all_is_pruned_already_does_not_matter():
    mask = np.array([True, False, True, True])
    scores = {"w": np.array([1.0, np.nan, 2.0, 3.0])}
    assert bits(pruning.prune(scores, {"w": mask}, 1 / 3)["w"]) == [0, 0, 1, 1]


def test_scores_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match=r"The scores lack 'w'.*It scored: v\."):
        pruning.prune({"v": np.ones(4)}, {"w": FOUR}, 0.5)
    with pytest.raises(ValueError, match=r"'w' have shape \(5,\), but the weight has"):
        pruning.prune({"w": np.ones(5)}, {"w": FOUR}, 0.5)
    with pytest.raises(ValueError, match=r"must return a dict.*Received: NoneType"):
        pruning.prune(None, {"w": FOUR}, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("block/conv1/kernel", "block", True),
        ("block/conv1/kernel", "block/conv1", True),
        ("block/conv1/kernel", "block/conv1/kernel", True),
        ("block/conv1/kernel", "conv1", False),
        ("block/conv1/kernel", "*/conv1", True),
        ("block/conv1/kernel", "*kernel", True),
        ("conv12/kernel", "conv1", False),
        ("conv12/kernel", "conv[0-9][0-9]", True),
        ("Conv1/kernel", "conv1", False),
        ("conv1/kernel", "", False),
    ],
)
def test_a_pattern_names_the_weight_or_a_layer_above(path, pattern, expected):
    assert plan.matches(path, pattern) is expected


def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_paths():
    message = "has the pattern 'hed', which matches no prunable weight. .* a/k, head/k"
    with pytest.raises(ValueError, match=f"`skip` {message}"):
        plan.check_patterns("skip", ["a", "hed"], ["a/k", "head/k"])
    masks = {"a/k": FOUR, "head/k": FOUR}
    with pytest.raises(ValueError, match=f"`layer_fractions` {message}"):
        pruning.prune(
            {path: np.ones(4) for path in masks},
            masks,
            0.5,
            layer_fractions={"hed": 0.1},
        )


@st.composite
def problems(draw):
    """Layers with masks, and scores with many ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(
        st.lists(
            st.lists(st.integers(0, 6), min_size=0, max_size=3).map(tuple),
            min_size=1,
            max_size=5,
        )
    )
    dtype = draw(
        st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
    )
    distinct = draw(st.integers(1, 30))
    keep = draw(st.floats(0.0, 1.0))
    masks = {
        f"layer{i}/kernel": np.asarray(rng.random(shape) <= keep)
        for i, shape in enumerate(shapes)
    }
    scores = {
        path: np.asarray(rng.integers(0, distinct, mask.shape)).astype(dtype)
        for path, mask in masks.items()
    }
    return scores, masks


@settings(max_examples=200, deadline=None)
@given(
    problems(),
    st.floats(0.01, 0.99),
    st.sampled_from(pruning.SCOPES),
    st.one_of(st.none(), st.floats(0.01, 0.99)),
    st.floats(0.0, 0.99),
)
def test_masks_are_nested_and_counts_exact(problem, fraction, scope, own, target):
    scores, masks = problem
    layer_fractions = {} if own is None else {"layer0": own}
    before = {path: mask.copy() for path, mask in masks.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = pruning.prune(
            scores,
            masks,
            fraction,
            scope=scope,
            layer_fractions=layer_fractions,
            target_density=target,
        )
    assert list(result) == list(masks)
    assert masks_lib.is_nested(result, masks)
    assert all(np.array_equal(masks[p], before[p]) for p in masks)
    left = {path: int(mask.sum()) for path, mask in masks.items()}
    kept = {path: int(mask.sum()) for path, mask in result.items()}
    assert all((kept[p] > 0) == (left[p] > 0) for p in masks)

    groups = [[path] for path in masks] if scope == "layer" else [list(masks)]
    if own is not None and scope != "layer":
        groups = [["layer0/kernel"], [p for p in masks if p != "layer0/kernel"]]
    rates = [
        own if own is not None and group == ["layer0/kernel"] else fraction
        for group in groups
    ]
    expected = [
        max(
            half_up(sum(left[p] for p in group) * (1 - rate)),
            sum(1 for p in group if left[p]),
        )
        for group, rate in zip(groups, rates, strict=True)
    ]
    at_least = int(np.floor(target * masks_lib.size(masks) + 0.5))
    if sum(expected) >= at_least:
        sums = [sum(kept[p] for p in group) for group in groups]
        assert sums == expected
    else:
        assert sum(kept.values()) == min(at_least, sum(left.values()))


@settings(max_examples=200, deadline=None)
@given(problems(), st.floats(0.01, 0.99))
def test_a_kept_weight_never_scores_below_a_pruned_one(problem, fraction):
    scores, masks = problem
    with warnings.catch_warnings(record=True) as rescued:
        warnings.simplefilter("always")
        result = pruning.prune(scores, masks, fraction)
    if rescued:
        return
    flat = [
        (-float(score), order, index, bool(result[path].reshape(-1)[index]))
        for order, path in enumerate(masks)
        for index, score in enumerate(scores[path].reshape(-1))
        if masks[path].reshape(-1)[index]
    ]
    kept = [keep for *_, keep in sorted(flat)]
    assert kept == sorted(kept, reverse=True)


def test_pruning_takes_at_most_three_times_the_weights_memory():
    source = pathlib.Path(__file__).absolute().parents[2] / "benchmarks/pruning.py"
    spec = importlib.util.spec_from_file_location("benchmark", source)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    # A quarter of ResNet-50's width: 2 million weights.
    _, extra, with_scores = benchmark.measure(16, trace=True)
    assert extra <= 2
    assert with_scores <= 3
