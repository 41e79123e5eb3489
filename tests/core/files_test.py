"""Files: whole or not at all, equal bytes for equal content, no bit trusted."""

import errno
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tflottery.core import files

TYPES = [
    *("bool", "int8", "uint16", "int32", "int64", "uint64"),
    *("float16", "float32", "float64", ">f4", ">i8"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4),
]


@pytest.fixture
def full_disk(tmp_path):
    """A folder with room for 64 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def container(path, arrays=None, header=None):
    files.write_arrays(path, arrays or {"w": np.arange(4, dtype="f4")}, header)
    return path.read_bytes()


def sign(text):
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"text_sha256":"{digest}"}}'


def sign_first(text):
    """The form of earlier files: two JSON texts."""
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + text


def forged(path, body, tensors=None, sign=sign):
    """Writes a container whose checksums fit, whatever its header says."""
    signed = sign(json.dumps(body) if not isinstance(body, str) else body)
    tensors = {} if tensors is None else tensors
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"tflottery": signed}))
    return path


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 3)])
def test_arrays_come_back_as_they_were(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    files.write_arrays(tmp_path / "x", {"a/b": array}, {"n": [1, None]})
    arrays, header = files.read_arrays(tmp_path / "x")
    assert header == {"n": [1, None]}
    assert list(arrays) == ["a/b"]
    assert arrays["a/b"].dtype.name == array.dtype.name
    assert arrays["a/b"].shape == shape
    assert arrays["a/b"].astype(float).tolist() == array.astype(float).tolist()


def test_an_array_that_is_a_view_is_stored_by_its_values(tmp_path):
    array = np.arange(12.0).reshape(3, 4)
    files.write_arrays(tmp_path / "x", {"t": array.T[::2]}, None)
    assert np.array_equal(files.read_arrays(tmp_path / "x")[0]["t"], array.T[::2])


def test_nan_and_infinity_keep_their_bits(tmp_path):
    array = np.array([0x7FC00001, 0xFFFFFFFF, 0x7F800000], np.uint32).view("f4")
    files.write_arrays(tmp_path / "x", {"w": array}, None)
    again = files.read_arrays(tmp_path / "x")[0]["w"]
    assert again.tobytes() == array.tobytes()


@pytest.mark.parametrize("array", [np.array(["x"]), np.array([1j]), np.array([None])])
def test_a_type_that_a_file_cannot_hold_is_an_error(tmp_path, array):
    with pytest.raises(
        TypeError, match=r"'w' has the dtype .*, which cannot be stored"
    ):
        files.write_arrays(tmp_path / "x", {"w": array}, None)
    assert list(tmp_path.iterdir()) == []


def test_equal_content_gives_equal_bytes_in_another_process(tmp_path):
    program = (
        "import sys, numpy as np; from tflottery.core import files\n"
        "names = [f'{i}/kernel' for i in range(20)]\n"
        "if sys.argv[2] == '1': names.reverse()\n"
        "files.write_arrays(sys.argv[1], {n: np.full(3, len(n), 'f4') for n in names},"
        " {'b': 1, 'a': [0.1, None]})\n"
    )
    for number in "01":
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / number), number],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": number},
        )
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_a_path_may_be_text_or_a_path_or_a_url(tmp_path, monkeypatch):
    from etils import epath
    from upath import UPath

    for path in (str(tmp_path / "x"), tmp_path / "x", epath.Path(tmp_path / "x")):
        # Not epath's own class: `write` is atomic for pathlib's only.
        assert type(files.path_of(path)) is type(pathlib.Path())
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda scheme: None)  # Is there.
    for scheme in ("gs", "s3", "az", "hf", "memory"):
        path = files.path_of(f"{scheme}://bucket/run")
        assert isinstance(path, UPath)
        assert str(path / "a") == f"{scheme}://bucket/run/a"
        assert files.path_of(path) is path


def test_a_full_disk_leaves_the_old_file_whole(full_disk):
    path = full_disk / "x"
    files.write(path, b"old")
    with pytest.raises(OSError, match="No space left") as caught:
        files.write(path, bytes(100_000))
    assert caught.value.errno == errno.ENOSPC
    assert "Could not write 100,000 bytes; the file's content is unchanged" in str(
        caught.value
    )
    assert "Free some space and run it again" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in full_disk.iterdir()] == ["x"]


def test_a_read_only_file_system_is_an_error_that_names_the_remedy(full_disk):
    (full_disk / "x").write_bytes(b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    with pytest.raises(OSError, match=r"Read-only.*a place that exists and is w"):
        files.write(full_disk / "x", b"new")
    with pytest.raises(OSError, match=r"Read-only.*Could not make the folder.*Choose"):
        files.make_folder(full_disk / "run")
    assert (full_disk / "x").read_bytes() == b"old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_write_that_breaks_off_leaves_no_trace(tmp_path, monkeypatch, step, error):
    files.write(tmp_path / "x", b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        files.write(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Choose a place that exists.*no/x'"):
        files.write(tmp_path / "no" / "x", b"")
    with pytest.raises(FileNotFoundError, match="nothing"):
        files.read_arrays(tmp_path / "nothing")


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(OSError, match=r"Could not make the folder.*x'"):
        files.make_folder(tmp_path / "x")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 200_000])
def test_what_is_no_json_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(files.FileError, match=r"x\.json is not a JSON file: "):
        files.read_json(tmp_path / "x.json")


def test_json_comes_back(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": [1, 0.1, None, "é"]})
    assert files.read_json(tmp_path / "x.json") == {"a": [1, 0.1, None, "é"]}


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "x"
    data = container(path, {"w": np.arange(9, dtype="f4"), "v": np.ones(3, bool)})
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        with pytest.raises(
            files.FileError, match="x is not a tflottery file, or it is"
        ):
            files.read_arrays(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(files.FileError, match="truncated or damaged"):
        files.read_arrays(path)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x"
    data = container(
        path,
        {"w": np.arange(3, dtype="f4"), "b": np.ones(2, ml_dtypes.bfloat16)},
        {"text": 'with "quotes"'},
    )
    with open(path, "r+b", buffering=0) as file:  # To truncate it takes a disk long.
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            file.seek(0)
            file.write(flipped)
            with pytest.raises(files.FileError, match=r"/x is "):
                files.read_arrays(path)


def test_a_change_of_values_names_the_array(tmp_path):
    path = tmp_path / "x"
    data = container(path, {"dense/kernel": np.arange(4, dtype="f4")})
    path.write_bytes(data[:-1] + b"\1")
    with pytest.raises(files.FileError, match="the values of 'dense/kernel' have chan"):
        files.read_arrays(path)


def test_a_huge_header_length_takes_no_memory(tmp_path):
    path = tmp_path / "x"
    for length in (2**63, 2**64 - 1, 10**8, 2**31):
        path.write_bytes(length.to_bytes(8, "little") + b"{}" * 500)
        tracemalloc.start()
        with pytest.raises(files.FileError, match="is not a tflottery file"):
            files.read_arrays(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000


GOOD = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("body", "tensors"),
    [
        ("[" * 100_000, {}),
        ('{"a":' * 100_000, {}),
        ("1" * 5_000, {}),
        (None, {}),
        ([], {}),
        ({}, {}),
        ({"header": 1, "dtypes": [], "sha256": {}}, {}),
        ({"header": 1, "dtypes": {"w": "float32"}, "sha256": {}}, {"w": GOOD}),
        ({"header": 1, "dtypes": {}, "sha256": {}}, {"w": GOOD}),
        *(
            ({"header": 1, "dtypes": {"w": d}, "sha256": {"w": "0"}}, {"w": GOOD})
            for d in (
                *("float64", "int32", "object", "finfo", "__version__", "__loader__"),
                *("bfloat16", "", None, 1, ["float32"], {}, "float32"),
            )
        ),
    ],
)
@pytest.mark.parametrize("sign", [sign, sign_first])
def test_a_header_that_contradicts_itself_is_refused(tmp_path, body, tensors, sign):
    with pytest.raises(files.FileError, match=r"/x is damaged: "):
        files.read_arrays(forged(tmp_path / "x", body, tensors, sign))


def test_a_file_whose_header_is_two_texts_is_read(tmp_path):
    data = container(tmp_path / "x", header={"n": 1})
    outer = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    body = json.loads(outer["__metadata__"]["tflottery"])
    del body["text_sha256"]
    tensors = {"w": np.arange(4, dtype="f4")}
    arrays, header = files.read_arrays(
        forged(tmp_path / "y", body, tensors, sign_first)
    )
    assert header == {"n": 1}
    assert arrays["w"].tolist() == [0, 1, 2, 3]


def test_values_are_never_read_as_another_type(tmp_path):
    integers = tmp_path / "integers"
    container(integers, {"w": GOOD.view(np.int32)})
    data = integers.read_bytes()
    outer = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    body = json.loads(outer["__metadata__"]["tflottery"])
    del body["text_sha256"]
    # The checksum is that of the same bytes as integers, but they are floats here.
    with pytest.raises(
        files.FileError, match="header says that 'w' is 'int32', but it is stored"
    ):
        files.read_arrays(forged(tmp_path / "x", body, {"w": GOOD}))


@pytest.mark.parametrize(
    "shape", [[10**6, 10**6], [0, 2**62, 2**62], [1] * 100, [-1], [2**64], [1.5]]
)
def test_a_shape_beyond_the_data_takes_no_memory(tmp_path, shape):
    """Writes what safetensors itself would not."""
    count = 0 if 0 in shape else 1
    text = json.dumps({"header": 1, "dtypes": {"w": "float32"}, "sha256": {"w": "0"}})
    outer = json.dumps(
        {
            "__metadata__": {"tflottery": sign(text)},
            "w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * count]},
        }
    ).encode()
    path = tmp_path / "x"
    path.write_bytes(len(outer).to_bytes(8, "little") + outer + bytes(4 * count))
    tracemalloc.start()
    with pytest.raises(files.FileError, match=r"/x is "):
        files.read_arrays(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data):
    path = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / f"any{os.getpid()}"
    path.write_bytes(data)
    try:
        with pytest.raises(files.FileError):
            files.read_arrays(path)
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("error", "path"),
    [
        (ValueError, ""),
        (ValueError, "a\0b"),
        (ValueError, "gs://a\0b"),
        (ValueError, "foo://a"),
        (ValueError, "file://"),
        (ValueError, "local:///a"),
        (TypeError, None),
        (TypeError, 5),
        (TypeError, b"a"),
    ],
)
def test_what_is_no_path_is_an_error(error, path):
    with pytest.raises(error) as caught:
        files.path_of(path, "run_dir")
    assert str(caught.value) == (
        "`run_dir` must be a local path, or a URL that fsspec knows, such as "
        '"runs/a", "s3://bucket/a" or "hf://user/repository/a". Received: '
        f"run_dir={path!r}"
    )


def test_a_url_whose_package_is_missing_is_an_error_that_names_it(monkeypatch):
    def missing(scheme):
        raise ImportError(f"Install {scheme}fs to access it")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(ImportError) as caught:
        files.path_of("s3://b/a")
    assert str(caught.value) == (
        "`path` needs a package that is missing. Install s3fs to access it. Received: "
        "path='s3://b/a'"
    )


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.path_of("~/runs") == pathlib.Path("/home/me/runs")
    assert files.path_of("runs/~") == pathlib.Path("runs/~")


def test_only_what_write_leaves_of_the_named_files_is_removed(tmp_path):
    ours = [".run.json.7.tmp", ".start.safetensors.123.tmp"]
    others = [".notes.tmp", ".run.json.tmp", ".run.json.x.tmp", ".run_json.7.tmp"]
    others += ["run.json", ".7.tmp", ".notes.7.tmp", "run.json.7.tmp"]
    for name in (*ours, *others):
        (tmp_path / name).write_bytes(b"")
    files.remove_scratch(tmp_path, r"run\.json|start\.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
