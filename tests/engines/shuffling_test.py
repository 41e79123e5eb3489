"""Shuffling: a search on a PyDataset goes on to the bytes of an unbroken one."""

import pickle
import random

import keras
import numpy as np
import pytest
from making.models import dense, interrupts, points

import tflottery
from tflottery.engines import shuffling
from tflottery.engines.data import FitSettings

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
X, Y = points(80, classes=2)


class Batches(keras.utils.PyDataset):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.asked = []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.asked.append(index)
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


def find(folder, ds, library=keras, stop=None):
    library.utils.set_random_seed(2)
    model = dense(library, classes=2)
    model.compile(
        library.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    random.seed()  # As in a process of its own.
    tflottery.find_ticket(
        model,
        ds,
        validation_data=(X, Y),
        epochs=3,
        rounds=1,
        select="last",
        seed=1,
        run_dir=folder,
        callbacks=[interrupts(library, at=stop)],
        verbose=0,
    )
    return (folder / "ticket.safetensors").read_bytes()


def goes_on_to_the_same_bytes(tmp_path, ds, library=keras):
    whole = find(tmp_path / "whole", ds(), library)
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path / "run", ds(), library, stop=2)
    return find(tmp_path / "run", ds(), library) == whole


# On JAX Keras takes a batch before the first epoch, and workers that read ahead then
# give what they have read so far to that epoch.
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2] if ON_TENSORFLOW else [1])
def test_a_search_on_a_py_dataset_goes_on_to_the_same_bytes(tmp_path, workers):
    assert goes_on_to_the_same_bytes(tmp_path, lambda: Batches(workers=workers))


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="needs TensorFlow")
def test_a_search_on_a_sequence_of_tf_keras_goes_on_to_the_same_bytes(tmp_path):
    import tf_keras

    class Sequence(tf_keras.utils.Sequence):
        __len__ = Batches.__len__

        def __getitem__(self, index):
            return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]

    assert goes_on_to_the_same_bytes(tmp_path, Sequence, tf_keras)


@pytest.mark.slow
def test_every_epoch_has_all_batches_in_an_order_of_its_own(tmp_path):
    batches = Batches(workers=1)
    find(tmp_path, batches)
    asked = batches.asked[-30:]  # The last round's.
    epochs = [tuple(asked[i : i + 10]) for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({*epochs, tuple(range(10))}) == 4


@pytest.mark.parametrize("steps", [4, 15])
def test_an_epoch_of_so_many_steps_asks_for_so_many_batches(steps):
    batches = Batches(workers=1)
    view = shuffling.seeded(
        batches, FitSettings(steps_per_epoch=steps), seed=1, keras=keras
    )
    assert len(view) == steps
    for view.epoch in range(10):
        for index in range(steps):
            view[index]
    passes = [sorted(batches.asked[i : i + 10]) for i in range(0, 10 * steps, 10)]
    assert passes == [list(range(10))] * steps


def test_a_py_dataset_without_an_end_keeps_its_own_order():
    class Endless(Batches):
        num_batches = None

    endless = Endless()
    settings = FitSettings(steps_per_epoch=4)
    assert shuffling.seeded(endless, settings, seed=1, keras=keras) is endless


def test_the_view_keeps_the_users_settings_and_can_be_sent_to_a_process():
    given = Batches(workers=3, use_multiprocessing=True, max_queue_size=4)
    view = shuffling.reordered(given, seed=5, keras=keras)
    assert (view.workers, view.use_multiprocessing, view.max_queue_size) == (3, True, 4)
    view.epoch = 2
    there = pickle.loads(pickle.dumps(view))
    for index in range(10):
        np.testing.assert_array_equal(there[index][0], view[index][0])
    view.epoch = 3
    assert any((there[i][0] != view[i][0]).any() for i in range(10))


def test_arrays_and_the_users_own_py_datasets_are_ordered_and_nothing_else():
    def seeded(data, **settings):
        return shuffling.seeded(data, FitSettings(**settings), seed=1, keras=keras)

    for data in ((X, Y), Batches()):
        view = seeded(data)
        assert not shuffling.is_ordered(data)
        assert shuffling.is_ordered(view)
        assert seeded(view) is view
    tensors = (keras.ops.convert_to_tensor(X), Y)
    assert seeded(tensors) is tensors
    assert seeded((X, Y), shuffle=False)[0] is X


@pytest.mark.parametrize("steps", [2, 5])
def test_epochs_of_so_many_steps_go_on_through_the_examples(steps):
    x = np.arange(10)[:, None]
    ordered = shuffling.batches((x,), seed=3, keras=keras, batch_size=3, steps=steps)
    assert len(ordered) == steps
    seen = []
    for epoch in range(4):
        ordered.epoch = epoch
        rows = [np.asarray(batch[0]).ravel() for batch in ordered]
        assert [len(row) for row in rows] == [3] * steps
        seen += np.concatenate(rows).tolist()
    passes = [sorted(seen[i : i + 10]) for i in range(0, len(seen) - 9, 10)]
    assert passes == [list(range(10))] * len(passes)
