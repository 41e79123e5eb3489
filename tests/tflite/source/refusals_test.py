"""What cannot be exported, by the name of its layer, and that the remedy works."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from making.tflite_files import prune

import tflottery
from tflottery.tflite import export_tflite
from tflottery.tflite.source import model as model_lib

BOTH = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])


def chain(k, shape, *layers, dtype=None):
    x = given = k.Input(shape, dtype=dtype)
    for layer in layers:
        x = layer(x)
    return k.Model(given, x)


@BOTH
def test_a_layer_that_reads_text_is_named_and_the_model_behind_it_is_exported(
    k, tmp_path
):
    words = k.layers.StringLookup(
        vocabulary=["a", "b"], output_mode="one_hot", name="words"
    )
    text, number = k.Input((1,), dtype="string"), k.Input((3,))
    both = k.layers.Concatenate()([words(text), number])
    model = k.Model([text, number], k.layers.Dense(2)(both))
    with pytest.raises(ValueError, match=r"is text, .* for layer 'words': export the"):
        export_tflite(model, tmp_path / "model.tflite")
    behind = k.Model([model.get_layer("words").output, number], model.output)
    assert export_tflite(behind, tmp_path / "model.tflite").difference < 1e-5


@BOTH
@pytest.mark.parametrize(
    ("name", "operator", "options"),
    [
        ("IntegerLookup", "LookupTableFindV2", {"vocabulary": [3, 5]}),
        ("Hashing", "AsString, StringToHashBucketFast", {"num_bins": 8}),
        ("CategoryEncoding", "DenseBincount", {"num_tokens": 5}),
    ],
)
def test_a_layer_that_tflite_has_no_operator_for_is_named(k, name, operator, options):
    layer = getattr(k.layers, name)(**options)
    model = chain(k, (2,), layer, k.layers.Rescaling(0.5), dtype="int64")
    message = f"no operator for {operator}. That is for layer '{layer.name}': export"
    with pytest.raises(ValueError, match=message):
        model_lib.from_model(model)


def test_a_model_that_returns_text_is_an_error_that_names_the_layer():
    layer = keras.layers.StringLookup(vocabulary=["a"], invert=True, name="word")
    with pytest.raises(ValueError, match=r"returns text, .* come from layer 'word'"):
        model_lib.from_model(chain(keras, (2,), layer, dtype="int64"))


@BOTH
def test_a_layer_that_draws_is_named(k):
    class Sampling(k.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    model = chain(k, (6,), k.layers.Dense(4), Sampling(name="sampling"))
    with pytest.raises(ValueError, match="what layer 'sampling' computes is random"):
        model_lib.from_model(model)


def test_a_layer_with_a_seed_that_draws_is_named():
    class Sampling(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.seed = keras.random.SeedGenerator(0)

        def call(self, x):
            return x + keras.random.normal((4,), seed=self.seed)

    with pytest.raises(ValueError, match="what layer 'sampling' computes is random"):
        model_lib.from_model(chain(keras, (4,), Sampling(name="sampling")))


def masked(k):
    class Masked(k.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(40, 30), name="kernel")
            self.kept = np.tri(40, 30, -30, dtype="float32")

        def call(self, x):
            self.kernel.assign(self.kernel * self.kept)
            return tf.matmul(x, self.kernel)

    return chain(k, (40,), Masked(name="masked"))


def test_a_layer_that_masks_its_own_weights_is_exported_sparse(tmp_path):
    report = export_tflite(masked(keras), tmp_path / "model.tflite")
    assert report.difference < 1e-5
    assert [stored.form for stored in report.weights] == ["sparse"]


def test_a_layer_of_tf_keras_that_writes_to_its_weights_is_named():
    with pytest.raises(ValueError, match=r"are written by layer 'masked', .* local"):
        model_lib.from_model(masked(tf_keras))


@BOTH
def test_a_model_without_a_call_names_its_parts_which_are_exported_sparse(k, tmp_path):
    class Gan(k.Model):
        def __init__(self):
            super().__init__(name="gan")
            self.generator = k.Sequential([k.layers.Dense(60)])
            self.critic = k.Sequential([k.layers.Dense(1)])

    gan = Gan()
    gan.generator(np.zeros((1, 40), np.float32))
    prune(gan.generator)
    message = r"'gan' has no `call`, .*: model\.generator, model\.critic\.$"
    with pytest.raises(ValueError, match=message):
        export_tflite(gan, tmp_path / "model.tflite")
    report = export_tflite(gan.generator, tmp_path / "model.tflite")
    assert [stored.form for stored in report.weights] == ["sparse"]


@BOTH
def test_a_stateful_layer_is_named(k):
    cell = k.layers.LSTM(4, stateful=True, name="memory")
    model = k.Sequential([k.layers.Input(batch_shape=(1, 5, 3)), cell])
    with pytest.raises(ValueError, match=r"state is kept of layer 'memory', .* output"):
        model_lib.from_model(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@BOTH
def test_the_remedy_for_stateful_layers_gives_a_file_with_their_states(k, tmp_path):
    layers = k.layers
    first = layers.GRU(4, stateful=True, return_sequences=True, name="first")
    second = layers.LSTM(3, stateful=True, name="second")
    given = layers.Input(batch_shape=(1, 2, 3))
    model = k.Sequential([given, layers.Dense(5), first, second, layers.Dense(2)])
    with pytest.raises(ValueError, match="layers 'first', 'second'") as error:
        model_lib.from_model(model)
    names = {"model": model, "keras": k}
    exec(str(error.value).partition(":\n")[2], names)
    export_tflite(names["stream"], tmp_path / "model.tflite")
    path = str(tmp_path / "model.tflite")
    run = tf.lite.Interpreter(path).get_signature_runner()
    state = {
        name: np.zeros(detail["shape"], np.float32)
        for name, detail in run.get_input_details().items()
    }
    assert set(run.get_output_details()) == {*names["new"], "output"}
    (x,) = set(state) - set(names["new"])
    for values in np.random.default_rng(0).normal(size=(3, 1, 2, 3)).astype("float32"):
        state = run(**state | {x: values})
        expected = np.asarray(model(values))
        np.testing.assert_allclose(state.pop("output"), expected, atol=1e-6)


@BOTH
def test_text_that_a_subclassed_model_reads_is_named(k):
    class Words(k.Model):
        def __init__(self):
            super().__init__()
            self.look = k.layers.StringLookup(vocabulary=["a"], name="words")

        def call(self, x):
            return self.look(x)

    with pytest.raises(ValueError, match=r"'input_0' is text, .* for layer 'words'"):
        model_lib.from_model(Words(), samples=np.array([["a"]]))


@pytest.mark.slow
def test_a_layer_that_keras_has_quantized_is_named():
    model = chain(keras, (4,), keras.layers.Dense(2, name="small"))
    model.get_layer("small").quantize("int8")
    with pytest.raises(ValueError, match="Keras has quantized layer 'small'"):
        model_lib.from_model(model)


def test_a_fixed_batch_is_kept():
    fixed = keras.layers.Input(batch_shape=(4, 6))
    model = keras.Model(fixed, keras.ops.reshape(fixed, (4, 3, 2)))
    source = model_lib.from_model(model, samples=np.zeros((6, 6)))
    assert source.expected[0].shape == (6, 3, 2)
    with pytest.raises(ValueError, match="built for batches of 4"):
        model_lib.from_model(model, batch_size=2)


def test_a_width_of_one_does_not_mislead_the_converter(tmp_path):
    layers = keras.layers
    x = layers.Input((20, 1))
    attended = layers.MultiHeadAttention(key_dim=16, num_heads=2)(x, x)
    model = keras.Model(x, layers.LayerNormalization()(attended) + x)
    assert export_tflite(model, tmp_path / "model.tflite").difference < 1e-5


@BOTH
def test_weights_that_break_the_masks_are_warned_of(k, tmp_path):
    model = prune(chain(k, (20,), k.layers.Dense(10, name="first")))
    tflottery.hold(model)
    model.compile("sgd", "mse", jit_compile=False)
    x, y = np.zeros((2, 20)), np.zeros((2, 10))
    model.evaluate(x, y, verbose=0)  # warns of nothing
    kernel = model.get_layer("first").kernel
    kernel.assign(np.ones((20, 10)))  # as a checkpoint that is restored does
    broken = "does not keep its masks: pruned weights are not zero in .*first/kernel"
    with pytest.warns(UserWarning, match=broken):
        model.evaluate(x, y, verbose=0)
    with pytest.warns(UserWarning, match=broken):
        export_tflite(model, tmp_path / "model.tflite")


@pytest.mark.slow
def test_quantization_aware_training_is_held_and_exported_sparse_as_int8(tmp_path):
    from tflottery.engines.tfmot import imported  # noqa: F401

    quantization = pytest.importorskip(
        "tensorflow_model_optimization.quantization.keras"
    )
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [layers.Input((400,)), layers.Dense(60, "relu"), layers.Dense(4)]
    )
    aware = quantization.quantize_model(prune(model))
    tflottery.hold(aware).compile("adam", "mse")
    data = np.random.default_rng(0).random((32, 400)).astype("float32")
    aware.fit(data, np.ones((32, 4)), verbose=0)
    kernels = [w for w in aware.trainable_weights if len(w.shape) > 1]
    assert all(np.mean(kernel.numpy() == 0) > 0.85 for kernel in kernels)
    options = {"target": "int8", "representative_data": data}
    report = export_tflite(aware, tmp_path / "model.tflite", samples=data, **options)
    assert report.weights[0].form == "sparse"
    assert "only `target=" in report.warnings[0]
