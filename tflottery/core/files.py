"""Files: written whole or not at all, and checked to the last bit when read.

A container is one safetensors file: arrays by name, and a header of plain data.
Every array and the header itself carry a SHA-256, so damage is found where it is.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

_KEY = "tflottery"
_PLAIN = {"BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64"}
_PLAIN |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_PLAIN |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_AGAIN = "Copy the file again from its source."


class FileError(ValueError):
    """A file that is damaged, or not of the kind that was asked for."""


def path_of(path: Any) -> Any:
    """Returns a `pathlib.Path`, or for a URL such as `gs://...` an `etils.epath.Path`.

    Args:
        path: a path, in which `~` is the home folder, or a URL.

    Raises:
        ValueError: where it is empty, or of a kind that cannot be opened.

    >>> path_of("runs/a").name
    'a'
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        wrong = "hold no NUL character" if text else "not be empty"
        raise ValueError(
            f'A path must {wrong}. Name a place, as "runs/a" or "gs://bucket/a". '
            f"Received: {text!r}"
        )
    if "://" not in text:
        return pathlib.Path(os.path.expanduser(text))
    from etils import epath

    try:
        on_fsspec = text.startswith(("s3://", "az://"))
        return _on_fsspec()(text) if on_fsspec else epath.Path(text)
    except KeyError as error:
        raise ValueError(
            "A path must be local, or a URL that begins with gs://, s3:// or az://. "
            f"Received: {text!r}"
        ) from error


@functools.cache
def _on_fsspec() -> Any:
    from etils.epath import backend, gpath

    class FsspecPath(gpath.PosixGPath):
        """A path that fsspec reads and writes.

        Where TensorFlow is installed epath takes its file system, which has no S3.
        """

        _backend = property(lambda self: backend.fsspec_backend)  # type: ignore

    return FsspecPath


def make_folder(path: Any) -> None:
    """Makes the folder `path` and those above it, where they do not exist.

    Raises:
        OSError: where it cannot be made; it names the folder and the remedy.
    """
    try:
        path_of(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, "Could not make the folder", path) from error


def write(path: Any, data: bytes) -> None:
    """Writes `data` to `path`: the file holds all of it, or what it held before.

    Raises:
        OSError: where it cannot be written; it names the file and the remedy.
    """
    path = path_of(path)
    if not isinstance(path, pathlib.Path):
        path.write_bytes(data)  # An object store swaps the whole object in itself.
        return
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        if not isinstance(error, OSError):
            raise
        what = f"Could not write {len(data):,} bytes; what the file held is unchanged"
        raise explained(error, what, path) from error


def remove_scratch(folder: Any, names: str) -> None:
    """Removes what `write` left in a folder where it was killed.

    Nobody may be writing there meanwhile.

    Args:
        folder: a folder that exists.
        names: the names of the files that were written there, a regular expression.
    """
    if isinstance(folder, pathlib.Path):
        for path in folder.glob(".*.tmp"):
            if re.fullmatch(rf"\.(?:{names})\.\d+\.tmp", path.name):
                with contextlib.suppress(OSError):
                    path.unlink()


