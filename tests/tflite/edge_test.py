import json

import numpy as np
import pytest
from small_files import one_layer, sparse_array

from tflottery.tflite import benchmark_tflite, edge, evaluate_tflite, worker


@pytest.fixture
def file(tmp_path):
    data, _ = one_layer(np.eye(3, 4, dtype=np.float32))
    path = tmp_path / "identity.tflite"
    path.write_bytes(data)
    return path


def batches(*sizes):
    generator = np.random.default_rng(0)
    for size in sizes:
        x = generator.normal(size=(size, 4)).astype(np.float32)
        x[:, 3] = -9
        yield x, x.argmax(axis=-1)


def test_accuracy_is_that_of_the_file_over_batches_of_any_size(file):
    right = list(batches(5, 1, 3))
    assert evaluate_tflite(file, right) == {"accuracy": 1.0}
    wrong = [(x, np.where(np.arange(len(y)) == 0, (y + 1) % 3, y)) for x, y in right]
    assert evaluate_tflite(file, wrong, progress=False)["accuracy"] == 6 / 9


def test_one_hot_labels_and_columns_of_labels_count_alike(file):
    one_hot = [(x, np.eye(3)[y]) for x, y in batches(6)]
    columns = [(x, y[:, None]) for x, y in batches(6)]
    assert evaluate_tflite(file, one_hot) == evaluate_tflite(file, columns)


def test_metrics_may_be_functions(file):
    metrics = {"error": lambda labels, scores: np.abs(scores - labels).mean(axis=-1)}
    data = [(x, x[:, :3] + 2) for x, _ in batches(4, 4)]
    assert evaluate_tflite(file, data, metrics)["error"] == pytest.approx(2, abs=1e-6)


def test_a_dataset_that_does_not_fit_is_an_error(file):
    with pytest.raises(ValueError, match="holds no samples"):
        evaluate_tflite(file, [])
    with pytest.raises(ValueError, match=r"batches of \(x, labels\)"):
        evaluate_tflite(file, [np.zeros((2, 4), np.float32)])
    with pytest.raises(ValueError, match="has shape"):
        evaluate_tflite(file, [(np.zeros((2, 5), np.float32), np.zeros(2))])
    with pytest.raises(ValueError, match="`metrics` must be of"):
        evaluate_tflite(file, batches(2), ["acuracy"])


def test_top_5_looks_at_the_five_largest():
    scores = np.arange(8.0)[None]
    assert edge.top_5(np.array([3]), scores).tolist() == [1]
    assert edge.top_5(np.array([2]), scores).tolist() == [0]


def test_a_larger_file_is_measured_to_be_slower_and_to_take_more_memory(tmp_path):
    for name, size in (("small", 10), ("large", 1500)):
        data, _ = one_layer(sparse_array((size, size), 0))
        (tmp_path / f"{name}.tflite").write_bytes(data)
    report = benchmark_tflite(
        tmp_path / "small.tflite",
        against=tmp_path / "large.tflite",
        rounds=5,
        seconds=0.3,
    )
    assert report.speedup is not None
    assert report.against is not None
    assert report.speedup > 5
    assert report.file.ms < report.against.ms
    low, high = report.file.quartiles
    assert low <= report.file.ms <= high
    if report.file.peak_ram is not None and report.against.peak_ram is not None:
        assert report.against.peak_ram > report.file.peak_ram + 8_000_000
    assert json.loads(report.to_json())["threads"] == 1
    assert "x as fast" in str(report)


def test_a_file_that_is_not_there_or_does_not_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        benchmark_tflite(tmp_path / "nothing.tflite")
    (tmp_path / "bad.tflite").write_bytes(b"\0\0\0\0TFL3" + b"\0" * 100)
    with pytest.raises(worker.JobError):
        benchmark_tflite(tmp_path / "bad.tflite")
    with pytest.raises(ValueError, match="`threads` and `rounds`"):
        benchmark_tflite(tmp_path / "bad.tflite", threads=0)
