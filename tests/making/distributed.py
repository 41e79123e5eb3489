"""Searches on several replicas or workers, some of which die and resume.

    python tests/making/distributed.py (replicas | workers) FOLDER

Every search runs in a process forked from this one, so that importing TensorFlow, which
takes seconds, is done only once. Prints what happened as JSON.
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import sys
import time

import keras
import numpy as np
import tensorflow as tf
import tf_keras

import tflottery


def search(library, strategy, folder, dies):
    """Finds a ticket; returns it, and how many epochs that took."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6)).astype("float32")
    y = (x[:, 0] + x[:, 1] > 0).astype("int64")
    library.utils.set_random_seed(3)
    with strategy.scope():
        layers = library.layers
        model = library.Sequential(
            [
                layers.Input((6,)),
                layers.Dense(16, activation="relu", name="hidden"),
                layers.BatchNormalization(name="norm"),
                layers.Dense(2, activation="softmax", name="output"),
            ]
        )
        model.compile(
            library.optimizers.SGD(0.1),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    ds = tf.data.Dataset.from_tensor_slices((x, y)).batch(16).with_options(options)

    trained = []  # An attribute of the callback would be restored on resuming.

    class Dies(library.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            trained.append(epoch)
            if dies and len(trained) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

    model = tflottery.find_ticket(
        model,
        ds,
        validation_data=ds,
        epochs=2,
        rounds=1,
        target_sparsity=0.6,
        seed=3,
        select="last",
        verbose=0,
        run_dir=folder,
        callbacks=[Dies()],
    )
    return model.ticket, len(trained)


def replica_search(library, folder, dies):
    """Searches on two replicas in this process."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    search(library, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), folder, dies)


def worker_search(addresses, index, folder, out, dies):
    """Searches as one of two workers; writes the ticket and the number of epochs."""
    os.environ["GRPC_FAIL_FAST"] = "use_caller"
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    ticket, epochs = search(tf_keras, strategy, folder, dies and index)
    ticket.save(out / f"{index}.ticket")
    (out / f"{index}.epochs").write_text(str(epochs))


def started(work, *arguments):
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def run_replicas(folder):
    """Returns the exit statuses: unbroken, killed, and resumed, for both Kerases."""
    statuses = {}
    for library in (keras, tf_keras):
        name = library.__name__
        statuses[name] = []
        for run, dies in (("whole", False), ("broken", True), ("broken", False)):
            process = started(replica_search, library, folder / name / run, dies)
            process.join()
            statuses[name].append(process.exitcode)
    return statuses


def run_workers(folder):
    """Returns the workers' exit statuses: unbroken, one killed, and resumed."""
    statuses = []
    for run, dies in (("whole", False), ("broken", True), ("broken", False)):
        out = folder / f"{run}-out"
        out.mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        workers = [
            started(worker_search, addresses, index, folder / run, out, dies)
            for index in range(2)
        ]
        if dies:  # A cluster ends what waits for the dead.
            workers[1].join()
            time.sleep(1)
            workers[0].kill()
        for worker in workers:
            worker.join()
        statuses.append([worker.exitcode for worker in workers])
    return statuses


if __name__ == "__main__":
    run = {"replicas": run_replicas, "workers": run_workers}[sys.argv[1]]
    print(json.dumps(run(pathlib.Path(sys.argv[2]))))
