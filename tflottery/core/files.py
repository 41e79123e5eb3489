"""Files: written completely or not at all, and checked bit for bit when read.

A container is one safetensors file: arrays by name, and one metadata entry, a JSON
object. It has a header of plain data, and a SHA-256 of each array and of its own text,
so that an error can name the damaged part.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

_KEY = "tflottery"
_PLAIN = {"BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64"}
_PLAIN |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_PLAIN |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
_AGAIN = "Copy the file again from its source."
# What reading a damaged header may raise.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class FileError(ValueError):
    """The file is damaged or of another kind."""


def path_of(path: Any, name: str = "path") -> Any:
    """Returns a `pathlib.Path`, or for a URL such as `s3://...` a `upath.UPath`.

    In a path, `~` is the home folder. `file://PATH` is the local path. Errors call the
    argument `name`.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: If it is empty, or a URL that is not supported.
        ImportError: If the package for such URLs is not installed.

    >>> path_of("runs/a").name, path_of("file:///runs/b").name
    ('a', 'b')
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if text is None:
        from upath import UPath

        if isinstance(path, UPath):
            return path
    is_text = isinstance(text, str)
    if is_text and (text := text.removeprefix("file://")) and "\0" not in text:
        scheme, is_url, _ = text.partition("://")
        if not is_url:
            return pathlib.Path(os.path.expanduser(text))
        import fsspec
        from upath import UPath
        from upath.registry import available_implementations

        # UPath would not write local files completely or not at all.
        if scheme in {*available_implementations()} - {"file", "local"}:
            try:
                fsspec.get_filesystem_class(scheme)
            except ImportError as error:
                raise ImportError(
                    f"`{name}` needs a package that is missing. {error}. Received: "
                    f"{name}={path!r}"
                ) from error
            # Without a cache of listings: another machine may have changed the store.
            return UPath(text, use_listings_cache=False)
    raise (ValueError if is_text else TypeError)(
        f"`{name}` must be a local path, or a URL that fsspec knows, such as "
        f'"runs/a", "s3://bucket/a" or "hf://user/repository/a". Received: '
        f"{name}={path!r}"
    )


