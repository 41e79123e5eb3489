import keras
import numpy as np
import pytest
from making.tflite_files import prune

from tflottery.cli import main
from tflottery.tflite import benchmark_tflite, export_tflite
from tflottery.tflite.devices import npu, vela
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify

layers = keras.layers
needs_vela = pytest.mark.skipif(not vela.installed(), reason="Vela is not installed")


def images(count=32):
    return np.random.default_rng(5).random((count, 8, 8, 3), np.float32)


def convolutions(*more):
    network = [layers.Input((8, 8, 3)), layers.Conv2D(32, 3, activation="relu")]
    return prune(keras.Sequential([*network, *more]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file for NPUs, the model, and the report."""
    path = tmp_path_factory.mktemp("npu") / "model.tflite"
    tail = layers.Conv2D(64, 3), layers.Flatten(), layers.Dense(10)
    model = convolutions(*tail)
    report = export_tflite(model, path, target="npu", representative_data=images())
    return path, model, report


def int8_weights(path):
    graph = Graph(path.read_bytes())
    return [graph.const(tensor) for tensor in sparsify.weights(graph)]


@pytest.mark.slow
def test_weights_are_dense_int8_and_pruned_ones_exactly_zero(exported):
    path, model, report = exported
    assert set(report.operators).isdisjoint({"DENSIFY", "DEQUANTIZE", "QUANTIZE"})
    assert {(stored.form, stored.dtype) for stored in report.weights} == {
        ("dense", "int8")
    }
    kernels = [layer.kernel.numpy() for layer in model.layers if layer.weights]
    for array, kernel in zip(int8_weights(path), kernels, strict=True):
        order = (3, 0, 1, 2) if kernel.ndim == 4 else (1, 0)
        assert not array[kernel.transpose(order) == 0].any()
    assert report.difference < 0.1


def test_scales_are_symmetric_and_per_channel(exported):
    graph = Graph(exported[0].read_bytes())
    for tensor in sparsify.weights(graph):
        quantization = graph.tensors[tensor].quantization
        assert not np.any(quantization.zeroPoint)
        assert len(quantization.scale) == graph.shape(tensor)[0]


@needs_vela
def test_the_report_carries_velas_estimate_beside_the_unpruned_network(exported):
    report = exported[2]
    assert set(report.devices) == {"ethos-u55-128", "ethos-u85-256"}
    for found in report.devices.values():
        assert found.file.weights < found.against.weights / 3
        assert found.file.bytes < found.against.bytes
        assert min(found.file.us, found.file.cycles, found.file.sram) > 0
        assert not found.file.cpu_operators
    assert "without a device" in str(report)
    assert '"cycles"' in report.to_json()


@pytest.mark.slow
@needs_vela
@pytest.mark.parametrize("device", ["ethos-u55-32", "ethos-u65-512", "ethos-u85-2048"])
def test_a_file_is_compared_on_every_kind_of_npu(device, exported, tmp_path):
    path = exported[0]
    unpruned = tmp_path / "unpruned.tflite"
    unpruned.write_bytes(npu.filled(Graph(path.read_bytes())).to_bytes())
    found = benchmark_tflite(path, on=device, against=unpruned)
    assert found.speedup == pytest.approx(found.against.us / found.file.us)
    assert found.file.weights < found.against.weights
    assert str(path) in str(found)


def test_the_command_line_takes_a_file_without_data(exported, tmp_path):
    new = str(tmp_path / "new.tflite")
    assert main.main(["export", str(exported[0]), new, "--target=int8"]) == 0


@needs_vela
def test_the_command_line_asks_vela(exported, capsys):
    assert main.main(["benchmark", str(exported[0]), "--on=ethos-u55-128"]) == 0
    assert "cycles" in capsys.readouterr().out


@pytest.mark.slow
def test_clusters_leave_so_many_values_and_keep_zeros(exported, tmp_path):
    path, model, plain = exported
    few = tmp_path / "few.tflite"
    options = {"target": "npu", "representative_data": images()}
    report = export_tflite(model, few, clusters=8, **options)
    for before, after in zip(int8_weights(path), int8_weights(few), strict=True):
        assert len(np.unique(after[after != 0])) <= 8
        assert not after[before == 0].any()
        kept = before != 0
        gap = np.abs(after[kept].astype(int) - before[kept])
        assert gap.mean() < 16
    for device, found in report.devices.items():
        assert found.file.weights < plain.devices[device].file.weights


@pytest.mark.slow
@needs_vela
def test_what_stays_on_the_cpu_is_named(tmp_path):
    model, options = convolutions(layers.Activation("elu")), {"target": "npu"}
    options["representative_data"] = images()
    report = export_tflite(model, tmp_path / "a.tflite", **options)
    assert "ethos-u55-128 leaves to the CPU: DEQUANTIZE 1, ELU 1, QUANTIZE 1." in (
        report.warnings
    )


@needs_vela
def test_a_file_that_stays_on_the_cpu_is_told_without_a_time(tmp_path):
    model, path = keras.Sequential([layers.Input((9,)), layers.Softmax()]), "a.tflite"
    export_tflite(model, tmp_path / path)
    found = benchmark_tflite(tmp_path / path, on="ethos-u55-128")
    assert str(found).endswith("nothing runs on the NPU; on the CPU: SOFTMAX 1")


def test_without_vela_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(vela, "installed", lambda: False)
    model, path = convolutions(layers.Activation("elu")), tmp_path / "a.tflite"
    report = export_tflite(model, path, target="npu", representative_data=images())
    assert not report.devices
    assert "pip install 'tflottery[npu]'" in " ".join(str(report).split())
    assert "not on the NPU: DEQUANTIZE 1, ELU 1, QUANTIZE 1" in report.warnings[-1]
    with pytest.raises(ModuleNotFoundError, match="Vela is not installed"):
        benchmark_tflite(path, on="ethos-u55-128")


@needs_vela
def test_a_file_that_vela_does_not_take_is_an_error(exported, tmp_path):
    path, options = tmp_path / "a.tflite", {"target": "int8"}
    export_tflite(exported[1], path, representative_data=images(), **options)
    with pytest.raises(
        ValueError, match=r"Vela does not compile .* could not run on.*\"npu"
    ):
        benchmark_tflite(path, on="ethos-u55-128")


@needs_vela
def test_what_unpacks_pruned_weights_stays_on_the_cpu(exported, tmp_path):
    path, options = tmp_path / "a.tflite", {"target": "micro"}
    export_tflite(exported[1], path, representative_data=images(), **options)
    found = benchmark_tflite(path, on="ethos-u85-256")
    assert set(found.file.cpu_operators) == {"TFLM_DECODE"}


def test_a_device_takes_no_options_of_a_measurement(exported):
    with pytest.raises(ValueError, match=r"`on` goes with .* only. .*threads=2"):
        benchmark_tflite(exported[0], on="tflite-micro", threads=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "npu"}, '`target="npu"` needs `representative_data`'),
        ({"target": "npu", "clusters": 1}, "`clusters` must be a whole number of at"),
        ({"clusters": 16}, '`clusters` is only for `target="npu"`'),
    ],
)
def test_arguments_that_do_not_fit_are_errors(options, message, exported, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_tflite(exported[1], tmp_path / "a.tflite", **options)


def test_an_unknown_device_is_an_error(exported):
    with pytest.raises(ValueError, match=r"`on` must be one of .*ethos-u55-128"):
        benchmark_tflite(exported[0], on="ethos-n78")
