"""Datasets: the papers' images as NumPy arrays, from a file, a library or the web."""

import dataclasses
import importlib
import importlib.resources
import io
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tflottery.core import checks, extras, files
from tflottery.lab.models import unknown

KEYS = ("x_train", "y_train", "x_test", "y_test")


class DatasetError(OSError):
    """A dataset that is missing and cannot be downloaded, or cannot be read."""


Labelled = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """A dataset of images in memory, checked when it is made.

    Raises:
        ValueError: If an array has another dtype or shape, or a label is out of range.
    """

    name: str  # As in `tflottery find --dataset NAME`.
    x_train: np.ndarray  # Images [N, H, W, C], uint8, C 1 or 3.
    y_train: np.ndarray  # Their labels [N], whole numbers in [0, num_classes).
    x_test: np.ndarray  # Images [M, H, W, C], uint8. Choose nothing by them.
    y_test: np.ndarray  # Their labels [M].
    num_classes: int  # At least 2.

    def __post_init__(self):
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _check_images(f"x_{part}", x)
            _check_labels(f"y_{part}", y, len(x), self.num_classes)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                "`x_train` and `x_test` must hold images of one shape. Received: "
                f"{self.x_train.shape[1:]} and {self.x_test.shape[1:]}"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels

    def split_validation(self, fraction: float, seed: int) -> tuple[Labelled, Labelled]:
        """Returns images to train on and a `fraction` to validate on, in order.

        They are the training images, stratified by class. The test images are left
        alone, so that nothing is chosen by them.

        Raises:
            ValueError: If `fraction` is not in (0, 1), or too small or too large for
                both parts to have an image of each class.
        """
        checks.fraction("fraction", fraction, "a share of the training images")
        chosen = _stratified(self.y_train, fraction, seed)
        return (
            (self.x_train[~chosen], self.y_train[~chosen]),
            (self.x_train[chosen], self.y_train[chosen]),
        )

    def limited(self, count: int | None) -> "Images":
        """Returns the dataset with `count` training images at most, stratified."""
        if count is None or count >= len(self.x_train):
            return self
        _, (x, y) = self.split_validation(count / len(self.x_train), seed=0)
        return dataclasses.replace(self, x_train=x, y_train=y)

    def per_class(self, count: int | None, seed: int) -> "Images":
        """Returns the dataset with `count` training images of each class.

        `seed` draws them, the same ones first for a smaller count; `None` means all.

        Raises:
            ValueError: If a class has fewer.
        """
        if count is None:
            return self
        checks.whole("images_per_class", count, at_least=1)
        fewest = np.bincount(self.y_train, minlength=self.num_classes).min()
        if count > fewest:
            raise ValueError(
                f"`images_per_class` must be at most {fewest}, the images of the "
                f"smallest class of {self.name}. Received: images_per_class={count}"
            )
        order = np.random.default_rng(seed).permutation(len(self.y_train))
        labels = self.y_train[order]
        chosen = [order[labels == c][:count] for c in range(self.num_classes)]
        chosen = np.sort(np.concatenate(chosen))
        return dataclasses.replace(
            self, x_train=self.x_train[chosen], y_train=self.y_train[chosen]
        )

    def of_classes(self, classes: Collection[int] | None) -> "Images":
        """Returns the images of some classes, with labels from 0; `None` means all."""
        if classes is None:
            return self
        labels = np.full(self.num_classes, -1)
        labels[list(classes)] = range(len(classes))
        train, test = labels[self.y_train], labels[self.y_test]
        return dataclasses.replace(
            self,
            x_train=self.x_train[train >= 0],
            y_train=train[train >= 0],
            x_test=self.x_test[test >= 0],
            y_test=test[test >= 0],
            num_classes=len(classes),
        )


SOURCES: Mapping[str, int] = {
    "digits": 10,
    "mnist": 10,
    "fashion_mnist": 10,
    "cifar10": 10,
    "smallnorb": 5,
}
"""The number of classes of each dataset."""


