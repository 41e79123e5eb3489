"""Datasets load from every source, are checked, and split without the test images."""

import os
import re
import struct

import numpy as np
import pytest

from tflottery.lab.data import datasets


@pytest.fixture(autouse=True)
def no_data_dir_from_outside(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def arrays(**changes):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(256, size=(20, 4, 4, 1), dtype=np.uint8),
        "y_train": np.arange(20) % 5,
        "x_test": rng.integers(256, size=(6, 4, 4, 1), dtype=np.uint8),
        "y_test": np.arange(6) % 5,
    } | changes


def images(**changes):
    return datasets.Images(name="own", num_classes=5, **arrays(**changes))


def test_digits_come_with_every_class_in_both_parts_and_the_same_each_time():
    a, b = datasets.load("digits"), datasets.load("digits")
    assert a.x_train.dtype == np.uint8
    assert a.x_train.max() == 255
    assert a.input_shape == (8, 8, 1)
    np.testing.assert_array_equal(a.x_test, b.x_test)
    shares = np.bincount(a.y_test) / np.bincount(np.r_[a.y_train, a.y_test])
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    both = np.concatenate([a.x_train, a.x_test]).reshape(1797, -1)
    from sklearn import datasets as sklearn_datasets

    original = np.rint(sklearn_datasets.load_digits().data * 255 / 16)
    assert sorted(map(bytes, both)) == sorted(map(bytes, original.astype(np.uint8)))


def test_validation_images_are_the_same_share_of_each_class_and_never_test_images():
    data = images(
        x_train=np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1),
        x_test=np.full((6, 1, 1, 1), 99, np.uint8),
    )
    (x, y), (x_val, y_val) = data.split_validation(0.25, seed=3)
    assert np.bincount(y_val).tolist() == [1] * 5
    assert np.bincount(y).tolist() == [3] * 5
    together = np.r_[x.ravel(), x_val.ravel()]
    assert sorted(together) == list(range(20))
    np.testing.assert_array_equal(y, x.ravel() % 5)
    np.testing.assert_array_equal(y_val, x_val.ravel() % 5)


def test_a_split_is_that_of_scikit_learn():
    from sklearn.model_selection import train_test_split

    y = np.repeat([0, 1, 2, 5], [30, 17, 17, 3])
    for fraction, seed in ((0.5, 0), (0.23, 1), (0.1, 2), (0.9, 3)):
        count = round(fraction * len(y))
        _, chosen = train_test_split(
            np.arange(len(y)), test_size=count, stratify=y, random_state=seed
        )
        found = datasets._stratified(y, fraction, seed)
        assert np.flatnonzero(found).tolist() == sorted(chosen)


def test_the_split_depends_on_the_seed_alone():
    def chosen(seed):
        return images().split_validation(0.5, seed)[1][0].tobytes()

    assert chosen(1) == chosen(1) != chosen(2)


def test_images_of_ones_own_are_arrays_or_tf_data():
    tf = pytest.importorskip("tensorflow")
    given = arrays()
    train, test = ((given[f"x_{p}"], given[f"y_{p}"]) for p in ("train", "test"))
    found = datasets.own("own", train, test)
    assert found.num_classes == 5
    assert datasets.load(found) is found
    streamed = [tf.data.Dataset.from_tensor_slices(part) for part in (train, test)]
    np.testing.assert_array_equal(datasets.own("own", *streamed).x_train, train[0])
    with pytest.raises(ValueError, match="`x_train` must hold uint8"):
        datasets.own("own", (train[0] / 255, train[1]), test)


def test_images_per_class_are_the_same_for_a_seed_and_those_of_fewer_are_among_them():
    data = images(
        x_train=np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1),
        x_test=np.zeros((6, 1, 1, 1), np.uint8),
    )
    assert data.per_class(None, seed=0) is data
    few, more = (data.per_class(count, seed=0) for count in (1, 3))
    assert np.bincount(more.y_train).tolist() == [3] * 5
    np.testing.assert_array_equal(more.y_train, more.x_train.ravel() % 5)
    assert set(few.x_train.ravel()) < set(more.x_train.ravel())
    assert set(data.per_class(1, seed=1).x_train.ravel()) != set(few.x_train.ravel())
    assert len(few.x_test) == 6


