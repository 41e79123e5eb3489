"""Bad calls: every mistake is an error that names it, before hours are lost."""

import functools
import re

import keras
import numpy as np
import pytest
from making import fake_engine

import tflottery
from tflottery.search import run_dir

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = RNG.integers(0, 3, 64)


def make_model(outputs=3, activation="softmax", layers=()):
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            *layers,
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(outputs, activation=activation, name="output"),
        ],
        name="net",
    )


def compiled(loss="sparse_categorical_crossentropy", **options):
    model = make_model(**options)
    # XLA takes longer to compile than to train.
    jit = {"jit_compile": False} if ON_TENSORFLOW else {}
    model.compile(keras.optimizers.SGD(0.1), loss, **jit)
    return model


def find(model=None, ds=None, **options):
    options = {
        "validation_data": (X, Y),
        "epochs": 1,
        "rounds": 1,
        "select": "last",
        "seed": 1,
        "verbose": 0,
        **options,
    }
    return tflottery.find_ticket(
        make_model() if model is None else model,
        (X, Y) if ds is None else ds,
        **options,
    )


def tf_data(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays)


class Twins(keras.Model):
    def __init__(self):
        super().__init__(name="twins")
        self.a = keras.layers.Dense(6, name="same")
        self.b = keras.layers.Dense(3, name="same")

    def call(self, x):
        return self.b(self.a(x))


def twins():
    model = Twins()
    model(X[:1])
    return model


def frozen():
    model = make_model()
    model.trainable = False
    return model


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


class Endless(Batches):
    @property
    def num_batches(self):
        return None