def explained(error: OSError, what: str, path: Any) -> OSError:
    """Returns the error, of its own class, with what failed and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = (
        "Free some space and run it again"
        if full
        else "Choose a place that exists and can be written"
    )
    return OSError(error.errno, f"{error.strerror}. {what}. {remedy}", str(path))


def write_json(path: Any, value: Any) -> None:
    """Writes plain data as indented JSON, whole or not at all."""
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Any) -> Any:
    """Returns the data of a JSON file.

    Raises:
        FileError: where it is not JSON.
    """
    try:
        return json.loads(path_of(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a JSON file: {error}.") from error


def write_arrays(path: Any, arrays: Mapping[str, np.ndarray], header: Any) -> None:
    """Writes a container: arrays by name with a header of plain data.

    Equal arrays and headers give equal bytes.

    Raises:
        TypeError: where an array has a type that is neither NumPy's (bool, integer,
            float16/32/64) nor of `ml_dtypes`; or the header is not plain data.
        OSError: where it cannot be written.
    """
    plain = {name: _to_plain(name, array) for name, array in arrays.items()}
    body = {
        "header": header,
        "dtypes": {name: arrays[name].dtype.name for name in sorted(arrays)},
        "sha256": {name: _digest(plain[name]) for name in sorted(plain)},
    }
    text = json.dumps(body, separators=(",", ":"))
    # One metadata entry: safetensors does not keep the order of several.
    signed = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + text
    write(path, safetensors.numpy.save(plain, metadata={_KEY: signed}))


def read_arrays(path: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Returns the arrays and the header of a container.

    Nothing in the file is executed or unpickled, and no more memory is taken than
    the file's own size warrants.

    Raises:
        FileError: naming the file, and the array where one is damaged.
        FileNotFoundError: where there is no file.
    """
    data = path_of(path).read_bytes()
    try:
        entries = dict(safetensors.deserialize(data))
        length = int.from_bytes(data[:8], "little")
        signed = json.loads(data[8 : 8 + length])["__metadata__"][_KEY]
    except (
        *(safetensors.SafetensorError, ValueError, KeyError, TypeError),
        RecursionError,
    ) as error:
        raise FileError(
            f"{path} is not a tflottery file, or it is cut off or damaged "
            f"({error}). {_AGAIN}"
        ) from error
    del data
    body = _check_header(path, signed)
    if not entries.keys() == body["dtypes"].keys() == body["sha256"].keys():
        raise FileError(f"{path} is damaged: its list of arrays does not fit.")
    arrays = {}
    for name in list(entries):
        array = _from_entry(path, name, entries.pop(name), body["dtypes"][name])
        if _digest(_to_plain(name, array)) != body["sha256"][name]:
            raise FileError(
                f"{path} is damaged: the values of {name!r} have changed since they "
                f"were written. {_AGAIN}"
            )
        arrays[name] = array
    return arrays, body["header"]


def _check_header(path: Any, signed: Any) -> dict[str, Any]:
    try:
        head, end = json.JSONDecoder().raw_decode(signed)
        text = signed[end:]
        if head["sha256"] == hashlib.sha256(text.encode()).hexdigest():
            body = json.loads(text)
            if body.keys() == {"header", "dtypes", "sha256"} and all(
                isinstance(body[key], dict) for key in ("dtypes", "sha256")
            ):
                return body
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise FileError(
        f"{path} is damaged: its header has changed since it was written. {_AGAIN}"
    )


def _from_entry(path: Any, name: str, entry: Any, dtype: Any) -> np.ndarray:
    kind = _dtype(dtype)
    if kind is None or _plain(kind).name != _PLAIN.get(entry["dtype"]):
        raise FileError(
            f"{path} is damaged: {name!r} is said to be {dtype!r}, but is stored as "
            f"{entry['dtype']!r}."
        )
    try:
        return np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    except ValueError as error:  # More dimensions, or larger ones, than NumPy has.
        raise FileError(
            f"{path} is damaged: {name!r} has the shape {entry['shape']}."
        ) from error


def _to_plain(name: str, array: np.ndarray) -> np.ndarray:
    """Returns the array as little-endian numbers of a type that safetensors knows."""
    kind = _dtype(array.dtype.name)
    if kind is None:
        raise TypeError(
            f"{name!r} has the type {array.dtype}, which a file cannot hold. Cast it "
            "to a bool, integer or float type."
        )
    array = np.ascontiguousarray(array, kind.newbyteorder("<")).reshape(array.shape)
    return array.view(_plain(kind))


def _dtype(name: Any) -> np.dtype | None:
    """Returns the type of that name, NumPy's or `ml_dtypes`', or `None`."""
    if name in _PLAIN.values():
        return np.dtype(name)
    import ml_dtypes

    kind = getattr(ml_dtypes, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, np.generic):
        return np.dtype(kind)
    return None


def _plain(kind: np.dtype) -> np.dtype:
    """Returns the type whose bytes stand for those of `kind` in a file."""
    if kind.name in _PLAIN.values():
        return kind.newbyteorder("<")
    return np.dtype(f"<u{kind.itemsize}")


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
