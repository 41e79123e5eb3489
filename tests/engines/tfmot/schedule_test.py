import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tflottery
from tflottery.engines.tfmot.imported import sparsity

X = np.zeros((4, 6), "float32")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"rounds": 3}, [0, 0.2, 0.36, 0.488]),
        ({"rounds": 2, "prune_fraction": 0.5}, [0, 0.5, 0.75]),
        ({"rounds": 2, "target_sparsity": 0.75}, [0, 0.5, 0.75]),
        ({"target_sparsity": 0.8, "prune_fraction": 0.5}, [0, 0.5, 0.75, 0.8]),
        ({"rounds": 1, "target_sparsity": 0.9}, [0, 0.9]),
    ],
    ids=str,
)
def test_the_third_number_follows_from_two(arguments, expected):
    schedule = tflottery.LotterySchedule(steps_per_round=10, **arguments)
    assert schedule.rounds == len(expected) - 1
    assert schedule.total_steps == 10 * len(expected)
    planned = [schedule.sparsity(r) for r in range(len(expected))]
    np.testing.assert_allclose(planned, expected)


def test_tfmot_is_never_asked_to_prune_and_told_the_sparsity():
    schedule = tflottery.LotterySchedule(
        rounds=2, steps_per_round=10, prune_fraction=0.5
    )
    assert isinstance(schedule, sparsity.PruningSchedule)
    schedule.followed = True
    answers = [schedule(tf.constant(step, tf.int64)) for step in (-1, 9, 10, 25, 99)]
    assert not any(bool(prune) for prune, _ in answers)
    assert [float(s) for _, s in answers] == [0, 0, 0.5, 0.75, 0.75]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give `rounds`, `target_sparsity` or both"),
        (
            {"rounds": 2, "target_sparsity": 0.9, "prune_fraction": 0.2},
            "but not to both: it follows from them.*target_sparsity=0.9",
        ),
        ({"rounds": 0}, "`rounds` must be a whole number of at least 1.*rounds=0"),
        ({"rounds": 1, "prune_fraction": 1.0}, r"`prune_fraction` must be in \(0, 1\)"),
        ({"target_sparsity": 0}, r"`target_sparsity` must be in \(0, 1\).*=0"),
        (
            {"rounds": 1, "steps_per_round": 2.5},
            "`steps_per_round` must be a whole number",
        ),
        (
            {"rounds": 1, "rewind_step": -1},
            "`rewind_step` must be a whole number of at",
        ),
        (
            {"rounds": 1, "rewind_step": 10},
            "`rewind_step` must be within a round, which has 10 steps.*=10",
        ),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        tflottery.LotterySchedule(**{"steps_per_round": 10, **arguments})


SCHEDULES = [
    {"rounds": 3, "steps_per_round": 7, "rewind_step": 2},
    {"target_sparsity": 0.9, "prune_fraction": 0.3, "steps_per_round": 7},
    {"rounds": 3, "target_sparsity": 0.9, "steps_per_round": np.int64(7)},
]


@pytest.mark.parametrize("arguments", SCHEDULES, ids=str)
def test_a_schedule_is_read_back_as_it_was(arguments):
    schedule = tflottery.LotterySchedule(**arguments)
    config = schedule.get_config()
    again = [
        tflottery.LotterySchedule.from_config(config),
        tflottery.LotterySchedule.from_config(config["config"]),
        tf_keras.utils.deserialize_keras_object(
            tf_keras.utils.serialize_keras_object(schedule)
        ),
        tf_keras.utils.legacy.deserialize_keras_object(
            tf_keras.utils.legacy.serialize_keras_object(schedule)
        ),
    ]
    for each in again:
        assert type(each) is tflottery.LotterySchedule
        assert each.get_config() == config
        assert vars(each) == vars(schedule)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_wrapped_model_is_saved_with_its_schedule(tmp_path, name):
    schedule = tflottery.LotterySchedule(rounds=3, steps_per_round=7)
    model = tf_keras.Sequential([tf_keras.layers.Input((6,)), tf_keras.layers.Dense(3)])
    wrapped = sparsity.prune_low_magnitude(model, schedule)
    wrapped.save(tmp_path / name)
    with sparsity.prune_scope():
        loaded = tf_keras.models.load_model(tmp_path / name)
    assert vars(loaded.layers[0].pruning_schedule) == vars(schedule)
    np.testing.assert_array_equal(loaded(X), wrapped(X))


def test_rounds_that_reach_the_target_in_floating_point_are_not_one_too_many():
    for rounds in range(1, 30):
        target = 1 - 0.8**rounds
        schedule = tflottery.LotterySchedule(target_sparsity=target, steps_per_round=1)
        assert schedule.rounds == rounds
        assert math.isclose(schedule.target_sparsity, target)