@pytest.mark.parametrize("count", [0, 5])
def test_more_images_per_class_than_there_are_are_an_error(count):
    with pytest.raises(ValueError, match=f"`images_per_class` must be .*{count}"):
        images().per_class(count, seed=0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 0.01, 0.99])
def test_a_fraction_that_leaves_a_part_empty_is_an_error(fraction):
    with pytest.raises(ValueError, match=r"`fraction` (must be in|leaves no image)"):
        images().split_validation(fraction, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((20, 4, 4, 1))}, "`x_train` must hold uint8.*float64"),
        ({"x_test": np.zeros((6, 4, 4, 2), np.uint8)}, r"`x_test`.*\(6, 4, 4, 2\)"),
        ({"x_test": np.zeros((6, 5, 4, 1), np.uint8)}, "images of one shape"),
        ({"x_test": np.zeros((0, 4, 4, 1), np.uint8)}, "`x_test` must hold uint8"),
        ({"y_train": np.arange(19)}, r"`y_train`.*each of the 20.*\(19,\)"),
        ({"y_train": np.arange(20.0) % 5}, "`y_train` must hold one whole-number"),
        ({"y_test": np.arange(6)}, r"`y_test` must hold labels in \[0, 5\).*0 to 5"),
        ({"y_test": np.arange(6) - 1}, "labels from -1 to 4"),
    ],
)
def test_arrays_that_are_not_images_with_labels_are_an_error(
    changes, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        images(**changes)
    np.savez(tmp_path / "smallnorb.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=f"(?s)smallnorb.npz: .*{message}"):
        datasets.load("smallnorb", data_dir=tmp_path)


def test_a_file_in_data_dir_comes_first_and_under_any_name(tmp_path):
    for name in ("digits", "fruit"):
        np.savez(tmp_path / f"{name}.npz", **arrays())
    fruit = datasets.load("fruit", data_dir=tmp_path)
    assert (fruit.name, fruit.num_classes, fruit.input_shape) == ("fruit", 5, (4, 4, 1))
    digits = datasets.load("digits", data_dir=str(tmp_path))
    assert (digits.num_classes, digits.input_shape) == (10, (4, 4, 1))
    np.testing.assert_array_equal(digits.x_test, arrays()["x_test"])


def test_grey_images_without_channels_and_labels_in_a_column_are_read(tmp_path):
    given = arrays()
    given |= {"x_train": given["x_train"][..., 0], "x_test": given["x_test"][..., 0]}
    given |= {"y_train": given["y_train"][:, None]}
    np.savez(tmp_path / "own.npz", **given)
    own = datasets.load("own", data_dir=tmp_path)
    np.testing.assert_array_equal(own.x_train, arrays()["x_train"])
    np.testing.assert_array_equal(own.y_train, arrays()["y_train"])


def test_a_file_with_missing_arrays_names_them(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=arrays()["x_train"])
    message = "own.npz: y_train, x_test, y_test missing.*but has x_train"
    with pytest.raises(ValueError, match=message):
        datasets.load("own", data_dir=tmp_path)


def test_a_file_of_objects_or_rubbish_is_an_error_and_runs_nothing(tmp_path):
    np.savez(tmp_path / "own.npz", **arrays(y_test=np.array([print] * 6, object)))
    with pytest.raises(ValueError, match=r"own\.npz: .*allow_pickle=False"):
        datasets.load("own", data_dir=tmp_path)
    for text in (b"", b"junk", b"\x93NUMPY"):
        (tmp_path / "own.npz").write_bytes(text)
        with pytest.raises(
            ValueError, match=r"own\.npz: it is not an \.npz file, as `tfl"
        ):
            datasets.load("own", data_dir=tmp_path)
    (tmp_path / "own.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"Cannot use .*own\.npz"):
        datasets.load("own", data_dir=tmp_path)


def test_what_save_npz_writes_load_reads(tmp_path):
    path = datasets.save_npz("digits", tmp_path / "new" / "folder")
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["digits.npz"]
    assert os.fspath(path).endswith("digits.npz")
    a, b = datasets.load("digits"), datasets.load("digits", data_dir=path.parent)
    for key in datasets.KEYS:
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
        assert getattr(a, key).dtype == getattr(b, key).dtype


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    (tmp_path / "digits.npz").write_bytes(b"old")

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        datasets.save_npz("digits", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["digits.npz"]
    assert (tmp_path / "digits.npz").read_bytes() == b"old"


def test_an_unknown_name_lists_the_names_and_says_how_to_bring_ones_own(tmp_path):
    names = "digits, mnist, fashion_mnist, cifar10, smallnorb"
    with pytest.raises(
        ValueError,
        match=f"one of {names}.*'fashon_mnist'.*"
        "Did you mean 'fashion_mnist'.*--data_dir",
    ):
        datasets.load("fashon_mnist")
    with pytest.raises(ValueError, match=re.escape(f"put it in {tmp_path}/fruit.npz")):
        datasets.load("fruit", data_dir=tmp_path)


def binary(array):
    """Returns an array in SmallNORB's file format."""
    array = np.asarray(array)
    magic = {np.dtype("uint8"): 0x1E3D4C55, np.dtype("int32"): 0x1E3D4C54}[array.dtype]
    # Fewer than three dimensions are filled up with ones.
    shape = (*array.shape, 1, 1)[: max(3, array.ndim)]
    header = struct.pack(f"<ii{len(shape)}i", magic, array.ndim, *shape)
    return header + array.astype(array.dtype.newbyteorder("<")).tobytes()


def write_norb(folder, part, count, seed):
    rng = np.random.default_rng(seed)
    # Both cameras; the first value of each picture is its number.
    dat = rng.integers(256, size=(count, 2, 96, 96), dtype=np.uint8)
    dat[:, 0, 0, 0] = np.arange(count)
    cat = (np.arange(count) % 5).astype(np.int32)
    info = np.stack([rng.integers(n, size=count) for n in (10, 9, 18, 6)], axis=1)
    info[:, 2] *= 2
    files = {"dat": dat, "cat": cat, "info": info.astype(np.int32)}
    for kind, array in files.items():
        (folder / f"{part}_{kind}").write_bytes(binary(array))
    return dat, cat


def test_smallnorb_files_become_the_left_cameras_images(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    raw, data = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    written = {
        part: write_norb(raw, name, count, seed)
        for part, name, count, seed in (
            ("train", "training", 10, 0),
            ("test", "testing", 5, 1),
        )
    }

    def download_and_extract(self, urls):
        assert all(url.startswith("https://") for url in urls.values())
        return {key: os.fspath(raw / key) for key in urls}

    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", download_and_extract
    )
    norb = datasets.load("smallnorb", data_dir=data)
    assert norb.num_classes == 5
    assert norb.input_shape == (96, 96, 1)
    for part, (dat, cat) in written.items():
        x, y = getattr(norb, f"x_{part}"), getattr(norb, f"y_{part}")
        number = x[:, 0, 0, 0]
        assert sorted(number) == list(range(len(dat)))
        np.testing.assert_array_equal(x[..., 0], dat[number, 0])
        np.testing.assert_array_equal(y, cat[number])

    # Prepared now: no download, and from here on no TFDS either.
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", None)
    datasets.save_npz("smallnorb", tmp_path, data_dir=data)
    again = datasets.load("smallnorb", data_dir=tmp_path)
    np.testing.assert_array_equal(again.x_train, norb.x_train)
    np.testing.assert_array_equal(again.y_test, norb.y_test)


def test_a_download_that_fails_says_how_to_get_the_data(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def offline(self, urls):
        raise OSError("no route to host")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", offline)
    message = "'smallnorb' is not in .*no route.*`tflottery data smallnorb --to DIR`"
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.load("smallnorb", data_dir=tmp_path)


@pytest.mark.parametrize("folder", ["mnist", "mnist/3.0.1"])
def test_the_folder_of_one_dataset_is_refused_and_left_as_it_is(tmp_path, folder):
    info = tmp_path / "mnist/3.0.1/dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text("{}")
    with pytest.raises(datasets.DatasetError) as caught:
        datasets.load("mnist", data_dir=tmp_path / folder)
    assert str(caught.value) == (
        "`data_dir` is the folder of one dataset. Pass the folder above it, data_dir="
        f"{str(tmp_path)!r}. Received: data_dir={str(tmp_path / folder)!r}"
    )
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [info]


def test_data_may_lie_wherever_fsspec_reads_and_writes(tmp_path):
    np.savez(tmp_path / "fruit.npz", **arrays())
    url = f"memory:/{tmp_path}/data"
    datasets.save_npz("fruit", url, data_dir=tmp_path)
    found = datasets.load("fruit", data_dir=url)
    np.testing.assert_array_equal(found.x_train, arrays()["x_train"])
