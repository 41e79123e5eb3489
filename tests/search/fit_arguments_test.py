"""What `fit` takes, a search takes, with the same meaning."""

import keras
import numpy as np
import pytest

import tflottery
from tflottery.engines import data as data_lib
from tflottery.engines import joining

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def make_model():
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(2, activation="softmax", name="output"),
        ]
    )
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)  # Is traced quickly.
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def find(*data, model=None, **options):
    options = {"epochs": 2, "rounds": 1, "target_sparsity": 0.5, "verbose": 0} | options
    return tflottery.find_ticket(
        make_model() if model is None else model, *data, select="last", **options
    )


class Seen(keras.callbacks.Callback):
    """Notes what `fit` was called with."""

    def on_train_begin(self, logs=None):
        self.steps = self.params["steps"]


def test_a_batch_size_and_a_split_are_those_of_fit(monkeypatch):
    seen, model, sizes = Seen(), make_model(), set()
    fit = model.fit

    def noted(**given):
        sizes.add(given["validation_batch_size"] or given["batch_size"])
        fit(**given)

    monkeypatch.setattr(model, "fit", noted)
    options = {"batch_size": 8, "validation_split": 0.25, "callbacks": [seen]}
    ticket = find(X, Y, model=model, seed=1, **options).ticket
    assert sizes == {8}
    assert [r.steps for r in ticket.rounds] == [2 * 6, 2 * 6]
    assert seen.steps == 6
    assert ticket.monitor == "val_accuracy"


def test_the_split_is_the_last_examples():
    (x, y), (val_x, val_y) = joining.split(({"a": X}, Y), 0.25)
    np.testing.assert_array_equal(x["a"], X[:48])
    np.testing.assert_array_equal(val_x["a"], X[48:])
    np.testing.assert_array_equal(np.concatenate([y, val_y]), Y)


def test_a_list_of_labels_cannot_be_split():
    with pytest.raises(ValueError, match="Received as y: a list of 64"):
        find(X, list(Y), validation_split=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 1])
def test_so_many_steps_make_an_epoch(seed):
    ticket = find(
        *(X, Y), batch_size=8, steps_per_epoch=3, validation_data=(X, Y), seed=seed
    ).ticket
    assert [r.steps for r in ticket.rounds] == [6, 6]


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="needs tf.data")
def test_an_endless_dataset_goes_with_steps_per_epoch(tmp_path):
    import tensorflow as tf

    ds = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()
    options = {"steps_per_epoch": 3, "validation_data": ds, "validation_steps": 2}
    ticket = find(ds, run_dir=tmp_path, **options).ticket
    assert [r.steps for r in ticket.rounds] == [6, 6]
    with pytest.raises(ValueError, match=r"fit.steps_per_epoch: 3 there, 4 now"):
        find(ds, run_dir=tmp_path, **options | {"steps_per_epoch": 4})


@pytest.mark.slow
def test_class_weights_and_sample_weights_weigh_the_loss():
    def loss(**options):
        keras.utils.set_random_seed(0)
        options |= {"epochs": 1, "validation_data": (X, Y), "seed": 3}
        return find(X, Y, **options).ticket.rounds[0].metrics["loss"]

    plain = loss()
    assert loss(class_weight={0: 3.0, 1: 3.0}) == pytest.approx(3 * plain, rel=0.05)
    weights = np.full(64, 2.0, "float32")
    assert loss(sample_weight=weights) == pytest.approx(2 * plain, rel=0.05)
    assert loss(class_weight={0: 0.0, 1: 0.0}) == 0.0


@pytest.mark.slow
def test_data_that_is_not_shuffled_comes_in_its_order():
    batches = []

    class Note(keras.layers.Layer):
        def call(self, x):
            batches.append(np.asarray(x)[:, 0])
            return x

    model = make_model()
    model = keras.Sequential([keras.layers.Input((6,)), Note(), *model.layers])
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    if not ON_TENSORFLOW:
        pytest.skip("JAX traces the layer")
    batches.clear()
    validation = {"validation_data": (X, Y)}
    find(X, Y, model=model, shuffle=False, epochs=1, seed=1, **validation)
    np.testing.assert_array_equal(np.concatenate(batches[:2]), X[:, 0])


@pytest.mark.slow
def test_pandas_objects_are_data():
    pd = pytest.importorskip("pandas")
    data = {}
    for name, value in (
        ("frames", (pd.DataFrame(X), pd.Series(Y))),
        ("arrays", (X, Y)),
    ):
        keras.utils.set_random_seed(0)
        data[name] = find(value, validation_data=value, seed=1).ticket.masks
    for path, mask in data["frames"].items():
        np.testing.assert_array_equal(mask, data["arrays"][path])


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="needs SparseTensor")
@pytest.mark.parametrize("kind", ["coo", "SparseTensor"])
def test_sparse_data_is_split_and_searched(kind):
    import scipy.sparse
    import tensorflow as tf

    x = scipy.sparse.coo_matrix(X) if kind == "coo" else tf.sparse.from_dense(X)
    ticket = find(x, Y, validation_split=0.25, epochs=1).ticket
    assert (ticket.monitor, ticket.rounds[0].steps) == ("val_accuracy", 2)


def test_batches_of_sparse_matrices_are_refused_with_the_remedy():
    import scipy.sparse

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return scipy.sparse.csr_matrix(X), Y

    with pytest.raises(ValueError, match=r"`ds` yields batches of SciPy .*toarray\(\)"):
        find(Batches())


def test_texts_become_objects_that_keras_takes():
    (texts,) = joining.joined(np.array(["a", "bc"]))
    assert texts.dtype == object


