"""Config: what is accepted, what is refused and with which words."""

import json

import numpy as np
import pytest

from tflottery.core.config import LotteryConfig, check_criterion


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("epochs", 0, "`epochs` must be a whole number of at least 1. .*epochs=0"),
        ("epochs", 1.5, "`epochs` must be a whole number"),
        ("epochs", True, "`epochs` must be a whole number"),
        ("epochs", None, "`epochs` must be a whole number"),
        ("rounds", 0, "`rounds` must be a whole number of at least 1"),
        ("rewind_step", -1, "`rewind_step` must be a whole number of at least 0"),
        ("seed", -1, "`seed` must be a whole number from 0 to 4294967295"),
        ("seed", "7", "`seed` must be a whole number from 0 to 4294967295. .*seed='7'"),
        ("target_sparsity", 1, r"`target_sparsity` must be in \(0, 1\).*=1"),
        ("target_sparsity", 0.0, r"`target_sparsity` must be in \(0, 1\)"),
        ("target_sparsity", float("nan"), r"`target_sparsity` must be in \(0, 1\)"),
        ("target_sparsity", "0.9", r"`target_sparsity` must be in \(0, 1\)"),
        ("prune_fraction", 1.0, r"`prune_fraction` must be in \(0, 1\)"),
        ("prune_fraction", np.array([0.2]), r"`prune_fraction` must be in \(0, 1\)"),
        ("layer_fractions", {"a": 1}, r"`layer_fractions\['a'\]` must be in \(0, 1\)"),
        ("layer_fractions", {1: 0.5}, "`layer_fractions` must be a dict from patt"),
        ("layer_fractions", [0.1], "`layer_fractions` must be a dict from patterns"),
        ("skip", "output", "`skip` must be a tuple of patterns.*skip='output'"),
        ("skip", (1,), "`skip` must be a tuple of patterns"),
        ("skip", None, "`skip` must be a tuple of patterns"),
        ("tolerance", -0.1, "`tolerance` must be a number of at least 0: "),
        ("tolerance", float("inf"), "`tolerance` must be a number of at least 0: "),
        ("tolerance", 10**400, "`tolerance` must be a number of at least 0: "),
        ("monitor", 3, "`monitor` must be the name of a metric, or None"),
        ("criterion", len, "`criterion` must be a name"),
        ("scope", "all", "`scope` must be one of 'global', 'layer', 'erk'. .*'all'"),
        ("retrain", "no", "`retrain` must be one of 'rewind', 'learning_rate', 'fine_"),
        ("select", "best", "`select` must be one of 'sparsest_winning', 'last'"),
    ],
)
def test_a_value_out_of_range_is_an_error(argument, value, message):
    with pytest.raises(ValueError, match=message):
        LotteryConfig(**{argument: value})


def test_numbers_of_numpy_are_numbers():
    config = LotteryConfig(
        epochs=np.int64(3),
        rounds=np.uint8(2),
        seed=np.int32(7),
        rewind_step=np.int64(5),
        target_sparsity=np.float64(0.5),
        prune_fraction=np.float32(0.25),
        tolerance=np.float32(0.5),
        layer_fractions={"a": np.float16(0.5)},
    )
    json.dumps(config.to_dict())
    assert type(config.epochs) is int
    assert config == LotteryConfig(
        epochs=3,
        rounds=2,
        seed=7,
        rewind_step=5,
        target_sparsity=0.5,
        prune_fraction=0.25,
        tolerance=0.5,
        layer_fractions={"a": 0.5},
    )


def test_json_gives_back_the_same_config():
    config = LotteryConfig(skip=["a", "b*"], layer_fractions={"c": 0.1}, seed=1)
    assert config.skip == ("a", "b*")
    assert LotteryConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_does_not_change_with_the_dict_that_it_was_given():
    fractions = {"a": 0.1}
    config = LotteryConfig(layer_fractions=fractions)
    fractions["b"] = 0.2
    assert config.layer_fractions == {"a": 0.1}


def test_a_criterion_is_known_by_its_name():
    def mine(trained, rewind):
        return trained

    class Weighted:
        def __call__(self, trained, rewind):
            return trained

    assert check_criterion("large_init") == "large_init"
    assert check_criterion(mine) == "mine"
    assert check_criterion(Weighted()) == "Weighted"
    with pytest.raises(ValueError, match="`criterion` must be one of 'magnitude', "):
        check_criterion("magnitud")


def test_the_metric_may_be_left_to_the_search_by_name():
    assert LotteryConfig(epochs=1, monitor="auto").monitor is None
