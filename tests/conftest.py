"""Two virtual CPUs, made before TensorFlow starts, and the order of the tests."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_configure(config):
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )


def pytest_collection_modifyitems(items):
    """Puts long tests first, so that no core waits for one at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


# Doctests are looked for in every module, which imports it.
collect_ignore = ["making"]