ARGUMENTS = {
    "batch_size=0": (
        "`batch_size` must be a whole number of at least 1, or None. Received: "
        "batch_size=0"
    ),
    "steps_per_epoch=2.5": (
        "`steps_per_epoch` must be a whole number of at least 1, or None. Received: "
        "steps_per_epoch=2.5"
    ),
    "class_weight=[1.0, 2.0]": (
        "`class_weight` must be a dict from class numbers to weights, or None. "
        "Received: class_weight=[1.0, 2.0]"
    ),
    "shuffle='rows'": "`shuffle` must be a bool. Received: shuffle='rows'",
    "ds=X, y=Y, validation_data=None, validation_split=1.5": (
        "`validation_split` must be in (0, 1), both ends excluded: the share of the "
        "examples to split off. Received: validation_split=1.5"
    ),
    "ds=X[:1], y=Y[:1], validation_data=None, validation_split=0.1": (
        "`validation_split` leaves no examples to train or to validate on: there are "
        "1. Received: validation_split=0.1"
    ),
    "ds=X, sample_weight=Y": "`sample_weight` needs labels. Received: y=None",
    "initial_epoch=3": (
        "`find_ticket` does not take `initial_epoch`: each round begins at the epoch "
        "that its rewind leads to. Use `rewind_step`. Received: initial_epoch=3"
    ),
    "validation_freq=2": (
        "`find_ticket` does not take `validation_freq`: every round is judged after "
        "its last epoch. Use `validation_steps` to make that cheaper. Received: "
        "validation_freq=2"
    ),
    "bacth_size=3": "`find_ticket` has no argument 'bacth_size'.",
    "include='embedding'": (
        '`include` must be a tuple of patterns, such as ("output",). Received: '
        "include='embedding'"
    ),
    "include=('embedding',)": (
        "`include` has the pattern 'embedding', which matches no prunable weight. The "
        "prunable weights are: hidden/kernel, output/kernel."
    ),
    "callbacks=[keras.callbacks.BackupAndRestore('x')]": (
        "`callbacks` has a BackupAndRestore, which would load its own file over what "
        "the search restores. Use `run_dir`, which resumes after the last finished "
        "epoch."
    ),
    "callbacks=[keras.callbacks.SwapEMAWeights()]": (
        "`callbacks` has a SwapEMAWeights, which would swap averages of an earlier "
        "round into the weights. Leave it out: with `use_ema`, every round ends with "
        "the averages."
    ),
    "prune_fraction=0.0": (
        "`prune_fraction` must be in (0, 1), both ends excluded: the share "
        "of the remaining weights to prune. Received: prune_fraction=0.0"
    ),
    "prune_fraction=1": (
        "`prune_fraction` must be in (0, 1), both ends excluded: the share "
        "of the remaining weights to prune. Received: prune_fraction=1"
    ),
    "prune_fraction=float('nan')": (
        "`prune_fraction` must be in (0, 1), both ends excluded: the share "
        "of the remaining weights to prune. Received: prune_fraction=nan"
    ),
    "target_sparsity=0.0": (
        "`target_sparsity` must be in (0, 1), both ends excluded: the share"
        " of the prunable weights that are zero in the end. Received: "
        "target_sparsity=0.0"
    ),
    "target_sparsity=1": (
        "`target_sparsity` must be in (0, 1), both ends excluded: the share"
        " of the prunable weights that are zero in the end. Received: "
        "target_sparsity=1"
    ),
    "target_sparsity='0.9'": (
        "`target_sparsity` must be in (0, 1), both ends excluded: the share"
        " of the prunable weights that are zero in the end. Received: "
        "target_sparsity='0.9'"
    ),
    "target_sparsity=0.99": (
        "`target_sparsity` must leave at least one weight per layer: of"
        " 72 prunable weights in 2 layers at most 0.972222 can be pruned. "
        "Received: target_sparsity=0.99"
    ),
    "target_sparsity=1e-4": (
        "`target_sparsity` prunes none of the 72 weights. Received: "
        "target_sparsity=0.0001"
    ),
    "epochs=0": ("`epochs` must be a whole number of at least 1. Received: epochs=0"),
    "epochs=2.5": (
        "`epochs` must be a whole number of at least 1. Received: epochs=2.5"
    ),
    "epochs=True": (
        "`epochs` must be a whole number of at least 1. Received: epochs=True"
    ),
    "rounds=0": (
        "`rounds` must be a whole number of at least 1, or None. Received: rounds=0"
    ),
    "rewind_step=-1": (
        "`rewind_step` must be a whole number of at least 0. Received: rewind_step=-1"
    ),
    "rewind_step=2": (
        "`rewind_step` must lie within a round, which has 2 steps (1 epochs"
        " of 2). Received: rewind_step=2"
    ),
    "seed=-1": "`seed` must be a whole number from 0 to 4294967295, or None. "
    "Received: seed=-1",
    "seed=0.5": (
        "`seed` must be a whole number from 0 to 4294967295, or None. "
        "Received: seed=0.5"
    ),
    "settle=0": (
        "`settle` must be in (0, 1), both ends excluded: how much of its pruning a "
        "settled round may still change, or None. Received: settle=0"
    ),
    "tolerance=-0.1": (
        "`tolerance` must be a number of at least 0: the allowed drop below "
        "the dense metric. Received: tolerance=-0.1"
    ),
    "tolerance=float('nan')": (
        "`tolerance` must be a number of at least 0: the allowed drop below "
        "the dense metric. Received: tolerance=nan"
    ),
    "scope='all'": (
        "`scope` must be one of 'global', 'layer', 'erk'. Received: scope='all'"
    ),
    "criterion='l1'": (
        "`criterion` must be one of 'magnitude', 'magnitude_increase', "
        "'large_init', 'random'. Received: criterion='l1'"
    ),
    "criterion=None": (
        "`criterion` must be one of 'magnitude', 'magnitude_increase', "
        "'large_init', 'random'. Received: criterion=None"
    ),
    "retrain='reset'": (
        "`retrain` must be one of 'rewind', 'learning_rate', 'fine_tune'. "
        "Received: retrain='reset'"
    ),
    "select='best'": (
        "`select` must be one of 'sparsest_winning', 'last'. Received: select='best'"
    ),
    "monitor=''": (
        "`monitor` must be the name of a metric, or None. Received: monitor=''"
    ),
    "skip=None": (
        '`skip` must be a tuple of patterns, such as ("output",). Received: skip=None'
    ),
    "skip=5": (
        '`skip` must be a tuple of patterns, such as ("output",). Received: skip=5'
    ),
    "seed=2**40": (
        "`seed` must be a whole number from 0 to 4294967295, or None. "
        "Received: seed=1099511627776"
    ),
    "verbose=np.array([1, 2])": (
        '`verbose` must be "auto", 0, 1 or 2. Received: verbose=array([1, 2])'
    ),
    "monitor=3": (
        "`monitor` must be the name of a metric, or None. Received: monitor=3"
    ),
    "skip='output'": (
        '`skip` must be a tuple of patterns, such as ("output",). '
        "Received: skip='output'"
    ),
    "skip=('input',)": (
        "`skip` has the pattern 'input', which matches no prunable weight. "
        "The prunable weights are: hidden/kernel, output/kernel."
    ),
    "skip=('*',)": ("`skip` leaves nothing to prune. Received: skip=('*',)"),
    "layer_fractions={'output': 1.0}": (
        "`layer_fractions['output']` must be in (0, 1), both ends excluded:"
        " the share of the remaining weights to prune. Received: "
        "layer_fractions['output']=1.0"
    ),
    "layer_fractions={'input': 0.1}": (
        "`layer_fractions` has the pattern 'input', which matches no "
        "prunable weight. The prunable weights are: hidden/kernel, "
        "output/kernel."
    ),
    "layer_fractions=['output']": (
        "`layer_fractions` must be a dict from patterns to fractions, such as "
        "{\"output\": 0.1}. Received: layer_fractions=['output']"
    ),
    "layer_fractions={0: 0.1}": (
        "`layer_fractions` must be a dict from patterns to fractions, such as "
        '{"output": 0.1}. Received: layer_fractions={0: 0.1}'
    ),
    "callbacks=[print]": (
        "`callbacks` must be a list of keras.callbacks.Callback. Received: "
        "callbacks=[<built-in function print>]"
    ),
    "callbacks=keras.callbacks.EarlyStopping()": (
        "`callbacks` must be a list of keras.callbacks.Callback. Received: "
        "callbacks=<keras.src.callbacks.early_stopping.EarlyStopping object"
        " at 0x>"
    ),
    "verbose=3": ('`verbose` must be "auto", 0, 1 or 2. Received: verbose=3'),
    "resume='always'": (
        "`resume` must be one of 'auto', 'never'. Received: resume='always'"
    ),
    "run_dir=3": (
        "`run_dir` must be a local path, or a URL that fsspec knows, such as "
        '"runs/a", "s3://bucket/a" or "hf://user/repository/a". Received: run_dir=3'
    ),
    "criterion=lambda trained: trained": (
        "`criterion` must take two dicts of arrays, (trained, rewind), and "
        "return a dict of scores. Received: <lambda>, which does not: too "
        "many positional arguments"
    ),
    "ds=(X[:0], Y[:0])": ("`ds` is empty: its arrays have length 0."),
    "ds=(X, Y[:9])": (
        "The arrays in `ds` must have the same length. Received the lengths: 64, 9."
    ),
    "ds=(X, Y, np.ones(9))": (
        "The arrays in `ds` must have the same length. Received the lengths: 64, 64, 9."
    ),
    "ds=(X,)": (
        "`model` 'net' is not compiled, and it is not clear which loss fits"
        " its output (units: 3, activation: softmax) and its data, which "
        "has no labels. Compile it first, for example "
        '`model.compile(optimizer, loss, metrics=["accuracy"])`.'
    ),
    "ds=X": (
        "`model` 'net' is not compiled, and it is not clear which loss fits"
        " its output (units: 3, activation: softmax) and its data, which "
        "has no labels. Compile it first, for example "
        '`model.compile(optimizer, loss, metrics=["accuracy"])`.'
    ),
    "ds=3": (
        "`ds` must be (x, y) arrays, a tf.data.Dataset or a "
        "keras.utils.PyDataset. Received: 3 of type int"
    ),
    "ds=iter([(X, Y)])": (
        "`ds` is a generator or iterator, which can be read only once, but "
        "every round reads the data again. Use a tf.data.Dataset, a "
        "keras.utils.PyDataset or arrays. Received: <list_iterator object "
        "at 0x>"
    ),
    "ds=(5, 6)": (
        "`ds` must hold arrays with one row per example. Convert lists and "
        'objects by `np.asarray(..., "float32")`. Received as x: 5'
    ),
    "ds=(X, np.float32(5))": (
        "`ds` must hold arrays with one row per example. Convert lists and "
        'objects by `np.asarray(..., "float32")`. Received as y: '
        "np.float32(5.0)"
    ),
    "ds=(X.tolist(), Y.tolist())": (
        "`ds` must hold arrays with one row per example. Convert lists and "
        'objects by `np.asarray(..., "float32")`. Received as x: a list of '
        "64"
    ),
    "ds=(None, Y)": (
        "`ds` must hold arrays with one row per example. Convert lists and "
        'objects by `np.asarray(..., "float32")`. Received as x: None'
    ),
    "ds=(np.array([None] * 64), Y)": (
        "`ds` must hold arrays with one row per example. Convert lists and "
        'objects by `np.asarray(..., "float32")`. Received as x: '
        "array([None, ... dtype=object)"
    ),
    "ds=(X, Y, 5)": (
        "`ds` must hold arrays with one row per example. Convert lists and "
        'objects by `np.asarray(..., "float32")`. Received as '
        "sample_weight: 5"
    ),
    "validation_data=(X, 5)": (
        "`validation_data` must hold arrays with one row per example. "
        'Convert lists and objects by `np.asarray(..., "float32")`. '
        "Received as y: 5"
    ),
    "ds={'x': 1}": (
        "`ds` must hold arrays with one row per example. Convert lists and "
        "objects by `np.asarray(..., \"float32\")`. Received as x: {'x': 1}"
    ),
    "ds='mnist'": (
        "`ds` must be (x, y) arrays, a tf.data.Dataset or a "
        "keras.utils.PyDataset. Received: 'mnist' of type str"
    ),
    "ds=np.array(5)": (
        "`ds` must be (x, y) arrays, a tf.data.Dataset or a "
        "keras.utils.PyDataset. Received: array(5) of type ndarray"
    ),
    "ds=Batches([])": ("`ds` is empty: it has no batches."),
    "ds=Batches([X])": (
        "`model` 'net' is not compiled, and it is not clear which loss fits"
        " its output (units: 3, activation: softmax) and its data, which "
        "has no labels. Compile it first, for example "
        '`model.compile(optimizer, loss, metrics=["accuracy"])`.'
    ),
    "ds=Endless([(X, Y)])": (
        "`ds` is endless, so an epoch never ends: its `num_batches` is "
        "None. Give it a `__len__`, or pass `steps_per_epoch`."
    ),
    "ds=(X, Y + 1)": (
        "`ds` has labels from 1 to 3, but the model's output has 3 units, "
        "for labels from 0 to 2. Give the model a head of 4 units, or map "
        "the labels."
    ),
    "ds=(X, Y - 1)": (
        "`ds` has labels from -1 to 1, but the model's output has 3 units, "
        "for labels from 0 to 2. Give the model a head of 3 units, or map "
        "the labels."
    ),
    "model=compiled(), ds=(X, Y + 0.5)": (
        "`ds` has labels that are not whole numbers, such as 2.5, but the "
        "loss sparse_categorical_crossentropy takes class numbers. Use "
        '"categorical_crossentropy" for probabilities, or a regression '
        "loss."
    ),
    "ds=(X[:, :5], Y)": (
        "`ds` has examples of shape (5,), but `model` 'net' takes (6,). "
        "Reshape the examples, or give the model another input."
    ),
    "ds=(X.astype(str), Y)": (
        "`ds` has strings as examples, but `model` 'net' takes numbers. "
        "Convert them first."
    ),
    "ds=(X * np.nan, Y)": (
        "Training diverged in round 0, before there was any ticket: the "
        "loss or a weight is NaN or infinite. Lower the learning rate of "
        "`model`'s optimizer, or look for NaN in `ds`."
    ),
    "validation_data=(X[:0], Y[:0])": (
        "`validation_data` is empty: its arrays have length 0."
    ),
    "validation_data=(X, Y + 1)": (
        "`validation_data` has labels from 1 to 3, but the model's output "
        "has 3 units, for labels from 0 to 2. Give the model a head of 4 "
        "units, or map the labels."
    ),
    "validation_data=(X[:, :5], Y)": (
        "`validation_data` has examples of shape (5,), but `model` 'net' "
        "takes (6,). Reshape the examples, or give the model another input."
    ),
    "validation_data=iter([(X, Y)])": (
        "`validation_data` is a generator or iterator, which can be read "
        "only once, but every round reads the data again. Use a "
        "tf.data.Dataset, a keras.utils.PyDataset or arrays. Received: "
        "<list_iterator object at 0x>"
    ),
    "validation_data=0.2": (
        "`validation_data` must be (x, y) arrays, a tf.data.Dataset or a "
        "keras.utils.PyDataset. Received: 0.2 of type float"
    ),
    "model='net'": (
        "`model` must be a Keras 3 or tf_keras model. Received: 'net' of "
        "type builtins.str"
    ),
    "model=keras.Sequential": (
        "`model` must be a Keras 3 or tf_keras model. Received: <class "
        "'keras.src.models.sequential.Sequential'> of type builtins.type"
    ),
    "model=keras.Sequential([keras.layers.Input((6,)), keras.layers.Rescaling(2)], "
    "name='net')": ("`model` 'net' has no weights, so there is nothing to prune."),
    "model=frozen()": (
        "`model` 'net' has no trainable weight that can be pruned: no "
        "kernel of a Dense, EinsumDense, convolution or recurrent layer "
        "that is not frozen. Set `layer.trainable = True`."
    ),
    "model=make_model(activation='tanh')": (
        "`model` 'net' is not compiled, and it is not clear which loss fits"
        " its output (units: 3, activation: tanh) and its labels. Compile "
        "it first, for example `model.compile(optimizer, loss, "
        'metrics=["accuracy"])`.'
    ),
    "model=make_model(1, None), ds=(X, X[:, 0])": (
        "`model` 'net' is not compiled, and it is not clear which loss fits"
        " its output (units: 1, activation: linear) and its labels. Compile"
        " it first, for example `model.compile(optimizer, loss, "
        'metrics=["accuracy"])`.'
    ),
    "model=twins()": (
        "`model` has two layers named 'same', so the path of a weight would"
        " be ambiguous. Give them different names."
    ),
}
# Told after an epoch or a round, which a fake engine trains.
AFTER_A_ROUND = {
    "monitor='val_acc'": (
        "`monitor` must be one of 'accuracy', 'loss', 'val_accuracy', "
        "'val_loss'. Received: monitor='val_acc'"
    ),
    "criterion=lambda trained, rewind: list(trained)": (
        "A criterion must return a dict from paths to arrays of scores. Received: list"
    ),
    "criterion=lambda trained, rewind: {}": (
        "The scores lack 'hidden/kernel'. A criterion must score every "
        "weight that it is given. It scored: ."
    ),
    "criterion=lambda trained, rewind: {p: w[0] for p, w in trained.items()}": (
        "The scores of 'hidden/kernel' have shape (8,), but the weight has "
        "shape (6, 8). A criterion must return one score per weight."
    ),
    "criterion=lambda trained, rewind: {p: w * np.nan for p, w in trained.items()}": (
        "The scores of 'hidden/kernel' contain NaN: training diverged. Lower the "
        "learning rate or use a later `rewind_step`. If the scores come from your own "
        "criterion, look for 0 / 0 in it."
    ),
    "criterion=lambda trained, rewind: {**trained, 'x': X}": (
        "`criterion` must score the weights that it is given and no others."
        " They are: hidden/kernel, output/kernel. Received a score of 'x'"
    ),
    "criterion=lambda trained, rewind: {p: w * 1j for p, w in trained.items()}": (
        "`criterion` must return arrays of real numbers, one per weight. "
        "Received for 'hidden/kernel': complex64"
    ),
    "criterion=lambda theirs, _: {p: w.astype(str) for p, w in theirs.items()}": (
        "`criterion` must return arrays of real numbers, one per weight. "
        "Received for 'hidden/kernel': <U32"
    ),
    "criterion=lambda trained, rewind: dict.fromkeys(trained)": (
        "`criterion` must return arrays of real numbers, one per weight. "
        "Received for 'hidden/kernel': NoneType"
    ),
    "criterion=lambda trained, rewind: dict.fromkeys(trained, [[1], [1, 2]])": (
        "`criterion` must return arrays of real numbers, one per weight. "
        "Received for 'hidden/kernel': list"
    ),
}
ON_TF = {
    "ds=tf_data(X, Y)": (
        "`ds` is not batched: it yields single examples of shape (6,). Call"
        " `.batch(batch_size)` on it."
    ),
    "rounds=None, target_sparsity=0.99": (
        "`target_sparsity` must leave at least one weight per layer: of"
        " 72 prunable weights in 2 layers at most 0.972222 can be pruned. "
        "Received: target_sparsity=0.99"
    ),
    "ds=tf_data(X, Y).batch(8).repeat()": (
        "`ds` is endless, so an epoch never ends. Remove its `.repeat()`, "
        "or pass `steps_per_epoch`."
    ),
    "ds=tf_data(X, Y).batch(8).take(0)": ("`ds` is empty: it has no batches."),
    "ds=tf_data(X).batch(8)": (
        "`model` 'net' is not compiled, and it is not clear which loss fits"
        " its output (units: 3, activation: softmax) and its data, which "
        "has no labels. Compile it first, for example "
        '`model.compile(optimizer, loss, metrics=["accuracy"])`.'
    ),
}
ON_TF |= {
    f"{name}=tf_data(X, Y).filter(lambda x, y: False).batch(8)": (
        f"`{name}` yields no batch. Is everything filtered out, or are the "
        "files missing that it reads?"
    )
    for name in ("ds", "validation_data")
}
BAD = {**ARGUMENTS, **(ON_TF if ON_TENSORFLOW else {})}

