"""Pipelines give the batches that seed and epoch name, to every kind of `fit`."""

import gc
import time
import weakref

import keras
import numpy as np
import pytest

from tflottery.engines import shuffling
from tflottery.lab.data import pipelines

X = np.arange(10, dtype=np.uint8)[:, None, None, None]
Y = np.arange(10)


@pytest.fixture(params=["tensorflow", "py_dataset"])
def backend(request, monkeypatch):
    """Makes each kind of pipeline in this process, whatever Keras' backend is."""
    if request.param == "tensorflow":
        pytest.importorskip("tensorflow")
    on(request.param, monkeypatch)
    return request.param


def on(backend, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)


def make(**settings):
    return pipelines.train_pipeline(X, Y, **({"batch_size": 4, "seed": 7} | settings))


def labels(batches):
    return [np.asarray(y).tolist() for _, y in batches]


def expected(epoch, size=4):
    order = shuffling.order(10, 7, epoch).tolist()
    return [order[i : i + size] for i in range(0, 10, size)]


def test_each_pass_takes_the_order_of_the_next_epoch(backend):
    batches = make()
    assert batches.epoch == 0
    for epoch in range(3):
        assert labels(batches) == expected(epoch)
        assert batches.epoch == epoch + 1


def test_every_epoch_holds_every_image_once_with_its_label(backend):
    for x, y in make():
        np.testing.assert_array_equal(np.asarray(x).ravel(), np.asarray(y))
    assert sorted(np.concatenate(labels(make()))) == list(range(10))
    assert expected(0) != expected(1)


def test_setting_the_epoch_starts_the_next_pass_there(backend):
    batches = make()
    labels(batches)
    batches.epoch = 5
    assert labels(batches) == expected(5)
    assert labels(batches) == expected(6)


def test_a_look_at_the_first_batch_ends_no_epoch(backend):
    batches = make()
    for _ in range(3):
        looking = iter(batches)
        assert np.asarray(next(looking)[1]).tolist() == expected(0)[0]
        time.sleep(0.1)  # So that what is read ahead is there.
        assert batches.epoch == 0
    assert labels(batches) == expected(0)


