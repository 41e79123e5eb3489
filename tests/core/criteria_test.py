"""Criteria: each on four hand-worked weights."""

import numpy as np

from tflottery.core import criteria, pruning

TRAINED = {"w": np.array([-3.0, 0.5, 2.0, -1.0], np.float32)}
REWIND = {"w": np.array([1.0, -2.0, 2.5, 0.0], np.float32)}


def test_magnitude_scores_by_the_trained_weights_size():
    assert criteria.magnitude(TRAINED, REWIND)["w"].tolist() == [3, 0.5, 2, 1]


def test_magnitude_increase_scores_by_growth():
    scores = criteria.magnitude_increase(TRAINED, REWIND)
    assert scores["w"].tolist() == [2, -1.5, -0.5, 1]


def test_large_init_scores_by_the_rewind_weights_size():
    assert criteria.large_init(TRAINED, REWIND)["w"].tolist() == [1, 2, 2.5, 0]


def test_scores_keep_the_weights_type():
    for name in ("magnitude", "magnitude_increase", "large_init"):
        scores = criteria.CRITERIA[name](TRAINED, REWIND)
        assert scores["w"].dtype == np.float32, name


def test_random_scores_of_a_layer_do_not_depend_on_the_others():
    alone = criteria.random({"b": np.zeros(4)}, {}, seed=3)
    both = criteria.random({"a": np.zeros(9), "b": np.zeros(4)}, {}, seed=3)
    assert np.array_equal(alone["b"], both["b"])
    assert not np.array_equal(both["a"][:4], both["b"])


def test_random_scores_follow_the_seed_alone():
    one, again, other = (
        criteria.random({"w": np.full(4, x)}, {}, seed=seed)["w"]
        for x, seed in ((0.0, 1), (5.0, 1), (0.0, 2))
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_no_criterion_changes_its_arguments():
    for name, criterion in criteria.CRITERIA.items():
        trained, rewind = ({"w": w["w"].copy()} for w in (TRAINED, REWIND))
        criterion(trained, rewind)
        assert np.array_equal(trained["w"], TRAINED["w"]), name
        assert np.array_equal(rewind["w"], REWIND["w"]), name


def test_a_function_of_the_users_own_is_a_criterion():
    def smallest(trained, rewind):
        return {path: -np.abs(w) for path, w in trained.items()}

    masks = pruning.prune(smallest(TRAINED, REWIND), {"w": np.ones(4, bool)}, 0.5)
    assert masks["w"].tolist() == [False, True, False, True]
