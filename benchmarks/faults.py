"""Faults: kills searches, goes on with them, and compares with unbroken ones.

    python benchmarks/faults.py --kills 20

Every search runs in a process of its own, forked from one that has its imports done.
It is killed (SIGKILL) at a random time, or inside a random write to its `run_dir`, or
told to end (SIGTERM), and called again until it finishes. Its ticket must then hold
the very bytes of the ticket that an unbroken search wrote, and the last call must have
trained the epochs that were left and no other. Prints a table; exits with 1 where
anything was lost.
"""

import argparse
import collections
import errno
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from tflottery.core import files
from tflottery.lab.data import pipelines
from tflottery.search import loop

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
KEPT = ("ticket.safetensors", "rounds/001.ticket", "rounds/003.ticket")


def model(library):
    """Returns a network with state of every kind: statistics, seeds, averages."""
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3, seed=3),
            layers.Dense(3, activation="softmax"),
        ]
    )


def rewind():
    """Adam, to step 5: inside the second epoch."""
    return keras.optimizers.Adam(0.01), {"rewind_step": 5}


def averages():
    """Adam with moving averages, to step 0."""
    return keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9), {}


def learning_rate():
    """Momentum and a schedule; the learning rate alone goes back."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [6, 9], [0.1, 0.01, 1e-3]
    )
    return keras.optimizers.SGD(schedule, momentum=0.9), {"retrain": "learning_rate"}


def fine_tune():
    """Nothing goes back; moving averages are written over the weights after a round."""
    return keras.optimizers.Adam(0.01, use_ema=True), {"retrain": "fine_tune"}


def arrays():
    """Arrays, which the search shuffles, and callbacks that count epochs."""
    callbacks = [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=1, min_delta=0.02, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=0.05),
    ]
    options = {"callbacks": callbacks, "epochs": 5, "ds": (X, Y)}
    return keras.optimizers.Adam(0.02), options


def tf_keras_momentum():
    """tf_keras with momentum, to step 5; Dropout draws from a generator."""
    import tf_keras

    tf_keras.backend.experimental.enable_tf_random_generator()
    return tf_keras.optimizers.SGD(0.05, momentum=0.9), {"rewind_step": 5}


def drawn(trained, rewind):
    """Scores by random numbers that the number of weights left decides."""
    left = sum(np.count_nonzero(w) for w in trained.values())
    rng = np.random.default_rng(left)
    return {path: rng.random(w.shape) for path, w in trained.items()}


def criterion():
    """A criterion that draws, the same in every process."""
    return keras.optimizers.Adam(0.01), {"criterion": drawn}


CASES = {
    case.__name__: case
    for case in (
        *(rewind, averages, learning_rate, fine_tune, arrays),
        *(tf_keras_momentum, criterion),
    )
}


def noting(library, path):
    """Returns a callback that adds a byte to a file for every epoch."""

    class Noting(library.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with open(path, "a") as file:
                file.write(".")

    return Noting()


def find(case: str, folder: pathlib.Path, epochs=os.devnull, **more):
    """Runs the search of a case; in a folder that holds some of it, what is left.

    Args:
        case: its name.
        folder: the `run_dir`.
        epochs: a file that grows by a byte for every epoch that is trained.
        **more: arguments of `find_ticket`.
    """
    keras.utils.set_random_seed(int.from_bytes(os.urandom(3)))  # A new process's own.
    optimizer, options = CASES[case]()
    library = sys.modules[type(optimizer).__module__.split(".")[0]]
    library.utils.set_random_seed(int.from_bytes(os.urandom(3)))
    network = model(library)
    # The first weights of an unbroken search; those on disk count for a broken one.
    rng = np.random.default_rng(5)
    network.set_weights(
        [
            rng.normal(0, 0.4, w.shape).astype(w.dtype) if w.ndim == 2 else w
            for w in network.get_weights()
        ]
    )
    network.compile(
        optimizer,
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    batches = pipelines.train_pipeline(X, Y, batch_size=16, seed=0)
    arguments = {"ds": batches, "epochs": 3, "rounds": 3, "select": "last"}
    arguments |= {"target_sparsity": 0.7, "verbose": 0, "seed": 1}
    arguments |= {"validation_data": (X, Y), "run_dir": folder, **options, **more}
    given = arguments.get("callbacks", [])
    arguments["callbacks"] = [*given, noting(library, epochs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loop.find_ticket(network, **arguments)


def forked(work) -> int:
    """Runs `work()` in a forked process and returns the process's number."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            status = NO_SPACE
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(status)


