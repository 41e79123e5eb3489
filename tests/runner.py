"""The one main of every Bazel test: runs pytest on the files that it is given."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).absolute().parent.parent


def main(paths: list[str]) -> int:
    """Returns pytest's exit status, which is 5 if no test was collected.

    Args:
        paths: Test files, relative to the working directory.
    """
    if not paths:
        print("Name at least one test file: runner.py FILE...", file=sys.stderr)
        return pytest.ExitCode.USAGE_ERROR
    # Without resolve(): Bazel's tree links to the sources, and the tests must read the
    # files that Bazel was given.
    settings = [f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}"]
    return pytest.main([*settings, "-p", "no:cacheprovider", "-n0", *paths])


if __name__ == "__main__":
    # This file's folder comes first on the path; tests/NAME could hide a package NAME.
    if not getattr(sys.flags, "safe_path", False):
        sys.path.pop(0)
    sys.exit(main(sys.argv[1:]))