def load(name: str | Images, *, data_dir: str | os.PathLike | None = None) -> Images:
    """Loads a dataset from the first of these that has it; `Images` come back.

    1. `data_dir/NAME.npz` with the arrays x_train, y_train, x_test and y_test. NumPy
       alone reads it, and NAME may be any: this is how to use your own data.
    2. For `digits`, tflottery itself: 1,797 images of 8x8 pixels. A fifth of each
       class, always the same, is the test set.
    3. TensorFlow Datasets in `data_dir`, downloaded if it is not there yet.

    Args:
        name: A name in `SOURCES`, or the name of a file in `data_dir`.
        data_dir: A local or remote folder; `None` is the environment variable
            TFDS_DATA_DIR, or else TensorFlow Datasets' own folder.

    Raises:
        ValueError: If `name` is unknown, or the data is not images with labels.
        DatasetError: If the data is missing and cannot be downloaded, or cannot be
            read (an OSError).
    """
    if isinstance(name, Images):
        return name
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    if data_dir and name:
        path = files.path_of(data_dir, "data_dir") / f"{name}.npz"
        if path.exists():
            return _load_npz(name, path)
    if name not in SOURCES:
        message = unknown("dataset", name, SOURCES)
        where = f"{data_dir or 'DIR'}/{name}.npz"
        where += "" if data_dir else ", with --data_dir DIR"
        end = "" if message.endswith("?") else "."
        raise ValueError(f"{message}{end} To use your own data, put it in {where}.")
    if name == "digits":
        return _load_digits()
    return _load_tfds(name, data_dir)


def own(name: str, train: Any, test: Any, num_classes: int | None = None) -> Images:
    """Returns images of your own as a dataset.

    Args:
        name: What to call it in results.
        train: `(x, y)` of arrays, or a `tf.data.Dataset` of such pairs, one per
            element: uint8 images [N, H, W, 1 or 3] and whole-number labels [N].
        test: The same; nothing is chosen by them.
        num_classes: `None` is the largest training label plus 1.

    Raises:
        ValueError: If they are not images with labels.
    """

    def arrays(data: Any) -> Labelled:
        if hasattr(data, "as_numpy_iterator"):
            x, y = zip(*data.as_numpy_iterator(), strict=True)
            return np.stack(x), np.asarray(y)
        x, y = data
        return np.asarray(x), np.asarray(y)

    (x_train, y_train), (x_test, y_test) = arrays(train), arrays(test)
    return Images(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        num_classes=num_classes or int(y_train.max()) + 1,
    )


def save_npz(
    name: str, folder: str | os.PathLike, *, data_dir: str | os.PathLike | None = None
) -> Any:
    """Writes `folder/NAME.npz`, which `load` reads without TensorFlow.

    The file appears only when it is complete. Arguments and errors are as in `load`.

    Returns:
        The path of the file.
    """
    images = load(name, data_dir=data_dir)
    path = files.path_of(folder, "folder") / f"{name}.npz"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{key: getattr(images, key) for key in KEYS})
    files.make_folder(path.parent)
    files.write(path, buffer.getvalue())
    return path


