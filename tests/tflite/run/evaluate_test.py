import json

import numpy as np
import pytest
from making.tflite_files import one_layer, sparse_array

from tflottery.cli import main
from tflottery.tflite import benchmark_tflite, evaluate_tflite, export_tflite
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.run import evaluate, worker


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


@pytest.mark.parametrize("labels", [np.array([1, 0, 2]), np.array([[1.0], [0], [2]])])
def test_labels_of_every_number_type_name_classes(labels):
    scores = np.eye(3, dtype=np.float32)[[1, 0, 0]]
    assert evaluate.accuracy(labels, scores).tolist() == [1, 1, 0]
    assert evaluate.accuracy(labels, scores[:, None, None]).tolist() == [1, 1, 0]


def test_one_unit_is_the_probability_of_class_1():
    probabilities = np.array([[0.9], [0.5], [0.6], [0.1]])
    for labels in (np.array([1, 1, 0, 0]), np.array([True, True, False, False])):
        for scores in (probabilities, probabilities[:, 0]):
            assert evaluate.accuracy(labels, scores).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("metric", [evaluate.accuracy, evaluate.top_5])
@pytest.mark.parametrize(
    ("labels", "received"),
    [
        (np.array(["a", "b"]), r"<U1 of shape \(2,\)"),
        (np.array([0, 8]), r"int64 of shape \(2,\), from 0 to 8"),
        (np.array([-1, 0]), r"int64 of shape \(2,\), from -1 to 0"),
        (np.array([0.5, 1]), r"float64 of shape \(2,\), from 0.5 to 1.0"),
        (np.array([np.nan, 1]), r"float64 of shape \(2,\), from nan to nan"),
        (np.eye(7)[:2], r"float64 of shape \(2, 7\), from 0.0 to 1.0"),
        (np.eye(9)[:2], r"float64 of shape \(2, 9\), from 0.0 to 1.0"),
    ],
    ids=["text", "too large", "negative", "between", "NaN", "narrow", "wide"],
)
def test_labels_that_do_not_fit_the_head_are_an_error(labels, received, metric):
    message = (
        "^The labels of `ds` do not fit the head: for this file they must be class "
        rf"numbers from 0 to 7, \[samples\] or one-hot \[samples, 8\].*: {received}$"
    )
    with pytest.raises(ValueError, match=message):
        metric(labels, np.zeros((2, 8)))


def test_one_hot_labels_do_not_fit_one_unit():
    with pytest.raises(ValueError, match=r"numbers from 0 to 1, \[samples\]\. For"):
        evaluate.accuracy(np.eye(2), np.zeros((2, 1)))


@pytest.mark.parametrize("value", [np.nan, np.inf, "a"])
def test_inputs_that_are_no_finite_numbers_are_an_error(value, file):
    x = np.full((2, 4), value)
    with pytest.raises(ValueError, match=r"x of `ds` of input .* all finite numbers"):
        evaluate_tflite(file, [(x, np.zeros(2))], progress=False)


def test_what_is_no_path_is_an_error(tmp_path):
    with pytest.raises(TypeError, match=r"^`path` must be .* Received: None$"):
        evaluate_tflite(None, [])
    with pytest.raises(TypeError, match=r"^`path` must be .* Received: 3$"):
        benchmark_tflite(3)
    data, _ = one_layer(np.eye(3, 4, dtype=np.float32))
    (tmp_path / "a.tflite").write_bytes(data)
    with pytest.raises(TypeError, match=r"^`against` must be .* Received: 5$"):
        benchmark_tflite(tmp_path / "a.tflite", against=5)
    with pytest.raises(FileNotFoundError, match=r"^There is no file"):
        export_tflite(tmp_path, tmp_path / "new.tflite")


def test_metrics_may_be_functions(file):
    metrics = {"error": lambda labels, scores: np.abs(scores - labels).mean(axis=-1)}
    data = [(x, x[:, :3] + 2) for x, _ in batches(4, 4)]
    assert evaluate_tflite(file, data, metrics)["error"] == pytest.approx(2, abs=1e-6)


