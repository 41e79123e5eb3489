"""Two virtual CPUs, made before TensorFlow starts, and the order of the tests."""

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_configure(config):
    controls = not hasattr(config, "workerinput")
    if controls and config.getoption("dist", "no") != "no":
        return  # It runs no tests, so it need not wait for TensorFlow.
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )


def pytest_collection_modifyitems(items):
    """Puts long tests first, so that no core waits for one at the end."""
    longest = "without_tensorflow_test.py"
    items.sort(key=lambda i: ("slow" not in i.keywords, i.path.name != longest))


@pytest.fixture(autouse=True, scope="session")
def _no_fsync():
    """Lets no test wait for the disk: what they write need not outlast a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


# Doctests are looked for in every module, which imports it.
collect_ignore = ["making"]