def _stratified(y: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns which examples are in a stratified `fraction` of all: [N] bool.

    They are those of scikit-learn's `train_test_split` with this seed, without the
    200 MB that it takes.
    """
    count, classes = round(fraction * len(y)), len(np.unique(y))
    if not classes <= count <= len(y) - classes:
        raise ValueError(
            "`fraction` leaves no image of some class to train on, or to validate on. "
            f"Received: {fraction=} of {len(y)} images of {classes} classes"
        )
    generator = np.random.RandomState(seed)
    labels, sizes = np.unique(y, return_counts=True)
    others = _apportioned(sizes, len(y) - count, generator)
    counts = _apportioned(sizes - others, count, generator)
    chosen = np.zeros(len(y), bool)
    for label, size, skipped, n in zip(labels, sizes, others, counts, strict=True):
        order = generator.permutation(size)[skipped : skipped + n]
        chosen[np.flatnonzero(y == label)[order]] = True
    return chosen


def _apportioned(
    sizes: np.ndarray, count: int, generator: np.random.RandomState
) -> np.ndarray:
    """Returns `count` in shares of `sizes`, the largest remainders rounded up.

    >>> _apportioned(np.array([6, 3, 1]), 2, np.random.RandomState(0)).tolist()
    [1, 1, 0]
    """
    shares = sizes / sizes.sum() * count
    counts = np.floor(shares)
    remainders = shares - counts
    for remainder in np.unique(remainders)[::-1]:
        left = int(count - counts.sum())
        if left == 0:
            break
        [equal] = np.nonzero(remainders == remainder)
        counts[generator.choice(equal, min(left, len(equal)), replace=False)] += 1
    return counts.astype(int)


def _check_images(key: str, x: Any) -> None:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or not x.size:
        raise ValueError(
            f"`{key}` must hold uint8 images [N, height, width, 1 or 3]. "
            f"Received: {x.dtype} of shape {x.shape}"
        )


def _check_labels(key: str, y: Any, count: int, num_classes: int) -> None:
    if not np.issubdtype(y.dtype, np.integer) or y.shape != (count,):
        raise ValueError(
            f"`{key}` must hold one whole-number label for each of the {count} "
            f"images. Received: {y.dtype} of shape {y.shape}"
        )
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(
            f"`{key}` must hold labels in [0, {num_classes}). "
            f"Received: labels from {y.min()} to {y.max()}"
        )


def _load_npz(name: str, path: Any) -> Images:
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # NumPy would report a pickle instead.
                raise ValueError(
                    "it is not an .npz file, as `tflottery data` and numpy.savez write."
                )
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive.files]
            if missing:
                raise ValueError(
                    f"{', '.join(missing)} missing. It must have the arrays "
                    f"{', '.join(KEYS)}, but has {', '.join(archive.files) or 'none'}"
                )
            arrays = {key: archive[key] for key in KEYS}
        for key, array in arrays.items():
            if key.startswith("x") and array.ndim == 3:  # Grey, as Keras stores MNIST.
                arrays[key] = array[..., None]
            elif key.startswith("y") and array.ndim == 2 and array.shape[1] == 1:
                arrays[key] = array[:, 0]
        y = arrays["y_train"]
        labels = int(y.max()) + 1 if y.size and y.dtype.kind in "iu" else 2
        num_classes = SOURCES.get(name, labels)
        return Images(name=name, num_classes=num_classes, **arrays)
    except Exception as error:  # A broken zip file raises many kinds of errors.
        raise ValueError(f"Cannot use {os.fspath(path)}: {error}") from error


def _load_digits() -> Images:
    # The test set of Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten
    # Digits", doi.org/10.24432/C50P49 (CC BY 4.0): 17 grey levels.
    source = importlib.resources.files("tflottery.lab.data") / "digits.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        x, y = archive["x"][..., None], archive["y"].astype(np.int64)
    x = np.rint(x * (255 / 16)).astype(np.uint8)
    test = _stratified(y, 0.2, seed=0)
    parts = {"x_train": x[~test], "y_train": y[~test]}
    parts |= {"x_test": x[test], "y_test": y[test]}
    return Images(name="digits", num_classes=10, **parts)


def _load_tfds(name: str, data_dir: str | os.PathLike | None) -> Images:
    remedy = (
        f"On a machine with a network and TensorFlow, `tflottery data {name} --to DIR` "
        f"writes DIR/{name}.npz; copy it here and pass --data_dir DIR."
    )
    if data_dir:
        _check_holds_datasets(data_dir)
    try:
        with extras.needed("tfds", f"The dataset {name!r}"):
            importlib.import_module("tensorflow")  # TFDS itself would fail only later.
            tfds = importlib.import_module("tensorflow_datasets")
        builder = tfds.builder(name, data_dir=data_dir and os.fspath(data_dir))
    except ImportError as error:
        raise DatasetError(
            f"{error}, or give the file {name}.npz in `data_dir`. {remedy}"
        ) from error
    try:
        if not builder.is_prepared():
            builder.download_and_prepare()
    except Exception as error:
        raise DatasetError(
            f"The dataset {name!r} is not in {builder.data_dir} and cannot be "
            f"downloaded: {_in_one_line(error)}. {remedy}"
        ) from error
    try:
        arrays = _read_tfds(tfds, builder)
    except Exception as error:  # TensorFlow raises many kinds of errors.
        raise DatasetError(
            f"The dataset {name!r} in {builder.data_dir} cannot be read: "
            f"{_in_one_line(error)}. Delete that folder, and it is made again."
        ) from error
    return Images(name=name, num_classes=SOURCES[name], **arrays)


def _read_tfds(tfds: Any, builder: Any) -> dict[str, np.ndarray]:
    # SmallNORB's left camera; `image2` is the right one.
    label = "label_category" if builder.name == "smallnorb" else "label"
    decoders = tfds.decode.PartialDecoding({"image": True, label: True})
    arrays = {}
    for part in ("train", "test"):
        # All examples in one batch, with only these two features decoded.
        batch = builder.as_dataset(
            split=part, batch_size=-1, shuffle_files=False, decoders=decoders
        )
        batch = tfds.as_numpy(batch)
        arrays[f"x_{part}"] = batch["image"]
        arrays[f"y_{part}"] = batch[label].astype(np.int64)
    return arrays


def _check_holds_datasets(data_dir: str | os.PathLike) -> None:
    """Checks that `data_dir` is not one dataset's folder, where TFDS would write."""
    path = files.path_of(data_dir, "data_dir")
    for pattern, above in (("*/dataset_info.json", 1), ("dataset_info.json", 2)):
        if any(path.glob(pattern)):
            parent = path.resolve().parents[above - 1]
            raise DatasetError(
                "`data_dir` is the folder of one dataset. Pass the folder above it, "
                f"data_dir={os.fspath(parent)!r}. "
                f"Received: data_dir={os.fspath(data_dir)!r}"
            )


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
