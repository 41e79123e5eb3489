import numpy as np
import pytest
from making.tflite_files import one_layer, one_uint8_layer, sparse_array

from tflottery.tflite.devices import fate, micro
from tflottery.tflite.devices.fate import fates
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify

WEIGHT = sparse_array((64, 300))


def stored(form):
    graph = Graph(one_layer(WEIGHT)[0])
    if form == "decode":
        micro.store(graph)
    elif form == "kernel":
        sparsify.sparsify(graph, kernel=sparsify.weights(graph))
    elif form != "dense":
        sparsify.sparsify(graph, form)
    return graph


@pytest.mark.parametrize(
    ("form", "paths"),
    [
        ("dense", "dense dense dense dense dense refused refused dense"),
        ("keep", "unpacked refused unpacked unpacked refused refused refused unknown"),
        ("int8", "unpacked refused unpacked unpacked refused refused refused unknown"),
        (
            "float16",
            "unpacked refused unpacked unpacked refused refused refused unknown",
        ),
        ("kernel", "sparse refused unknown unpacked refused refused refused unknown"),
        ("decode", f"refused refused refused refused unpacked {'refused ' * 6}"),
    ],
)
def test_each_runtime_takes_each_way_of_storing_as_documented(form, paths):
    found = fates(stored(form))
    assert [plan.path for plan in found.values()] == paths.split()
    for plan in found.values():
        assert bool(plan.reasons) == (plan.path != "dense")


def test_xnnpack_refuses_packed_weights_also_beside_dense_ones(monkeypatch):
    stored_as = [("FULLY_CONNECTED", form, False) for form in ("decode", "dense")]
    monkeypatch.setattr(fate, "_stored", lambda graph: stored_as)
    for name in ("x86", "arm", "wasm"):
        plan = fates(stored("decode"))[name]
        assert plan.paths[0] == ("FULLY_CONNECTED", "refused")
        assert plan.reasons == ("it has no TFLM_DECODE",)


def test_the_newest_npu_leaves_unpacking_integers_to_the_cpu():
    weight = np.where(WEIGHT[:, None, None], 99, 0).astype(np.uint8)
    graph = Graph(one_uint8_layer(weight, 0))
    sparsify.sparsify(graph)
    found = fates(graph)
    assert found["Ethos-U55, U65"].path == "refused"
    assert found["Ethos-U85"].path == "unpacked"
    assert "the CPU unpacks them in each call" in found["Ethos-U85"].reasons[0]


@pytest.mark.parametrize("form", ["keep", "int8", "float16", "kernel"])
def test_compiled_model_on_the_cpu_runs_what_the_plans_say(form, tmp_path):
    module = pytest.importorskip("ai_edge_litert.compiled_model")
    path, (_, samples) = tmp_path / "a.tflite", one_layer(WEIGHT)
    path.write_bytes(stored(form).to_bytes())
    model = module.CompiledModel.from_file(str(path))
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(samples[:1])
    model.run_by_index(0, inputs, outputs)
    found = outputs[0].read(64, np.float32)
    np.testing.assert_allclose(found, WEIGHT @ samples[0], atol=0.2)
