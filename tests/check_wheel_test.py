"""tools/check_wheel.py passes a complete wheel and names the faults of others."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).absolute().parent.parent
PACKAGE = {
    file.relative_to(ROOT).as_posix()
    for file in (ROOT / "tflottery").rglob("*")
    if file.is_file() and "__pycache__" not in file.parts
}
WHOLE = PACKAGE | {"tflottery-0.1.0.dist-info/licenses/LICENSE"}


def check(folder: pathlib.Path, names: set[str]) -> tuple[int, str]:
    """Returns the status and the output of the check of a wheel of `names`."""
    wheel = folder / "tflottery-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    answer = subprocess.run(
        [sys.executable, str(ROOT / "tools/check_wheel.py"), str(wheel)],
        capture_output=True,
        text=True,
    )
    return answer.returncode, answer.stdout


def test_a_whole_wheel_passes(tmp_path: pathlib.Path):
    status, output = check(tmp_path, WHOLE)
    assert status == 0, output


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (WHOLE | {"tests/masks_test.py"}, "superfluous: tests/masks_test.py"),
        (WHOLE | {"examples/find_ticket.py"}, "superfluous: examples/find_ticket.py"),
        (WHOLE - {"tflottery/py.typed"}, "no py.typed"),
        (WHOLE - {"tflottery/core/masks.py"}, "missing: tflottery/core/masks.py"),
        (PACKAGE, "no LICENSE"),
    ],
    ids=["tests", "examples", "types", "module", "license"],
)
def test_a_fault_is_named(tmp_path: pathlib.Path, names: set[str], fault: str):
    status, output = check(tmp_path, names)
    assert status == 1
    assert fault in output