def test_a_dataset_that_does_not_fit_is_an_error(file):
    with pytest.raises(ValueError, match="holds no samples"):
        evaluate_tflite(file, [])
    with pytest.raises(ValueError, match=r"batches of \(x, labels\)"):
        evaluate_tflite(file, [np.zeros((2, 4), np.float32)])
    with pytest.raises(ValueError, match=r"samples of shape \(4\), all finite"):
        evaluate_tflite(file, [(np.zeros((2, 5), np.float32), np.zeros(2))])


@pytest.mark.parametrize(
    "metrics", [None, 5, "acuracy", ["acuracy"], [["accuracy"]], {"a": "accuracy"}, {}]
)
def test_metrics_that_are_unknown_or_no_functions_are_an_error(metrics, file):
    with pytest.raises(
        ValueError, match=r"^`metrics` must be of .* Received: metrics="
    ):
        evaluate_tflite(file, batches(2), metrics)


@pytest.mark.parametrize(
    ("batch", "metrics", "message"),
    [
        ((5, 9), ("accuracy",), r"a label per sample. Received: x of shape \(5, 4\)"),
        ((9, 1), ("accuracy",), r"a label per sample.*labels of shape \(1,\)"),
        ((5, 5), {"mean": lambda y, p: np.mean(y)}, "'mean' must return one number"),
    ],
)
def test_a_batch_or_a_metric_of_the_wrong_length_is_an_error(
    batch, metrics, message, file
):
    x, labels = np.zeros((batch[0], 4)), np.zeros(batch[1])
    with pytest.raises(ValueError, match=message):
        evaluate_tflite(file, [(x, labels)], metrics, progress=False)


def test_an_empty_batch_changes_nothing(file):
    data = [*batches(3), (np.zeros((0, 4)), np.zeros(0)), *batches(2)]
    assert evaluate_tflite(file, data, progress=False) == {"accuracy": 1.0}


def test_a_large_dataset_is_run_in_parts(file, monkeypatch):
    monkeypatch.setattr(evaluate, "_AT_A_TIME", 100)
    data = list(batches(5, 1, 9, 3))
    assert evaluate_tflite(file, data, progress=False) == {"accuracy": 1.0}


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_inputs_in_a_dict_reach_the_inputs_of_their_names(tmp_path):
    import keras

    a, b = (keras.Input((1,), name=name) for name in "xy")
    model = keras.Model({"b": b, "a": a}, keras.layers.Subtract()([a, b]))
    export_tflite(model, tmp_path / "model.tflite")
    a, b = np.full((2, 1), 5.0), np.full((2, 1), 2.0)
    metrics = {"value": lambda labels, predictions: predictions}
    for x in ({"a": a, "b": b}, {"b": b, "a": a}):
        data = [(x, np.zeros(2))]
        assert evaluate_tflite(tmp_path / "model.tflite", data, metrics) == {"value": 3}
    with pytest.raises(
        ValueError, match=r"`ds` must .* inputs \['a', 'b'\]. Received: a dict of"
    ):
        evaluate_tflite(tmp_path / "model.tflite", [({"x": a, "y": b}, np.zeros(2))])


def test_a_relative_path_means_the_folder_of_the_caller(file, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "only.tflite").write_bytes(file.read_bytes())
    evaluate_tflite(file, batches(2), progress=False)  # the worker runs from here on
    monkeypatch.chdir(tmp_path / "sub")
    assert evaluate_tflite("only.tflite", batches(2))["accuracy"] == 1
    report = benchmark_tflite("only.tflite", rounds=2, seconds=0.01)
    assert report.file.path == "only.tflite"
    exported = export_tflite("only.tflite", "out.tflite")
    assert (tmp_path / "sub" / "out.tflite").stat().st_size == exported.bytes