def make_folder(path: Any) -> None:
    """Makes the folder `path` and its parents if they do not exist."""
    path = path_of(path)
    if isinstance(path, pathlib.Path):  # Object stores have no folders.
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, "Could not make the folder", path) from error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a scratch file to write, which then replaces the local file `path`.

    If an error leaves the block, `path` stays as it was.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        with contextlib.suppress(FileNotFoundError):
            scratch.chmod(path.stat().st_mode & 0o7777)
        with open(scratch, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def write(path: Any, data: bytes) -> None:
    """Writes `data` to `path`: the file holds all of it, or its old content."""
    path = path_of(path)
    if not isinstance(path, pathlib.Path):
        path.write_bytes(data)  # An object store swaps in the whole object.
        return
    try:
        with replacing(path) as scratch:
            scratch.write_bytes(data)
    except OSError as error:
        what = f"Could not write {len(data):,} bytes; the file's content is unchanged"
        raise explained(error, what, path) from error


def remove_scratch(folder: Any, names: str) -> None:
    """Removes scratch files that a killed process left in a folder.

    They are of files whose names match the regular expression `names`. Nothing else
    may be writing there at the same time.
    """
    if isinstance(folder, pathlib.Path):
        for path in folder.glob(".*.tmp"):
            if re.fullmatch(rf"\.(?:{names})\.\d+\.tmp", path.name):
                with contextlib.suppress(OSError):
                    path.unlink()


def explained(error: OSError, what: str, path: Any) -> OSError:
    """Returns an error of the same class that also says what failed and what to do."""
    remedy = "Choose a place that exists and is writable"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Free some space and run it again"
    reason = error.strerror or str(error)
    return OSError(error.errno, f"{reason}. {what}. {remedy}", str(path))


def write_json(path: Any, value: Any) -> None:
    """Writes plain data as indented JSON, with `write`."""
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Any) -> Any:
    """Returns the data of a JSON file; FileError if it is not one."""
    try:
        return json.loads(path_of(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a JSON file: {error}.") from error


def write_arrays(path: Any, arrays: Mapping[str, np.ndarray], header: Any) -> None:
    """Writes a container: arrays by name with a header of plain data.

    Equal arrays and headers give equal bytes.

    Raises:
        TypeError: If an array's dtype is neither NumPy's (bool, integer, float16/32/64)
            nor one of `ml_dtypes`, or if the header is not plain data.
    """
    plain = {name: _to_plain(name, array) for name, array in arrays.items()}
    body = {
        "header": header,
        "dtypes": {name: arrays[name].dtype.name for name in sorted(arrays)},
        "sha256": {name: _digest(plain[name]) for name in sorted(plain)},
    }
    text = json.dumps(body, separators=(",", ":"))
    # One metadata entry: safetensors does not keep the order of several.
    write(path, safetensors.numpy.save(plain, metadata={_KEY: _sign(text)}))


def read_arrays(path: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Returns the arrays and the header of a container.

    Nothing in the file is executed or unpickled, and memory use is bounded by the
    file's own size.

    Raises:
        FileError: If it is damaged. Names the file, and the array if it is one.
        FileNotFoundError: If there is no such file.
    """
    data = path_of(path).read_bytes()
    try:
        entries = dict(safetensors.deserialize(data))
        length = int.from_bytes(data[:8], "little")
        signed = json.loads(data[8 : 8 + length])["__metadata__"][_KEY]
    except (safetensors.SafetensorError, *_DAMAGE) as error:
        raise FileError(
            f"{path} is not a tflottery file, or it is truncated or damaged "
            f"({error}). {_AGAIN}"
        ) from error
    del data
    body = _check_header(path, signed)
    if not entries.keys() == body["dtypes"].keys() == body["sha256"].keys():
        raise _damaged(path, "its header lists other arrays")
    arrays = {}
    for name in list(entries):
        array = _from_entry(path, name, entries.pop(name), body["dtypes"][name])
        if _digest(_to_plain(name, array)) != body["sha256"][name]:
            changed = f"the values of {name!r} have changed since they were written"
            raise _damaged(path, changed)
        arrays[name] = array
    return arrays, body["header"]


def _sign(text: str) -> str:
    """Returns a JSON object with the SHA-256 of its text so far as its last item."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"text_sha256":"{digest}"}}'


def _sign_first(text: str) -> str:
    """Returns what files had before: the SHA-256 as a JSON text in front of another."""
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + text


_SIGNED, _SIGNED_FIRST = len(_sign("")), len(_sign_first(""))


def _check_header(path: Any, signed: Any) -> dict[str, Any]:
    try:
        text, old = signed[:-_SIGNED] + "}", signed[_SIGNED_FIRST:]
        is_new = signed == _sign(text)
        if is_new or signed == _sign_first(old):
            body = json.loads(text if is_new else old)
            if body.keys() == {"header", "dtypes", "sha256"} and all(
                isinstance(body[key], dict) for key in ("dtypes", "sha256")
            ):
                return body
    except _DAMAGE:
        pass
    raise _damaged(path, "its header has changed since it was written")


def _from_entry(path: Any, name: str, entry: Any, dtype: Any) -> np.ndarray:
    kind = _dtype(dtype)
    if kind is None or _plain(kind).name != _PLAIN.get(entry["dtype"]):
        stored = f"but it is stored as {entry['dtype']!r}"
        raise _damaged(path, f"its header says that {name!r} is {dtype!r}, {stored}")
    try:
        return np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    except ValueError as error:  # More or larger dimensions than NumPy allows.
        raise _damaged(path, f"{name!r} has the shape {entry['shape']}") from error


def _damaged(path: Any, why: str) -> FileError:
    return FileError(f"{path} is damaged: {why}. {_AGAIN}")


def _to_plain(name: str, array: np.ndarray) -> np.ndarray:
    """Returns the array, little-endian, as a dtype that safetensors knows."""
    kind = _dtype(array.dtype.name)
    if kind is None:
        raise TypeError(
            f"{name!r} has the dtype {array.dtype}, which cannot be stored. Cast it to "
            "a bool, integer or float dtype."
        )
    array = np.ascontiguousarray(array, kind.newbyteorder("<")).reshape(array.shape)
    return array.view(_plain(kind))


def _dtype(name: Any) -> np.dtype | None:
    """Returns the NumPy or `ml_dtypes` dtype of that name, or `None`."""
    if name in _PLAIN.values():
        return np.dtype(name)
    import ml_dtypes

    kind = getattr(ml_dtypes, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, np.generic):
        return np.dtype(kind)
    return None


def _plain(kind: np.dtype) -> np.dtype:
    """Returns the dtype as which a file stores the bytes of `kind`."""
    if kind.name in _PLAIN.values():
        return kind.newbyteorder("<")
    return np.dtype(f"<u{kind.itemsize}")


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