def ended(number: int) -> int:
    """Waits for a process; returns its status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def die_in_write(rng: random.Random) -> None:
    """Has this process kill itself in one of its next writes, whichever stage."""
    left = rng.randrange(1, 14)
    stage = rng.choice(("empty", "half", "whole", "renamed"))
    replace, write = os.replace, files.write

    def dying_write(path, data):
        nonlocal left
        left -= 1
        if left or not isinstance(path, pathlib.Path):
            return write(path, data)
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        size = {"empty": 0, "half": len(data) // 2}.get(stage, len(data))
        scratch.write_bytes(data[:size])
        if stage == "renamed":
            replace(scratch, path)
        os.kill(os.getpid(), signal.SIGKILL)

    files.write = dying_write


def full_disk(rng: random.Random) -> None:
    """Has one of this process's next writes find no space left."""
    left, fsync = rng.randrange(1, 14), os.fsync

    def failing(descriptor):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    os.fsync = failing


NO_SPACE = 28
FAULTS = ("SIGKILL, any time", "SIGKILL, in a write", "SIGTERM", "no space left")


def broken(fault: str, case: str, folder: pathlib.Path, seconds: float, rng) -> bool:
    """Runs a search that meets a fault; returns whether the fault came in time."""

    def work():
        if fault == "SIGKILL, in a write":
            die_in_write(rng)
        elif fault == "no space left":
            full_disk(rng)
        find(case, folder)

    number = forked(work)
    if fault in ("SIGKILL, any time", "SIGTERM"):
        time.sleep(rng.uniform(0.3, 1.0) * seconds)
        os.kill(number, signal.SIGTERM if fault == "SIGTERM" else signal.SIGKILL)
    status = ended(number)
    expected = {"SIGTERM": -signal.SIGTERM, "no space left": NO_SPACE}
    assert status in (0, expected.get(fault, -signal.SIGKILL)), (fault, case, status)
    return status != 0


def epochs_kept(folder: pathlib.Path) -> int:
    """Returns how many finished epochs a folder holds; reading it must not fail."""
    current = folder / "current.safetensors"
    if not current.exists():
        return 0
    header = files.read_arrays(current)[1]
    histories = [header["history"]]
    for number in range(header["round"]):
        record = files.read_json(folder / "rounds" / f"{number:03d}.json")
        histories.append(record["history"])
    return sum(len(history.get("loss", ())) for history in histories)


def trained(case: str, folder: pathlib.Path) -> int:
    """Runs a search to its end; returns how many epochs that took."""
    with tempfile.NamedTemporaryFile() as epochs:
        assert ended(forked(lambda: find(case, folder, epochs.name))) == 0, case
        return os.path.getsize(epochs.name)


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="faults of each kind")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=FAULTS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as root:
        wanted, seconds, total = {}, {}, {}
        for case in options.cases:
            folder = pathlib.Path(root, case)
            began = time.monotonic()
            total[case] = trained(case, folder)
            assert total[case] == epochs_kept(folder), case
            seconds[case] = time.monotonic() - began
            wanted[case] = {name: (folder / name).read_bytes() for name in KEPT}
        searches = 0
        for fault in options.faults:
            while counts[fault, "faults"] < options.kills:
                case = options.cases[searches % len(options.cases)]
                searches += 1
                folder = pathlib.Path(root, f"{fault}-{searches}")
                for _ in range(rng.randrange(1, 4)):
                    before = epochs_kept(folder)
                    counts[fault, "faults"] += broken(
                        fault, case, folder, seconds[case], rng
                    )
                    after = epochs_kept(folder)
                    counts[fault, "lost"] += max(0, before - after)
                left = total[case] - epochs_kept(folder)
                counts[fault, "lost"] += abs(trained(case, folder) - left)
                for name, data in wanted[case].items():
                    if (folder / name).read_bytes() != data:
                        counts[fault, "differ"] += 1
                        print(f"{fault}, {case}: {name} differs", file=sys.stderr)
                        keep = pathlib.Path(tempfile.mkdtemp())
                        subprocess.run(["cp", "-r", folder, f"{root}/{case}", keep])
                        print(f"kept in {keep}", file=sys.stderr)
                counts[fault, "searches"] += 1
            print(
                f"| {fault} | {counts[fault, 'faults']} faults | "
                f"{counts[fault, 'searches']} searches | "
                f"{counts[fault, 'differ']} files that differ | "
                f"{counts[fault, 'lost']} epochs lost |",
                flush=True,
            )
    lost = sum(n for (_, what), n in counts.items() if what in ("differ", "lost"))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