# The other verbs, with `model` a model that carries the ticket `ticket`.
VERBS = {
    "transfer(model, 10**12)": (
        "`num_classes` must be a whole number from 2 to 16777216. For one output pass "
        "a layer, as head=Dense(1). Received: num_classes=1000000000000"
    ),
    "transfer(model, head=keras.layers.Conv2D(3, 3, name='conv'))": (
        "`head` must take what the old classifier got, which has the shape (None, 8). "
        "Input 0 with name 'None' of layer 'conv' is incompatible with the layer: "
        "expected min_ndim=4, found ndim=2. Full shape received: (None, 8)"
    ),
    "transfer(model, 3, input_shape=6)": (
        "`input_shape` must be the shape of one example, as (32, 32, 3). "
        "Received: input_shape=6"
    ),
    "transfer(model, 3, input_shape=(0,))": (
        "`input_shape` must be the shape of one example, as (32, 32, 3). "
        "Received: input_shape=(0,)"
    ),
    "transfer(model, 3, input_shape='ab')": (
        "`input_shape` must be the shape of one example, as (32, 32, 3). "
        "Received: input_shape='ab'"
    ),
    "transfer(model, 3, freeze_backbone='no')": (
        "`freeze_backbone` must be True or False. Received: freeze_backbone='no'"
    ),
    "transfer(model, 3, backbone='net')": (
        "`backbone` must be a built Keras 3 or tf_keras model. Received: 'net' of type "
        "str"
    ),
    "export(model, None)": (
        '`path` must be the path of a file, such as "student.tflite". '
        "Received: path=None"
    ),
    "export(model, 5)": (
        '`path` must be the path of a file, such as "student.tflite". Received: path=5'
    ),
    "export(model, 'a', tolerance='0.1')": (
        "`tolerance` must be a number of at least 0, such as 0.01 for 1 % of the "
        "largest output. Received: tolerance='0.1'"
    ),
    "export(model, 'a', tolerance=float('inf'))": (
        "`tolerance` must be a number of at least 0, such as 0.01 for 1 % of the "
        "largest output. Received: tolerance=inf"
    ),
    "export(model, 'a', batch_size='8')": (
        "`batch_size` must be a whole number of at least 1. Received: batch_size='8'"
    ),
    "export(model, 'a', batch_size=None)": (
        "`batch_size` must be a whole number of at least 1. Received: batch_size=None"
    ),
    "export(model, 'a', batch_size=1.5)": (
        "`batch_size` must be a whole number of at least 1. Received: batch_size=1.5"
    ),
    "export(model, 'a', batch_size=True)": (
        "`batch_size` must be a whole number of at least 1. Received: batch_size=True"
    ),
    "ticket.apply(None)": (
        "`model` must be a Keras 3 or tf_keras model. Received: None of type "
        "builtins.NoneType"
    ),
    "ticket.apply('net')": (
        "`model` must be a Keras 3 or tf_keras model. Received: 'net' of type "
        "builtins.str"
    ),
    "ticket.apply(print)": (
        "`model` must be a Keras 3 or tf_keras model. Received: <built-in function "
        "print> of type builtins.builtin_function_or_method"
    ),
    "ticket.apply(keras.Sequential([keras.layers.Dense(3)], name='net'))": (
        "`model` 'net' is not built, so it has no weights yet. Give it an `Input`, "
        "call `model.build(input_shape)`, or call it once on a batch."
    ),
    "tflottery.pool(model, 'none', (X, Y))": (
        "`run_dir_or_tickets` must be the run directory of a search, with its "
        "run.json. Received: run_dir_or_tickets='none', which does not exist"
    ),
    "tflottery.release(None)": (
        "`model` must be a Keras 3 or tf_keras model. Received: None of type "
        "builtins.NoneType"
    ),
    "tflottery.release(make_model())": (
        "`model` 'net' carries no ticket and holds no masks, so there is "
        "nothing to release."
    ),
}


