import os
import pathlib

import pytest

from tflottery.core.files import replacing
from tflottery.tflite import export_tflite
from tflottery.tflite.file.destination import destination


def write(path, text="new"):
    with replacing(destination(path)) as temporary:
        temporary.write_text(str(text))


def test_a_new_file_has_the_mode_that_new_files_have(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_file_written_over_keeps_its_mode(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o600)
    write(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")

    class Full:
        def __str__(self):
            raise OSError(28, "no space left")

    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "a", Full())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("path", ["/dev/null", "/tmp"])
def test_a_device_or_a_folder_is_refused_before_anything_is_done(path):
    with pytest.raises(ValueError, match="`path` must be a regular file or not exist"):
        export_tflite(object(), path)
    assert pathlib.Path(path).exists()


def test_a_folder_that_is_not_there_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*missing'"):
        export_tflite(object(), tmp_path / "missing" / "a.tflite")
