"""Files: written whole or not at all, and checked to the last bit when read.

A container is one safetensors file: arrays by name, and a header of plain data.
Every array and the header itself carry a SHA-256, so damage is found where it is.
"""

import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

_KEY = "tflottery"
_PLAIN = frozenset(
    [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    + ["bool", "float16", "float32", "float64"]
)


class FileError(ValueError):
    """A file that is damaged, or not of the kind that was asked for."""


def path_of(path: Any) -> Any:
    """Returns a `pathlib.Path`, or for a URL such as `gs://...` an `etils.epath.Path`.

    >>> path_of("runs/a").name
    'a'
    """
    if isinstance(path, str) and "://" in path:
        from etils import epath

        return epath.Path(path)
    return pathlib.Path(path) if isinstance(path, str) else path


def write(path: Any, data: bytes) -> None:
    """Writes `data` to `path`: the file holds all of it, or what it held before.

    Raises:
        OSError: where it cannot be written; it names the file and the remedy.
    """
    path = path_of(path)
    if not isinstance(path, pathlib.PosixPath | pathlib.WindowsPath):
        path.write_bytes(data)  # An object store swaps the whole object in itself.
        return
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        remedy = (
            "free some space and run it again"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "choose a folder that exists and can be written"
        )
        raise OSError(
            error.errno,
            f"Could not write {len(data):,} bytes ({error.strerror}); {remedy}. What "
            "the file held before is unchanged",
            str(path),
        ) from error


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
    except ValueError as error:
        raise FileError(f"{path} is not a JSON file: {error}.") from error


def write_arrays(path: Any, arrays: Mapping[str, np.ndarray], header: Any) -> None:
    """Writes a container: arrays by name with a header of plain data.

    Equal arrays and headers give equal bytes.
    """
    plain = {name: _to_plain(array) for name, array in arrays.items()}
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
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path} is not a tflottery file, or it is cut off or damaged "
            f"({error}). Copy it again from its source."
        ) from error
    body = _check_header(path, signed)
    if entries.keys() != body["dtypes"].keys():
        raise FileError(f"{path} is damaged: its list of arrays does not fit.")
    arrays = {}
    for name, entry in entries.items():
        array = _from_entry(path, name, entry, body["dtypes"][name])
        if _digest(_to_plain(array)) != body["sha256"][name]:
            raise FileError(
                f"{path} is damaged: the values of {name!r} have changed since they "
                "were written. Copy the file again from its source."
            )
        arrays[name] = array
    return arrays, body["header"]


def _check_header(path: Any, signed: Any) -> Any:
    try:
        head, end = json.JSONDecoder().raw_decode(signed)
        text = signed[end:]
        if head["sha256"] == hashlib.sha256(text.encode()).hexdigest():
            return json.loads(text)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise FileError(
        f"{path} is damaged: its header has changed since it was written. Copy the "
        "file again from its source."
    )


def _from_entry(path: Any, name: str, entry: Any, dtype: str) -> np.ndarray:
    kinds = {"F16": "float16", "F32": "float32", "F64": "float64", "BOOL": "bool"}
    kind = kinds.get(entry["dtype"])
    if kind is None:
        prefix = {"I": "int", "U": "uint"}.get(entry["dtype"][:1], "?")
        kind = prefix + entry["dtype"][1:]
    if kind not in _PLAIN:
        raise FileError(
            f"{path} is damaged: {name!r} has the unknown type {entry['dtype']!r}."
        )
    array = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    return array if dtype == kind else array.view(_dtype(dtype))


def _to_plain(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.name in _PLAIN:
        return array
    return array.view(f"uint{8 * array.dtype.itemsize}")


def _dtype(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name))


def _digest(array: np.ndarray) -> str:
    head = f"{array.dtype.name}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()