@functools.cache
def found():
    return find()


@pytest.mark.slow
@pytest.mark.parametrize("call", VERBS)
def test_a_bad_call_of_another_verb_says_what_is_wrong_and_what_to_do(call):
    model = found()
    names = {"model": model, "ticket": model.ticket}
    names["transfer"] = tflottery.transfer_ticket
    names["export"] = tflottery.export_tflite
    with pytest.raises((ValueError, TypeError)) as caught:
        eval(call, {**globals(), **names})
    assert str(caught.value) == VERBS[call]


@pytest.mark.slow
@pytest.mark.parametrize("call", BAD)
def test_a_bad_call_says_what_is_wrong_and_what_to_do(call):
    with pytest.raises((ValueError, TypeError)) as caught:
        eval(f"find({call})")
    assert re.sub("0x[0-9a-f]+", "0x", str(caught.value)) == BAD[call]


@pytest.mark.parametrize("call", AFTER_A_ROUND)
def test_a_bad_call_that_only_training_shows_says_so_too(monkeypatch, call):
    search = fake_engine.searching(monkeypatch)
    with pytest.raises((ValueError, TypeError)) as caught:
        eval(f"search({call})", globals(), {"search": search})
    assert str(caught.value) == AFTER_A_ROUND[call]


def test_there_are_many_bad_calls():
    assert len(BAD) >= 40