def test_a_loader_that_only_iterates_and_counts_is_data():
    class Loader:  # As torch's DataLoader, which Keras 3 takes.
        def __len__(self):
            return 4

        def __iter__(self):
            return iter([[X[:16], Y[:16]]] * 4)

    data_lib.check("ds", Loader())
    assert data_lib.steps_per_epoch(Loader()) == 4
    data_lib.check_examples("ds", joining.joined(Loader()), make_model())


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="trains in TensorFlow's step")
def test_weights_that_training_leaves_alone_are_named():
    class Distiller(keras.Model):
        def __init__(self):
            super().__init__()
            self.teacher = keras.layers.Dense(2, name="teacher")
            self.student = keras.layers.Dense(2, name="student")

        def call(self, x):
            return self.student(x) + 0 * self.teacher(x)  # No gradient, unsaid.

    model = Distiller()
    model.compile("adam", "mse")
    with pytest.warns(UserWarning, match=r"Round 0 did not change teacher/.*`skip`"):
        find(X, X[:, :2], model=model, validation_split=0.25, epochs=1)


@pytest.mark.slow
def test_layers_with_lora_are_named():
    model = make_model()
    model.get_layer("hidden").enable_lora(2)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with (
        pytest.warns(UserWarning, match="LoRA is enabled in hidden: the kernels there"),
        pytest.warns(UserWarning, match="can be pruned"),
    ):
        find(X, Y, model=model, validation_split=0.25, epochs=1)


def test_labels_beside_a_dataset_are_an_error():
    ds = keras.utils.PyDataset
    with pytest.raises(ValueError, match="`y` must be left out if `ds` is a dataset"):
        joining.joined(ds(), Y)


def test_the_cost_is_told_for_the_same_arguments():
    options = {"batch_size": 8, "validation_split": 0.25, "epochs": 2, "rounds": 1}
    cost = tflottery.estimate_cost(make_model(), X, Y, **options)
    assert (cost.rounds, cost.steps) == (2, 2 * 2 * 6)
    with pytest.raises(TypeError, match="does not take `initial_epoch`"):
        tflottery.estimate_cost(make_model(), X, Y, initial_epoch=2)


@pytest.mark.slow
def test_a_search_goes_on_with_the_masks_that_a_model_holds(tmp_path):
    options = {"validation_split": 0.25, "seed": 1}
    sparse = find(X, Y, **options)
    first = sparse.ticket
    found = find(X, Y, model=sparse, **options | {"target_sparsity": 0.8})
    assert [round(r.sparsity, 1) for r in found.ticket.rounds] == [0.5, 0.8]
    for path, mask in found.ticket.masks.items():
        assert not np.any(mask & ~first.masks[path])
    again = find(X, Y, ticket=first, **options | {"target_sparsity": 0.8})
    assert again.ticket.rounds[0].sparsity == first.sparsity
    with pytest.raises(ValueError, match=r"must be above the 0\.5 that `model` starts"):
        find(X, Y, ticket=first, **options)


@pytest.mark.slow
def test_a_search_that_breaks_off_leaves_the_masks_that_it_began_with():
    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    sparse = find(X, Y, seed=1, validation_split=0.25)
    ticket = sparse.ticket
    options = {"target_sparsity": 0.8, "validation_split": 0.25}
    with pytest.raises(KeyboardInterrupt):
        find(X, Y, model=sparse, callbacks=[Break()], **options)
    assert sparse.ticket is ticket
    sparse.fit(X, Y, verbose=0)
    kernel = np.asarray(sparse.get_layer("hidden").kernel)
    assert not np.any(kernel[~ticket.masks["hidden/kernel"]])


@pytest.mark.slow
def test_a_loaded_model_holds_what_is_zero(tmp_path):
    sparse = find(X, Y, seed=1, validation_split=0.25)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert tflottery.hold(loaded) is loaded
    loaded.fit(X, Y, epochs=2, verbose=0)
    loaded.set_weights(make_model().get_weights())
    for path, mask in sparse.ticket.masks.items():
        kernel = np.asarray(loaded.get_layer(path.split("/")[0]).kernel)
        assert not np.any(kernel[~mask])
        assert np.all(kernel[mask])
    tflottery.release(loaded)
    loaded.fit(X, Y, verbose=0)
    assert np.all(np.asarray(loaded.get_layer("hidden").kernel))
    with pytest.raises(ValueError, match="has no zero among its prunable weights"):
        tflottery.hold(loaded)


@pytest.mark.slow
def test_logs_and_checkpoints_follow_the_rounds(tmp_path):
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", monitor="val_loss", save_best_only=True
    )
    found = find(X, Y, validation_split=0.25, rounds=2, callbacks=[log, best], seed=1)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", *"01" * 3]
    last = found.ticket.rounds[-1].history["val_loss"]
    assert best.best == pytest.approx(min(last))
    assert log.append is False


@pytest.mark.slow
def test_less_than_half_of_the_weights_prunable_is_told():
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Embedding(50, 8, name="words"),
            keras.layers.Flatten(),
            keras.layers.Dense(2, activation="softmax", name="output"),
        ]
    )
    data = (RNG.integers(0, 50, (64, 6)), Y)
    with pytest.warns(
        UserWarning, match=r"^19.3 % of the 498 .*words/embeddings.*incl"
    ):
        find(*data, model=model, validation_split=0.25)
    again = keras.models.clone_model(model)
    ticket = find(
        *data, model=again, validation_split=0.25, include=("words",), seed=1
    ).ticket
    assert set(ticket.masks) == {"words/embeddings", "output/kernel"}
    assert ticket.config.include == ("words",)
