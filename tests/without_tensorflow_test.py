"""Runs the tests marked `without_tensorflow` on JAX, where TensorFlow is blocked."""

import os
import pathlib
import subprocess
import sys

import pytest
from making import QUICK_XLA

HERE = pathlib.Path(__file__).parent

BLOCK = """
import importlib.abc, importlib.util, sys

BLOCKED = ("tensorflow", "tf_keras", "tensorflow_datasets")

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

# etils asks whether TensorFlow can be found, without importing it.
ask = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name in BLOCKED else ask(name, package)
)
sys.meta_path.insert(0, Block())
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_search_transfer_and_lab_work_on_jax_where_tensorflow_is_not_installed(
    tmp_path,
):
    files = [
        str(file)
        for file in sorted(HERE.rglob("*_test.py"))
        if "pytest.mark.without_tensorflow" in file.read_text("utf-8")
        and file.name != pathlib.Path(__file__).name
    ]
    options = ["-q", "-n0", "-p", "no:cacheprovider", "-m", "without_tensorflow"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, *options, *files],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": QUICK_XLA,
            # Small networks of equal shapes are compiled once for all tests.
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