def test_a_run_dir_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OSError, match="Could not make the folder") as caught:
        find(run_dir=tmp_path / "file")
    assert caught.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.slow
def test_the_run_of_another_search_is_refused_with_every_difference(tmp_path):
    find(run_dir=tmp_path)
    kept = (tmp_path / "ticket.safetensors").read_bytes()
    model = compiled()
    weights = model.get_weights()
    with pytest.raises(run_dir.RunError) as caught:
        find(model, (X[:32], Y[:32]), run_dir=tmp_path, epochs=2)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        f"`run_dir` {str(tmp_path)!r} holds another search. Choose another folder, or "
        "call with the values it was made with:"
    )
    assert lines[1] == "  config.epochs: 1 there, 2 now"
    names = {line.split(":")[0].strip().split(".config")[0] for line in lines[1:]}
    assert {"training.optimizer.class_name", "ds"} <= names
    assert "architecture" not in names
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(run_dir.RunError, match="architecture"):
        find(make_model(layers=[keras.layers.Dense(7)]), run_dir=tmp_path)
    assert (tmp_path / "ticket.safetensors").read_bytes() == kept


class Diverges(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        bias = self.model.layers[0].bias
        bias.assign(bias * np.nan)


@pytest.mark.slow
def test_a_dense_network_that_diverges_is_an_error_and_the_model_is_put_back():
    model = compiled()
    weights = model.get_weights()
    with pytest.raises(ValueError, match="Training diverged in round 0, before"):
        find(model, callbacks=[Diverges()])
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert find(model).ticket is not None  # It can be searched, all the same.
