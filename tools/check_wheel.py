"""Checks that a wheel contains the whole package, and nothing else.

python tools/check_wheel.py dist/tflottery-0.1.0-py3-none-any.whl
"""

import pathlib
import sys
import zipfile

ROOT = pathlib.Path(__file__).absolute().parent.parent
PACKAGE = "tflottery"


def faults(wheel: pathlib.Path, root: pathlib.Path = ROOT) -> list[str]:
    """Returns one line for each file that is missing from the wheel or superfluous.

    Args:
        wheel: The wheel's path.
        root: The source tree it was built from.
    """
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    package = {
        file.relative_to(root).as_posix()
        for file in (root / PACKAGE).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    metadata = {
        name for name in held if name.split("/")[0].endswith((".dist-info", ".data"))
    }
    lines = [f"missing: {name}" for name in sorted(package - held)]
    lines += [f"superfluous: {name}" for name in sorted(held - package - metadata)]
    if f"{PACKAGE}/py.typed" not in held:
        lines.append("no py.typed: type checkers would ignore the annotations")
    if not any(name.endswith("/LICENSE") for name in metadata):
        lines.append("no LICENSE")
    return lines


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = faults(pathlib.Path(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]} contains the package and nothing else")
    sys.exit(bool(found))
