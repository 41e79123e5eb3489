import keras
import numpy as np
import pytest
from making.tflite_files import prune

from tflottery.tflite import export_tflite
from tflottery.tflite.file.graph import Graph
from tflottery.tflite.rewrite import sparsify
from tflottery.tflite.run import verify
from tflottery.tflite.source import model as model_lib
from tflottery.tflite.xnnpack import outlook, speed, split_conv
from tflottery.tflite.xnnpack.canvas import Refusal
from tflottery.tflite.xnnpack.planar import make_planar

layers = keras.layers


def head(image, x):
    return keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def one(make, size=12, channels=3):
    def build():
        image = layers.Input((size, size, channels))
        return head(image, make(image))

    return build


def separable(padding):
    """Keras' own way to pad before a stride: after the image only."""

    def build():
        image = x = layers.Input((16, 16, 3))
        for filters, depthwise in ((16, False), (32, True), (32, True)):
            kind = "valid" if padding == "zero" else "same"
            if padding == "zero":
                x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
            if depthwise:
                x = layers.DepthwiseConv2D(3, strides=2, padding=kind)(x)
            x = layers.Conv2D(
                filters, 1 if depthwise else 3, 1 if depthwise else 2, padding=kind
            )(x)
            x = layers.ReLU(6.0)(x)
        return head(image, x)

    return build


def flattened(filters=16):
    image = x = layers.Input((8, 8, 3))
    x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(12, activation="relu")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(5)(x))


REWRITTEN = {
    "3x3": one(lambda x: layers.Conv2D(16, 3, padding="same", activation="relu")(x)),
    "5x5": one(lambda x: layers.Conv2D(16, 5, padding="same")(x)),
    "3x3, leaky": one(
        lambda x: layers.LeakyReLU()(layers.Conv2D(16, 3, padding="same")(x))
    ),
    "dilated": one(lambda x: layers.Conv2D(16, 3, padding="same", dilation_rate=2)(x)),
    "3x3 stride 2": one(lambda x: layers.Conv2D(16, 3, 2, padding="same")(x)),
    "3x3 stride 2, odd": one(lambda x: layers.Conv2D(16, 3, 2, padding="same")(x), 13),
    "1x1 stride 2": one(lambda x: layers.Conv2D(16, 1, 2, padding="same")(x)),
    "grey": one(lambda x: layers.Conv2D(16, 3, padding="same")(x), channels=1),
    "max-pool": one(
        lambda x: layers.MaxPooling2D(2)(layers.Conv2D(16, 3, padding="same")(x))
    ),
    "mean-pool": one(
        lambda x: layers.AveragePooling2D(2)(layers.Conv2D(16, 3, padding="same")(x))
    ),
    "zero padding": separable("zero"),
    "same padding": separable("same"),
    "flattened": flattened,
    "flattened, not of 4n channels": lambda: flattened(18),
}


def rewritten(dense, flip):
    graph = Graph(dense)
    graph.make_static()
    make_planar(graph, flip=flip)
    sparsify.sparsify(graph)
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("name", REWRITTEN)
def test_the_planar_network_is_the_same_and_runs_sparse(
    name, wasm, tmp_path, monkeypatch
):
    source = model_lib.from_model(prune(REWRITTEN[name]()))
    files = [tmp_path / "dense.tflite"]
    files[0].write_bytes(source.dense)
    # Convolutions of stride 1 can be taken apart in two ways.
    both = name in ("3x3", "5x5", "dilated")
    for cost in (np.inf, 0.0) if both else (np.inf,):
        monkeypatch.setattr(split_conv.Cross, "nanoseconds", lambda *_, c=cost: c)
        before = len(files)
        for flip in (False, True):
            try:
                graph = rewritten(source.dense, flip)
            except Refusal:
                assert name == "dilated" or "padding" in name
                continue
            found = outlook.outlook(graph)
            assert found.sparse or "stride 2" in name or "padding" in name
            assert not found.wrong
            files.append(tmp_path / f"{cost}_{flip}.tflite")
            files[-1].write_bytes(graph.to_bytes())
            checked = verify.verify(files[-1], source.samples, source.expected, 1e-5)
            assert checked.agreement == 1
        assert len(files) > before
    assert max(wasm(*files)) < 1e-5


@pytest.mark.parametrize("name", ["zero padding", "same padding"])
def test_padding_after_the_image_is_mirrored(name, tmp_path, monkeypatch):
    # These networks are too small for the cost model to find that it pays.
    monkeypatch.setattr(speed, "_PAYS", np.inf)
    report = export_tflite(
        prune(REWRITTEN[name]()), tmp_path / "model.tflite", target="sparse_speed"
    )
    assert report.operators["REVERSE_V2"] == 1
    assert "RESIZE_NEAREST_NEIGHBOR" not in report.operators
    assert report.plans["wasm"].path == "sparse"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: layers.Conv2D(4, 7, padding="same")(x), "7x7 is too wide"),
        (lambda x: layers.Conv2D(4, 3)(x), "shrinks the image"),
        (lambda x: layers.MaxPooling2D(3, 2)(layers.Conv2D(4, 1)(x)), "is not 2x2"),
        (
            lambda x: layers.ReLU()(
                layers.AveragePooling2D(12)(layers.Conv2D(4, 1)(x))
            ),
            "has an activation",
        ),
        (
            lambda x: layers.Concatenate()([layers.Conv2D(4, 1)(x)] * 2),
            "no planar form",
        ),
    ],
)
def test_what_has_no_planar_form_is_refused(make, message):
    dense = model_lib.from_model(prune(one(make)(), 0.5)).dense
    with pytest.raises(Refusal, match=message):
        rewritten(dense, False)


def test_an_image_of_more_than_three_channels_is_refused():
    model = one(lambda x: layers.Conv2D(4, 3, padding="same")(x), channels=4)()
    with pytest.raises(Refusal, match="more than 3"):
        rewritten(model_lib.from_model(prune(model)).dense, False)


def test_rewriting_is_left_where_it_does_not_pay(tmp_path):
    model = prune(REWRITTEN["3x3"](), 0.8)
    report = export_tflite(model, tmp_path / "model.tflite", target="sparse_speed")
    assert "DEPTHWISE_CONV_2D" not in report.operators
    assert any("stay dense" in warning for warning in report.warnings)


@pytest.mark.slow
def test_a_pruned_convolutional_network_is_rewritten(
    convnet, wasm, tmp_path, monkeypatch
):
    monkeypatch.setattr(speed, "_PAYS", np.inf)
    (tmp_path / "dense.tflite").write_bytes(model_lib.from_model(convnet).dense)
    for quantize in (None, "weights"):
        report = export_tflite(
            convnet,
            tmp_path / f"{quantize}.tflite",
            target="sparse_speed",
            quantize=quantize,
        )
        assert report.plans["arm"].path == "sparse"
        assert any("on x86 it may be slower" in w for w in report.warnings)
    exact, near = wasm(*(tmp_path / f"{n}.tflite" for n in ("dense", None, "weights")))
    assert exact < 1e-5
    assert near < 0.1


def test_padding_that_is_read_before_and_after_is_kept(tmp_path):
    image = layers.Input((8, 8, 3))
    padded = layers.ZeroPadding2D(1)(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3, activation="relu")(padded))
    x = layers.Multiply()([layers.Reshape((1, 1, 3))(x), padded])
    source = model_lib.from_model(prune(keras.Model(image, x)))
    path = tmp_path / "planar.tflite"
    path.write_bytes(rewritten(source.dense, False).to_bytes())
    verify.verify(path, source.samples, source.expected, 1e-5)