@pytest.mark.parametrize("size", [1, 4, 5, 10, 99])
def test_the_number_of_batches_is_known(backend, size):
    batches = make(batch_size=size)
    assert len(batches) == -(-10 // size)
    assert labels(batches) == expected(0, size)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_images_are_float32_and_whole_labels_int32(backend, dtype):
    x, y = next(
        iter(pipelines.train_pipeline(X.astype(dtype), Y, batch_size=4, seed=0))
    )
    assert np.asarray(x).dtype == np.float32
    assert np.asarray(y).dtype == np.int32
    one_hot = np.eye(10)
    x, y = next(iter(pipelines.train_pipeline(X, one_hot, batch_size=4, seed=0)))
    assert np.asarray(y).dtype == np.float32
    chosen = np.asarray(x).ravel().astype(int)
    np.testing.assert_array_equal(np.asarray(y), one_hot[chosen])


def noisy(images, rng):
    return images + rng.random(images.shape)


def test_augmentation_depends_on_seed_epoch_and_batch_alone(backend):
    def images(epoch, **settings):
        batches = make(augment=noisy, **settings)
        batches.epoch = epoch
        return [np.asarray(x) for x, _ in batches]

    again = zip(images(3), images(3), strict=True)
    assert all((a == b).all() for a, b in again)
    noise = [np.mod(images(e, seed=s)[b], 1) for e, s, b in ((3, 7, 0), (3, 7, 1))]
    noise += [np.mod(images(e, seed=s)[0], 1) for e, s in ((4, 7), (3, 8))]
    assert len({tuple(n.ravel()) for n in noise}) == 4


def test_both_kinds_give_the_same_augmented_batches(monkeypatch):
    pytest.importorskip("tensorflow")
    x = np.random.default_rng(0).integers(256, size=(9, 6, 5, 3), dtype=np.uint8)
    got = []
    for kind in ("tensorflow", "py_dataset"):
        on(kind, monkeypatch)
        batches = pipelines.train_pipeline(
            x, np.arange(9), batch_size=4, seed=1, augment=pipelines.flip_and_crop
        )
        got.append([np.asarray(x) for _ in range(2) for x, _ in batches])
    assert len(got[0]) == 6
    for a, b in zip(*got, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_py_dataset_follows_the_pass_whatever_order_fit_asks_in(monkeypatch):
    on("py_dataset", monkeypatch)
    batches = make()
    batches.on_epoch_begin()
    got = [batches[i][1].tolist() for i in (2, 0, 1)]
    batches.on_epoch_end()
    assert got == expected(0)
    assert batches.epoch == 1
    # Outside an epoch a number means that batch.
    assert batches[2][1].tolist() == expected(1)[2] == batches[-1][1].tolist()
    with pytest.raises(IndexError, match=r"There are 3 batches\. Received: index=3"):
        batches[3]


def test_a_py_dataset_shuffles_anew_after_an_epoch_cut_short(monkeypatch):
    on("py_dataset", monkeypatch)
    batches = make()
    for seen, epoch in ((1, 0), (2, 1), (3, 2)):
        batches.on_epoch_begin()
        for i in range(seen):
            batches[i]
        batches.on_epoch_end()
        assert batches.epoch == epoch


def cut(image, top, left, mirrored, pad):
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    height, width, _ = image.shape
    out = padded[top : top + height, left : left + width]
    return out[:, ::-1] if mirrored else out


def test_flip_and_crop_gives_a_shifted_and_perhaps_mirrored_image_with_zeros_around():
    images = np.random.default_rng(0).integers(1, 256, (400, 3, 4, 2), dtype=np.uint8)
    before = images.copy()
    out = pipelines.flip_and_crop(images, np.random.default_rng(1), pad=1)
    assert (out.shape, out.dtype) == (images.shape, images.dtype)
    np.testing.assert_array_equal(images, before)
    kinds = {}
    for image, got in zip(images, out, strict=True):
        found = [
            (top, left, mirrored)
            for top in range(3)
            for left in range(3)
            for mirrored in (False, True)
            if np.array_equal(got, cut(image, top, left, mirrored, 1))
        ]
        assert len(found) == 1
        kinds[found[0]] = kinds.get(found[0], 0) + 1
    # 18 kinds, 22 of each on average.
    assert len(kinds) == 18
    assert 150 < sum(n for kind, n in kinds.items() if kind[2]) < 250


@pytest.mark.parametrize("name", ["keras", "tf_keras"])
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_fit_on_tensorflow_counts_its_epochs(name, steps_per_execution):
    keras = pytest.importorskip(name)
    seen = []

    def spy(images, rng):
        seen.append(images.ravel().tolist())
        return images

    batches = make(augment=spy, keras=keras)
    if name == "keras" and keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend")
    model = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
        jit_compile=False,
    )
    # Keras looks at a first batch to build the metrics, so the spy may see it twice.
    model.fit(batches, epochs=2, verbose=0, shuffle=False)
    assert batches.epoch == 2
    wanted = sorted(map(sorted, expected(0) + expected(1)))
    assert sorted(map(sorted, seen[-6:])) == wanted
    seen.clear()
    batches.epoch = 0
    model.fit(batches, epochs=1, verbose=0, shuffle=False)
    assert sorted(seen) == sorted(expected(0))


def test_unequal_lengths_and_empty_data_are_errors():
    with pytest.raises(ValueError, match=r"same number.*10 images and 9 labels"):
        pipelines.train_pipeline(X, Y[:9], batch_size=4, seed=0)
    with pytest.raises(ValueError, match="0 images and 0 labels"):
        pipelines.train_pipeline(X[:0], Y[:0], batch_size=4, seed=0)


def test_a_batch_size_below_one_is_an_error():
    with pytest.raises(
        ValueError, match="`batch_size` must be a whole number of at least 1"
    ):
        make(batch_size=0)


def test_a_pipeline_that_is_dropped_lets_go_of_its_images(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    on("tensorflow", monkeypatch)
    kept, constant = [], tf.constant

    def watched(*args, **kwargs):
        tensor = constant(*args, **kwargs)
        kept.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(tf, "constant", watched)
    batches = make(augment=noisy)
    labels(batches)
    assert kept[0]() is not None
    del batches
    gc.collect()
    assert kept[0]() is None
