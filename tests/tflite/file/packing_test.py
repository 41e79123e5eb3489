import numpy as np
import pytest
from making.tflite_files import one_layer, sparse_array, with_constants_behind

from tflottery.tflite import export_tflite
from tflottery.tflite.file import packing
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.run import verify


def test_every_buffer_is_aligned():
    graph = Graph(one_layer(sparse_array((30, 40)))[0])
    sparsify.sparsify(graph, "int8")
    data = graph.to_bytes()
    for tensor in range(len(graph.tensors)):
        raw = graph.raw(tensor)
        if len(raw) >= 32 and any(raw):
            assert data.count(raw) == 1
            assert data.index(raw) % packing.ALIGNMENT == 0


def test_equal_vectors_are_written_once():
    def size(*vectors):
        graph = Graph(one_layer(np.eye(4, dtype=np.float32))[0])
        for vector in vectors:
            op = graph.op("RESHAPE", [0], [1], newShape=vector)
            graph.operators.append(op)
        return len(graph.to_bytes())

    long = np.arange(300, dtype=np.int32)
    once, twice, unlike = size(long), size(long, long), size(long, long + 1)
    assert twice - once < 100
    assert unlike - twice > 1000


def test_equal_tables_are_written_once():
    builder = packing._SharingBuilder(64)

    def pack(alpha):
        options = packing.schema().LeakyReluOptionsT()
        options.alpha = alpha
        return options.Pack(builder)

    first = pack(0.5)
    assert pack(0.5) == first
    assert pack(0.25) != first


def test_what_nothing_uses_is_dropped():
    data, _ = one_layer(np.eye(4, dtype=np.float32))
    graph = Graph(data)
    graph.add_const(np.zeros(5000, np.float32))
    graph.opcode("SOFTMAX")
    assert len(graph.to_bytes()) == len(data)


def test_names_are_dropped_but_those_of_inputs_and_outputs():
    graph = Graph(one_layer(np.eye(4, dtype=np.float32))[0])
    for index, tensor in enumerate(graph.tensors):
        tensor.name = f"tensor_{index}".encode()
    names = [t.name for t in Graph(graph.to_bytes(keep_names=True)).tensors]
    assert names == [b"tensor_0", b"tensor_1", b"tensor_2", b"tensor_3"]
    written = Graph(graph.to_bytes())
    assert [t.name for t in written.tensors] == [b"tensor_0", b"tensor_1", None, None]


def test_a_nameless_tensor_is_read_and_reported():
    # Tools that decode every name crash on these files.
    graph = Graph(one_layer(sparse_array((30, 40)))[0])
    assert all(tensor.name is None for tensor in graph.tensors)
    (stored,) = sparsify.sparsify(graph)
    assert stored.name == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda g: setattr(g.tensors[0], "buffer", 99),
            # From LiteRT's reader, or from the check after TensorFlow's.
            "index 99 is out of bounds|a buffer that does not exist",
        ),
        (lambda g: setattr(g.operators[0], "opcodeIndex", 9), "operator code 9"),
        (lambda g: setattr(g.operators[0], "inputs", np.array([77])), "does not exist"),
        (lambda g: setattr(g.tensors[2], "type", 4), "needs 128 bytes and has 64"),
    ],
)
def test_a_file_that_contradicts_itself_is_an_error(change, message):
    data, _ = one_layer(np.eye(4, dtype=np.float32))
    graph = Graph(data)
    change(graph)
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(graph.model.Pack(builder), b"TFL3")
    with pytest.raises(ValueError, match=message):
        Graph(bytes(builder.Output()))


def test_what_is_no_tflite_file_is_an_error():
    with pytest.raises(ValueError, match=r"^a\.tflite is not a \.tflite file"):
        Graph(b"PK\3\4 something else", "a.tflite")


def test_constants_behind_the_flatbuffer_are_read_and_written_inside(tmp_path):
    dense, samples = one_layer(sparse_array((300, 40)))
    behind = with_constants_behind(dense)
    (tmp_path / "behind.tflite").write_bytes(behind)
    outputs, *_ = verify.run_everywhere(tmp_path / "behind.tflite", [samples])
    assert Graph(behind).to_bytes() == dense
    report = export_tflite(tmp_path / "behind.tflite", tmp_path / "sparse.tflite")
    assert report.difference < 1e-5
    assert report.bytes < len(behind) / 4
    (tmp_path / "dense.tflite").write_bytes(dense)
    expected, *_ = verify.run_everywhere(tmp_path / "dense.tflite", [samples])
    assert verify.difference(expected["tensorflow"][0], outputs["tensorflow"][0]) == 0


def test_constants_behind_the_flatbuffer_that_are_cut_off_are_an_error():
    behind = with_constants_behind(one_layer(np.eye(4, dtype=np.float32))[0])
    with pytest.raises(ValueError, match=r"is damaged: tensor \d needs \d+ bytes"):
        Graph(behind[:-32])


def test_the_reader_of_tensorflow_gives_the_same_file(monkeypatch):
    from tensorflow.lite.tools import flatbuffer_utils

    def stored(data):
        graph = Graph(data)
        sparsify.sparsify(graph, "int8")
        return graph.to_bytes(keep_names=True)

    dense, _ = one_layer(sparse_array((300, 40)))
    behind = with_constants_behind(dense)
    expected = stored(dense)
    monkeypatch.setattr(packing, "library", lambda: flatbuffer_utils)
    assert stored(dense) == stored(behind) == expected
    assert Graph(expected).to_bytes(keep_names=True) == expected


def test_a_file_too_large_for_the_format_is_an_error(monkeypatch):
    monkeypatch.setattr(packing.flatbuffers.Builder, "MAX_BUFFER_SIZE", 1 << 17)
    data, _ = one_layer(np.zeros((100, 100), np.float32))
    graph = Graph(data)
    graph.add_const(np.zeros(1 << 16, np.float32))
    graph.operators[0].inputs[2] = len(graph.tensors) - 1
    with pytest.raises(ValueError, match="would be larger than 2 GB"):
        graph.to_bytes()
