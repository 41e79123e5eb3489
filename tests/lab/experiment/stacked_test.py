"""Trained side by side on JAX, networks are what each is alone, seed by seed."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest

from tflottery import load_ticket
from tflottery.core import files
from tflottery.lab.data import datasets, pipelines
from tflottery.lab.experiment import designs
from tflottery.lab.experiment import run as run_lib
from tflottery.lab.training import SGD

pytestmark = [pytest.mark.slow, pytest.mark.without_tensorflow]
if keras.backend.backend() != "jax":
    pytest.skip("needs KERAS_BACKEND=jax", allow_module_level=True)

jax = pytest.importorskip("jax")
stack_lib = pytest.importorskip("tflottery.engines.stack")
stacked = pytest.importorskip("tflottery.lab.experiment.stacked")

SMOKE = designs.design("sparse_transfer", "smoke")
QUICK = {"steps": 24, "optimizer": SGD(learning_rate=0.05, warmup=0.2)}
REWOUND = dataclasses.replace(
    SMOKE,
    # Step 15 is the third of the second epoch.
    source=dataclasses.replace(SMOKE.source, rewind_step=15, **QUICK),
    targets=(),
    prunings=1,
    rounds=(1,),
    arms=("rewind",),
    regimes=("fine_tuned",),
    heads=("linear",),
)


def convolutions(input_shape, num_classes):
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


CONVOLUTIONS = dataclasses.replace(
    REWOUND,
    source=dataclasses.replace(
        REWOUND.source,
        model=convolutions,
        augment=pipelines.flip_and_crop,
        layer_fractions={},
        retrain="learning_rate",
        rewind_step=0,
        keep="last",
    ),
    targets=(dataclasses.replace(SMOKE.targets[0], keep="last", **QUICK),),
    arms=("layer_shuffled", "trained_longer"),
    regimes=("frozen",),
)


def run(design, folder, executor="stacked"):
    path = run_lib.run(design, run_dir=folder, executor=executor, verbose=0)
    return files.read_json(path)["rows"]


def same(one, other):
    """Asserts that two runs found the same, but for the rounding of a sum."""
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds"}:
            if isinstance(a[name], dict):
                assert list(a[name].values()) == list(b[name].values())
            elif name in ("metric", "val_metric", "val_metrics"):
                assert a[name] == pytest.approx(b[name], abs=1e-6)
            else:
                assert a[name] == b[name], name


@pytest.fixture(scope="module")
def rewound(tmp_path_factory):
    """The folder and the rows of `REWOUND`, trained side by side."""
    folder = tmp_path_factory.mktemp("rewound")
    return folder, run(REWOUND, folder)


@pytest.mark.parametrize("design", [REWOUND, CONVOLUTIONS])
def test_each_network_is_what_it_is_alone(design, rewound, tmp_path):
    alone, (side_by_side, rows) = tmp_path / "alone", rewound
    if design is not REWOUND:
        side_by_side = tmp_path / "side_by_side"
        rows = run(design, side_by_side)
    same(run(design, alone, "local"), rows)
    for seed in range(design.seeds):
        for number in range(design.prunings + 1):
            name = f"searches/seed{seed}/rounds/{number:03d}.ticket"
            one, other = (load_ticket(f / name) for f in (alone, side_by_side))
            assert one.config == other.config
            assert one.rounds[number].steps == other.rounds[number].steps
            for a, b in zip(one.masks.values(), other.masks.values(), strict=True):
                np.testing.assert_array_equal(a, b)
            for part in ("initial", "rewind", "trained"):
                pairs = zip(
                    getattr(one, part).values(),
                    getattr(other, part).values(),
                    strict=True,
                )
                for a, b in pairs:
                    np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_is_interrupted_goes_on_from_its_last_epoch(
    rewound, tmp_path, monkeypatch
):
    monkeypatch.setattr(stack_lib.Stack, "at_once", lambda self, start, most: most)
    epochs = count_epochs(monkeypatch)
    monkeypatch.setattr(stack_lib, "_SECONDS_BETWEEN_SAVES", 0)
    for at in (2, 6):  # In the first round and in the cells.
        epochs.stop_at = at
        with pytest.raises(KeyboardInterrupt):
            run(REWOUND, tmp_path / "stopped")
    epochs.stop_at = None
    same(rewound[1], run(REWOUND, tmp_path / "stopped"))
    # Two for the dense round, one from step 15 on for the other, and two for the cells;
    # each stop lost only the epoch that it came in.
    assert len(epochs) == (2 + 1 + 2) + 2
    results = files.read_json(tmp_path / "stopped/results.json")
    assert results["header"]["finished"]


def test_a_longer_training_that_is_interrupted_goes_on(tmp_path, monkeypatch):
    design = dataclasses.replace(CONVOLUTIONS, prunings=2, rounds=(2,), seeds=1)
    fit, names = stack_lib.Stack.fit, []

    def fitting(self, starts, **options):
        names.extend(start.name for start in starts)
        if names.count("seed 0, training 1 of the dense network") == 1:
            raise KeyboardInterrupt
        return fit(self, starts, **options)

    monkeypatch.setattr(stack_lib.Stack, "fit", fitting)
    with pytest.raises(KeyboardInterrupt):
        run(design, tmp_path)
    before = len(names)
    run(design, tmp_path)
    assert names[before] == "seed 0, training 1 of the dense network"


def count_epochs(monkeypatch):
    """Returns a list that grows with each epoch, and interrupts at `stop_at`."""

    class Epochs(list):
        stop_at = None

    epochs, judged = Epochs(), stack_lib.Stack._judged

    def counting(self, variables, place, part):
        if part == "validation":
            epochs.append(part)
            if len(epochs) == epochs.stop_at:
                raise KeyboardInterrupt
        return judged(self, variables, place, part)

    monkeypatch.setattr(stack_lib.Stack, "_judged", counting)
    return epochs


@pytest.fixture
def source(tmp_path):
    """The source task of `REWOUND` for two seeds, on the device."""
    images = datasets.load("digits").of_classes(REWOUND.source_classes)
    worker = run_lib.Worker(REWOUND, None, tmp_path)
    assert worker.images(None).num_classes == images.num_classes
    return stacked._Source(worker, [0, 1])


def test_a_network_that_diverges_leaves_the_others_alone(source):
    good, bad = source.start(0), source.start(1)
    bad.variables[0][0][:] = np.nan
    (alone,) = source.stack.fit([good], epochs=2)
    beside, lost = source.stack.fit([good, bad], epochs=2)
    for name, values in alone.history.items():
        assert beside.history[name] == pytest.approx(values, abs=1e-6)
    assert len(lost.history["loss"]) == 1
    assert np.isnan(lost.history["loss"][0])


def test_so_many_train_at_once_as_the_device_can_hold(source, monkeypatch):
    stack, run_steps = source.stack, source.stack._run
    clock = iter(range(1000))
    # Each call takes a second, so that two are twice as fast side by side.
    monkeypatch.setattr(stack_lib.time, "monotonic", lambda: next(clock))

    def small(training, data, place, batches):
        if len(place) > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return run_steps(training, data, place, batches)

    stack._run = small
    assert stack.at_once(source.start(0), 3) == 3
    assert stack.at_once(source.start(0), 100) == 4


def test_networks_that_draw_random_numbers_are_refused(tmp_path):
    def dropping(input_shape, num_classes):
        *inside, output = convolutions(input_shape, num_classes).layers
        given = keras.layers.Input(input_shape)
        return keras.Sequential([given, *inside, keras.layers.Dropout(0.5), output])

    source = dataclasses.replace(CONVOLUTIONS.source, model=dropping)
    with pytest.raises(ValueError, match="random layers cannot train side by side"):
        run(dataclasses.replace(CONVOLUTIONS, source=source), tmp_path)


@pytest.mark.parametrize("lost", ["ticket.safetensors", "rounds/001.json"])
def test_a_search_goes_on_beside_one_that_is_ahead(lost, rewound, tmp_path):
    folder = shutil.copytree(rewound[0], tmp_path / "again")
    search = folder / "searches" / "seed1"
    whole = (search / "ticket.safetensors").read_bytes()
    for name in {"ticket.safetensors", lost}:
        (search / name).unlink()
    (folder / "stack.safetensors").write_bytes(b"damaged")
    same(rewound[1], run(REWOUND, folder))
    assert (search / "ticket.safetensors").read_bytes() == whole
    assert not (folder / "stack.safetensors").exists()


def test_the_policy_of_a_recipe_is_that_of_its_network_alone():
    recipe = dataclasses.replace(REWOUND.source, precision="mixed_bfloat16")
    model = recipe.build(datasets.load("digits"), seed=0)
    assert model.get_layer("fc1").compute_dtype == "bfloat16"
    assert model.get_layer("fc1").variable_dtype == "float32"
    assert model.get_layer("output").compute_dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_another_augmentation_is_an_error_that_names_it(tmp_path):
    source = dataclasses.replace(REWOUND.source, augment=lambda x, rng: x)
    with pytest.raises(ValueError, match="or augmented by `flip_and_crop`"):
        run(dataclasses.replace(REWOUND, source=source), tmp_path)
