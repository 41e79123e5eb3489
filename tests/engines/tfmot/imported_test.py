import os
import subprocess
import sys

import pytest

SCRIPT = """
import os
import {first}
import tflottery
tflottery.LotterySchedule, tflottery.RewindToInit
print(os.environ.get("TF_USE_LEGACY_KERAS"))
import tensorflow as tf
print(tf.keras.Model.__module__.split(".")[0])
import tf_keras
print(tf.keras.Model is tf_keras.Model)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "first", "expected"),
    [
        (None, "tflottery", ["None", "keras", "False"]),
        ("1", "tensorflow", ["1", "tf_keras", "True"]),
    ],
    ids=["keras 3", "keras 2"],
)
def test_the_users_tf_keras_stays_what_it_was(given, first, expected):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    if given is not None:
        environment["TF_USE_LEGACY_KERAS"] = given
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == expected
