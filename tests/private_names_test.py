"""The private names of other libraries that tflottery uses are still there.

A new release of Keras or TensorFlow may remove any of them: then the test names the
file to adapt. Until it is adapted, pyproject.toml keeps the release out.
"""

import ast
import collections
import functools
import importlib
import pathlib
from typing import Any

import pytest

import tflottery

PACKAGE = pathlib.Path(tflottery.__file__).parent

# What has each name; the owners are made below.
OWNERS = {
    "_build_input_shape": ["tf_keras layer"],
    "_build_shapes_dict": ["keras layer"],
    "_built": ["tf_keras optimizer"],
    "_compile_config": ["keras model", "tf_keras model"],
    "_constraint": ["tf variable"],
    "_create_all_weights": ["tf_keras legacy optimizer"],
    "_distribution_strategy": ["tf_keras optimizer"],
    "_flatten_layers": ["keras model", "tf_keras model"],
    "_functional": ["keras sequential"],
    "_get_compile_args": ["tf_keras model"],
    "_hyper": ["tf_keras legacy optimizer"],
    "_implements_train_batch_hooks": ["tf_keras callback"],
    "_inbound_nodes": ["keras layer", "tf_keras layer"],
    "_index_dict": ["tf_keras optimizer"],
    "_initial_epoch": ["keras model"],
    "_is_compiled": ["tf_keras model"],
    "_is_graph_network": ["tf_keras model"],
    "_iterations": ["keras optimizer", "tf_keras optimizer"],
    "_keras_history": ["keras tensor", "tf_keras tensor"],
    "_learning_rate": ["keras optimizer", "tf_keras optimizer"],
    "_model_variables_moving_average": ["keras optimizer", "tf_keras optimizer"],
    "_non_trainable_variables": ["keras layer"],
    "_non_trainable_weights": ["tf_keras layer"],
    "_pruning_vars": ["tfmot pruning"],
    "_random_generator": ["tf_keras dropout"],
    "_rng_type": ["tf_keras generator"],
    "_run_eagerly": ["tf_keras model"],
    "_set_monitor_op": ["keras callback"],
    "_symbolic_build": ["keras model"],
    "_trainable_variables": ["keras layer", "keras optimizer"],
    "_trainable_weights": ["tf_keras layer"],
    "_untrack_variable": ["keras optimizer"],
    "_update_model_variables_moving_average": ["keras optimizer", "tf_keras optimizer"],
    "_var_key": ["tf_keras optimizer"],
    "_variable": ["tf_keras mixed kernel"],
}
# Of Python, of Keras 3 on JAX alone, and what a notebook calls.
NOT_LISTED = {"_exit", "_layout", "_make", "_repr_svg_"}


def used() -> dict[str, set[str]]:
    """Returns the files that use each private name defined outside of tflottery."""
    found, own = collections.defaultdict(set), set[str]()
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case (
                    ast.FunctionDef(name=name)
                    | ast.ClassDef(name=name)
                    | ast.Name(id=name, ctx=ast.Store())
                    | ast.Attribute(ast.Name("self"), name, ast.Store())
                ):
                    own.add(name)
                case ast.Attribute(attr=name) | ast.Call(
                    ast.Name("getattr" | "hasattr"), [_, ast.Constant(str(name)), *_]
                ):
                    found[name].add(file.relative_to(PACKAGE).as_posix())
    return {
        name: files
        for name, files in found.items()
        if name.startswith("_") and not name.startswith("__") and name not in own
    }


@functools.cache
def owners() -> dict[str, Any]:
    """Returns a small object of each kind that `OWNERS` names."""
    import keras

    from tflottery.engines.tfmot.imported import sparsity, tf, tf_keras

    made: dict[str, Any] = {"tf variable": tf.Variable(0.0)}
    for name, library in (("keras", keras), ("tf_keras", tf_keras)):
        x = library.Input((3,))
        model = library.Model(x, library.layers.Dense(2)(x))
        optimizer = library.optimizers.Adam(use_ema=True)
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
        made |= {
            f"{name} model": model,
            f"{name} layer": model.layers[-1],
            f"{name} tensor": model.outputs[0],
            f"{name} optimizer": optimizer,
            f"{name} callback": library.callbacks.EarlyStopping(),
            f"{name} sequential": library.Sequential([library.layers.Dense(2)]),
            f"{name} dropout": library.layers.Dropout(0.5),
        }
    made["tf_keras generator"] = made["tf_keras dropout"]._random_generator
    made["tf_keras legacy optimizer"] = tf_keras.optimizers.legacy.Adam()
    mixed = tf_keras.layers.Dense(2, dtype="mixed_float16")
    mixed.build((None, 3))
    made["tf_keras mixed kernel"] = mixed.kernel
    wrapped = sparsity.prune_low_magnitude(tf_keras.layers.Dense(2))
    wrapped.build((None, 3))
    made["tfmot pruning"] = wrapped.pruning_obj
    return made


@pytest.mark.parametrize("name", OWNERS)
def test_the_private_name_is_still_there(name):
    pytest.importorskip("tensorflow")
    gone = [owner for owner in OWNERS[name] if not hasattr(owners()[owner], name)]
    assert not gone, f"{gone} lost {name}, used by {sorted(used()[name])}"


@pytest.mark.slow
def test_every_private_name_in_use_is_listed():
    assert set(used()) - NOT_LISTED == set(OWNERS)


def test_the_private_modules_are_still_there():
    pytest.importorskip("tensorflow")
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and ".python" in str(node.module):
                module = importlib.import_module(str(node.module))
                gone = [n.name for n in node.names if not hasattr(module, n.name)]
                assert not gone, f"{node.module} lost {gone}, used by {file}"
