"""The Keras 3 tests once more, on JAX, where importing TensorFlow raises."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent

BLOCK = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tf_keras", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Block())
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_search_transfer_and_lab_work_on_jax_where_tensorflow_is_not_installed():
    tests = [
        "engines/keras3_test.py",
        "search/loop_test.py",
        "transfer/student_test.py",
    ]
    tests += ["lab/experiment/run_test.py::test_the_test_images_choose_nothing"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, "-q", "-n0", "-p", "no:cacheprovider"]
        + [str(HERE / test) for test in tests],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