def test_a_file_that_asks_for_too_much_memory_is_an_error(tmp_path):
    data, _ = one_layer(np.eye(3, 4, dtype=np.float32))
    graph = Graph(data)
    for tensor in (graph.inputs[0], graph.outputs[0]):
        graph.tensors[tensor].shape[0] = 1 << 30  # 16 GB in, 12 GB out
    (tmp_path / "huge.tflite").write_bytes(graph.to_bytes())
    with pytest.raises(worker.JobError):
        evaluate_tflite(tmp_path / "huge.tflite", batches(2), progress=False)


def test_edited_files_are_errors_never_a_crash(tmp_path):
    data, _ = one_layer(sparse_array((3, 4), 0.5))
    generator = np.random.default_rng(2)
    path = tmp_path / "edited.tflite"
    refused = 0
    for _ in range(20):
        edited = bytearray(data)
        start = int(generator.integers(8, len(data) - 8))
        edited[start : start + 8] = generator.bytes(8)
        path.write_bytes(edited)
        try:
            evaluate_tflite(path, batches(2), progress=False)
        except (ValueError, worker.JobError):
            refused += 1
    assert refused >= 5


def test_the_command_says_in_a_line_that_a_file_does_not_run(tmp_path, capsys):
    path = tmp_path / "bad.tflite"
    path.write_bytes(b"\0\0\0\0TFL3" + b"\0" * 100)
    assert main.main(["benchmark", str(path)]) == 1
    assert capsys.readouterr().err.startswith("tflottery: The file does not run: ")


def test_top_5_looks_at_the_five_largest():
    scores = np.arange(8.0)[None]
    assert evaluate.top_5(np.array([3]), scores).tolist() == [1]
    assert evaluate.top_5(np.array([2]), scores).tolist() == [0]
    assert evaluate.top_5(np.eye(8)[[3, 2]], np.tile(scores, (2, 1))).tolist() == [1, 0]


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_top_5_of_five_classes_or_fewer_is_an_error(classes):
    message = f'"top_5" needs six classes or more.* a file with {classes} scores'
    with pytest.raises(ValueError, match=message):
        evaluate.top_5(np.zeros(3), np.zeros((3, classes)))


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
    assert str(report).endswith("x as fast, on 1 thread")


def test_a_file_that_is_not_there_or_does_not_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        benchmark_tflite(tmp_path / "nothing.tflite")
    (tmp_path / "bad.tflite").write_bytes(b"\0\0\0\0TFL3" + b"\0" * 100)
    with pytest.raises(worker.JobError):
        benchmark_tflite(tmp_path / "bad.tflite")


@pytest.mark.parametrize("value", [0, 1.5, True, "2", None, float("nan")])
@pytest.mark.parametrize("argument", ["threads", "rounds"])
def test_a_count_that_is_no_whole_number_is_an_error(argument, value, file):
    message = rf"^`{argument}` must be a whole .* Received: {argument}={value!r}$"
    with pytest.raises(ValueError, match=message):
        benchmark_tflite(file, **{argument: value})
    if argument == "threads":
        with pytest.raises(ValueError, match=message):
            evaluate_tflite(file, batches(2), threads=value)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "1", None, True])
def test_seconds_that_are_no_length_of_time_are_an_error(value, file):
    with pytest.raises(ValueError, match=rf"^`seconds` must .* seconds={value!r}$"):
        benchmark_tflite(file, seconds=value)


@pytest.mark.parametrize("value", ["tf.lite", "", 3])
def test_a_runtime_that_is_not_installed_is_an_error(value, file):
    with pytest.raises(ValueError, match=rf"^`runtime` must .* runtime={value!r}$"):
        benchmark_tflite(file, runtime=value)


def test_counts_of_numpy_are_counts(file):
    report = benchmark_tflite(
        file, threads=np.int64(2), rounds=np.int32(2), seconds=np.float32(0.01)
    )
    assert json.loads(report.to_json())["threads"] == 2
