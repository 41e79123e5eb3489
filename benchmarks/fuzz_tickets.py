"""Reads damaged and forged tickets, and prints how many were refused with which words.

    python benchmarks/fuzz_tickets.py [--inputs N] [--seed N]

Half of the inputs have bytes changed, cut, doubled or inserted. The others are forged:
something in the ticket's header or arrays is changed and the checksums made anew, as by
someone who means harm. Whatever is not refused must be a ticket that can be printed and
saved. Anything but a FileError, or more memory than 300 times the file's size and 4 MB,
ends the run with the input's number.
"""

import argparse
import collections
import copy
import pathlib
import random
import re
import tempfile
import time
import tracemalloc

import numpy as np

from tflottery import ticket as ticket_lib
from tflottery.core import files
from tflottery.core.config import LotteryConfig

ODD = [
    *(None, True, -1, 0, 3, 10**9, 2**64, 10**400, 0.5, float("nan"), float("inf")),
    *(
        "",
        "x",
        "../../x",
        "a\0b",
        "\x1b[31m",
        "float64",
        [],
        {},
        [[]],
        [-1],
        [10**6] * 2,
    ),
    *([0], [0, 10**18], [2, 3], {"a": None}, ["dense/kernel"], "9" * 50),
]


def ticket() -> ticket_lib.Ticket:
    """Returns a small ticket with everything in it that a ticket can have."""
    rng = np.random.default_rng(0)
    weights = {
        "dense/kernel": rng.normal(size=(3, 4)).astype("float32"),
        "dense/bias": np.zeros(4, "float32"),
        "head/kernel": rng.normal(size=(4, 2)).astype("float16"),
        "count": np.array(3),
    }
    masks = {"dense/kernel": weights["dense/kernel"] > 0}
    masks["head/kernel"] = weights["head/kernel"] < 0.5
    rounds = tuple(
        ticket_lib.Round(
            round=number,
            sparsity=0.5 * number,
            density_per_layer={path: 1.0 for path in masks},
            metrics={"loss": 0.5, "val_accuracy": 0.9},
            history={"loss": [1.0, 0.5]},
            steps=10,
            seconds=1.5,
        )
        for number in range(2)
    )
    return ticket_lib.Ticket(
        masks=masks,
        initial=weights,
        rewind=weights,
        trained=weights,
        config=LotteryConfig(layer_fractions={"head": 0.1}, skip=("x",)),
        monitor="val_accuracy",
        rounds=rounds,
        round=1,
        versions={"numpy": "2.0"},
        origin={"from": "a test"},
    )


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Returns `data` with some of its bytes changed."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 2, 8, 100))
        kind = chance.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + length]
        else:
            changed[at:at] = changed[at : at + length]
    return bytes(changed)


def forged(arrays: dict, header: dict, chance: random.Random) -> tuple[dict, dict]:
    """Returns a copy in which one to three things are changed."""
    arrays, header = dict(arrays), copy.deepcopy(header)
    for _ in range(chance.choice((1, 1, 2, 3))):
        if chance.random() < 0.6:
            holder, key = _anywhere(header, chance)
            if chance.random() < 0.15:
                del holder[key]
            else:
                holder[key] = copy.deepcopy(chance.choice(ODD))
            if not header:
                break
        elif arrays:
            name = chance.choice(sorted(arrays))
            array = arrays.pop(name)
            kind = chance.randrange(6)
            if kind == 0:
                arrays[chance.choice(("../x", "masks/y", "", name[::-1]))] = array
            elif kind == 1:
                dtype = chance.choice(("bool", "int8", "float16", "float64", "uint8"))
                arrays[name] = np.nan_to_num(array).astype(dtype)
            elif kind == 2:
                arrays[name] = array.reshape(-1)[: chance.randrange(array.size + 1)]
            elif kind == 3:
                size = chance.choice((1, 2, 100))
                arrays[name] = np.resize(array, (size,))
            elif kind == 4 and array.dtype.kind == "f":
                arrays[name] = np.full_like(array, np.nan)
    return arrays, header


def _anywhere(header: dict, chance: random.Random) -> tuple:
    """Returns a dict or list somewhere in the header, and a key of it."""
    places = []
    queue = [header]
    while queue:
        holder = queue.pop()
        pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, value in list(pairs):
            places.append((holder, key))
            if isinstance(value, dict | list):
                queue.append(value)
    return chance.choice(places)


def words(error: Exception, path: pathlib.Path) -> str:
    """Returns the error's words without what differs from input to input."""
    text = str(error).replace(str(path), "FILE")
    text = re.sub(r"^FILE is not a valid ticket[.:] ", "", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "..", text)
    text = re.sub(r"(Received:|lacks|no ticket has:|Its format is) .*", r"\1", text)
    return re.split(r"\.? [(\[{]|: \.\.|(?<!\.)\. ", text)[0][:72]


def fuzz(inputs: int, seed: int, folder: pathlib.Path) -> collections.Counter:
    """Reads `inputs` tickets that are not what they were; returns counts by words."""
    path = folder / "ticket"
    ticket().save(path)
    data = path.read_bytes()
    arrays, header = files.read_arrays(path)
    counts: collections.Counter = collections.Counter()
    tracemalloc.start()
    for number in range(inputs):
        chance = random.Random(f"{seed} {number}")
        try:
            if number % 2:
                path.write_bytes(damaged(data, chance))
            else:
                with open(path, "wb") as file:
                    file.write(container(*forged(arrays, header, chance), folder))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                found = ticket_lib.load_ticket(path)
            except files.FileError as error:
                counts[words(error, path)] += 1
            else:
                found.summary(print_fn=lambda text: None)
                found.save(folder / "again")
                counts["a ticket still"] += 1
            peak = tracemalloc.get_traced_memory()[1] - before
            if peak > 300 * path.stat().st_size + 4_000_000:
                raise MemoryError(f"{peak:,} bytes for {path.stat().st_size:,}")
        except Exception as error:
            raise RuntimeError(f"input {number} of seed {seed}: {error!r}") from error
    tracemalloc.stop()
    return counts


def container(arrays: dict, header: dict, folder: pathlib.Path) -> bytes:
    """Returns the bytes of a container whose checksums are right."""
    files.write_arrays(folder / "forged", arrays, header)
    return (folder / "forged").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    # In memory where there is such a folder: each ticket is synced to the disk.
    memory = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        counts = fuzz(arguments.inputs, arguments.seed, pathlib.Path(folder))
    for text, count in counts.most_common():
        print(f"{count:9,}  {text}")
    seconds = time.perf_counter() - start
    print(f"{arguments.inputs:9,}  inputs in {seconds:.0f} s; no crash")


if __name__ == "__main__":
    main()
