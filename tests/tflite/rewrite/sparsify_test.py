import numpy as np
import pytest
from making.tflite_files import one_layer, sparse_array, stored_sparse

from tflottery.tflite.file import encoding
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.run import verify

SHAPES = [
    *((3, size) for size in (255, 256, 257, 65_535)),
    (257, 70),
    *((4, 3, 3, size) for size in (255, 256, 257)),
    (300, 1, 1, 5),
]


def run(path, data, samples):
    path.write_bytes(data)
    outputs, *_ = verify.run_everywhere(path, [samples])
    assert {"tensorflow", "tensorflow+xnnpack"} <= set(outputs)
    return [got[0] for got in outputs.values()]


def check_everywhere(tmp_path, weight, data, samples, tolerance):
    """Checks that each runtime computes the layer with that weight."""
    expected = samples.reshape(len(samples), -1) @ weight.reshape(len(weight), -1).T
    for got in run(tmp_path / "sparse.tflite", data, samples):
        assert verify.difference(expected.reshape(got.shape), got) <= tolerance


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["random", "empty rows", "one", "none"])
def test_a_sparse_file_decodes_everywhere(shape, kind, tmp_path):
    weight = sparse_array(shape, 0.95)
    if kind == "empty rows":
        weight[1:] = 0
    if kind in ("one", "none"):
        weight[...] = 0
    if kind == "one":
        weight.reshape(-1)[-1] = 2.5
    dense, samples = one_layer(weight)
    graph = Graph(dense)
    (stored,) = sparsify.sparsify(graph)
    data = graph.to_bytes()
    assert stored.form == "sparse"
    assert stored.nonzeros == np.count_nonzero(weight)
    (coded,) = stored_sparse(Graph(data))
    np.testing.assert_array_equal(encoding.decode(coded), weight)
    check_everywhere(tmp_path, weight, data, samples, 1e-5)


@pytest.mark.parametrize(("order", "levels"), [((1, 0), 1), ((1, 0), 2), ((0, 1), 2)])
def test_every_walking_order_runs(order, levels, tmp_path, monkeypatch):
    weight = sparse_array((40, 30))
    dense, samples = one_layer(weight)
    monkeypatch.setattr(
        encoding, "cheapest", lambda array: encoding.encode(array, order, levels)
    )
    graph = Graph(dense)
    sparsify.sparsify(graph)
    (stored,) = stored_sparse(graph)
    assert (stored.order, stored.levels) == (order, levels)
    check_everywhere(tmp_path, weight, graph.to_bytes(), samples, 1e-5)


@pytest.mark.parametrize("shape", [(130, 600), (130, 3, 3, 80)], ids=str)
@pytest.mark.parametrize("sparsity", [0.1, 0.95, 0.98])
@pytest.mark.parametrize(
    ("storage", "tolerance"), [("float16", 1e-3), ("int8", 0.02)], ids=str
)
def test_narrow_storage_is_near(shape, sparsity, storage, tolerance, tmp_path):
    # 0.98 is where the converter's flag takes 1x4 blocks, and float16 becomes NaN.
    weight = sparse_array(shape, sparsity)
    dense, samples = one_layer(weight)
    graph = Graph(dense)
    (stored,) = sparsify.sparsify(graph, storage)
    assert stored.dtype == storage
    assert stored.form == ("dense" if sparsity < 0.3 else "sparse")
    check_everywhere(tmp_path, weight, graph.to_bytes(), samples, tolerance)


def constant_types(graph):
    tensors = range(len(graph.tensors))
    return {graph.tensors[t].type for t in tensors if graph.is_const(t)}


def test_a_bias_beside_a_float16_weight_is_float16_too():
    graph = Graph(one_layer(sparse_array((130, 60)))[0])
    sparsify.sparsify(graph, "float16")
    assert constant_types(Graph(graph.to_bytes())) == {1}


def test_a_bias_beside_an_int8_weight_stays_float32():
    graph = Graph(one_layer(sparse_array((130, 60)))[0])
    sparsify.sparsify(graph, "int8")
    assert constant_types(Graph(graph.to_bytes())) == {9, 0}


def test_no_stored_form_is_larger_than_dense():
    for sparsity in (0.0, 0.2, 0.31, 0.5):
        dense, _ = one_layer(sparse_array((64, 700), sparsity))
        graph = Graph(dense)
        sparsify.sparsify(graph)
        assert len(graph.to_bytes()) <= len(dense)


@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("shape", [(6, 6), (12, 20), (30, 5), (4, 3, 3, 4)], ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.6, 0.9, 1.0])
def test_narrow_storage_is_never_larger_than_exact(storage, shape, sparsity):
    dense, _ = one_layer(sparse_array(shape, sparsity))
    sizes = []
    for kind in ("keep", storage):
        graph = Graph(dense)
        sparsify.sparsify(graph, kind)
        sizes.append(len(graph.to_bytes()))
    assert sizes[1] <= sizes[0]


def test_the_sparse_kernel_computes_a_fully_connected_layer(tmp_path):
    weight = sparse_array((50, 700), 0.95)
    dense, samples = one_layer(weight)
    graph = Graph(dense)
    (stored,) = sparsify.sparsify(graph, kernel=sparsify.weights(graph))
    assert stored.form == "kernel"
    assert [graph.name(op) for op in graph.operators] == ["FULLY_CONNECTED"]
    check_everywhere(tmp_path, weight, graph.to_bytes(), samples, 1e-5)


def test_channels_of_unlike_size_get_scales_of_their_own():
    weight = np.ones((4, 8), np.float32) * np.array([[1], [10], [100], [0]], np.float32)
    alone = sparsify.quantize(weight + 0.001, 0)
    assert alone.scale.size == 4
    assert sparsify.quantize(np.ones((4, 8), np.float32), 0).scale.size == 1
    error = alone.values * alone.scale[:, None] - (weight + 0.001)
    assert np.abs(error[1]).max() < 0.01


def test_a_weight_too_large_for_float16_is_an_error():
    graph = Graph(one_layer(sparse_array((9, 9)) * 1e6)[0])
    with pytest.raises(ValueError, match="does not fit in float16"):
        sparsify.sparsify(graph, "float16")


def test_the_bound_is_values_places_and_all_else():
    weight = np.zeros((20, 50), np.float32)
    weight[:, 0] = 0.1  # 20 of 1000: 0.02 -> 141.44 bits
    graph = Graph(one_layer(weight)[0])
    places = encoding.entropy_bits(20, 1000) / 8
    assert sparsify.entropy_bound(graph, 4) == np.ceil(20 * 4 + places + 20 * 4)
    assert sparsify.entropy_bound(graph, 1) == np.ceil(20 * 1 + places + 20 * 4)


def test_weights_of_other_operators_that_stay_dense_are_named(tmp_path):
    import keras

    from tflottery.tflite import export_tflite

    class Product(keras.layers.Layer):
        def call(self, x):
            return keras.ops.matmul(x, sparse_array((2, 16, 16)))

    model = keras.Sequential([keras.layers.Input((2, 4, 16)), Product()])
    notes = export_tflite(model, tmp_path / "a.tflite").warnings
    assert any("the weights of BATCH_MATMUL stay dense, though" in n for n in notes)
