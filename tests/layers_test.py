"""The layers hold: a module imports only from its own layer and those below it."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).absolute().parent.parent
PACKAGE = "tflottery"

# What stands directly in tflottery/, and what of it each may import besides itself: a
# folder is a layer.
LAYERS = {
    "core": (),
    "engines": ("core",),
    "showing": ("core",),
    "ticket": ("core", "engines", "showing"),
    "search": ("core", "engines", "showing", "ticket"),
    "transfer": ("core", "engines", "ticket"),
    "tflite": ("core", "engines", "ticket"),
    "lab": ("core", "showing"),
    "cli": ("core", "engines", "ticket", "search", "transfer", "tflite", "lab"),
    "__main__": ("cli",),
}
# Importing the package is importing its public API: only these may.
ABOVE_THE_API = ("lab", "cli")
# By module, what it imports in spite of its layer.
EXCEPTIONS = {
    # The batches of a search on arrays, whose order a resumed search must repeat. Users
    # pass the arrays to `find_ticket`; the lab also sets batch size and augmentation.
    "tflottery.lab.data.pipelines": "tflottery.engines.shuffling",
    # Many networks at once, which no verb trains.
    "tflottery.lab.experiment.stacked": "tflottery.engines.stack",
}

# Libraries that the core may import; those for file formats and URLs in files.py only.
CORE_MAY_IMPORT = {"numpy"}
FILES_MAY_IMPORT = CORE_MAY_IMPORT | {"safetensors", "ml_dtypes", "fsspec", "upath"}

TENSORFLOW = {"tensorflow", "tf_keras", "tensorflow_model_optimization"}
FRAMEWORKS = TENSORFLOW | {"keras", "jax", "torch"}
MAY_LOAD_TENSORFLOW = (
    "tflottery.tflite",
    "tflottery.engines.tfmot",
    "tflottery.engines.tf_keras",
    "tflottery.search.one_fit",
)

MOST_LINES = 400
VAGUE = {"base", "common", "helper", "helpers", "iteration"}
VAGUE |= {"level", "manager", "misc", "util", "utils"}


def sources(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the file of every module of the package under `root`, by dotted name."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(
            ".__init__"
        ): file
        for file in files
    }


def statements(tree: ast.AST, deep: bool) -> Iterator[ast.AST]:
    """Yields the nodes that run on import; with `deep`, all nodes."""
    for node in ast.iter_child_nodes(tree):
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(
            node.test
        )
        if deep or not (function or typing_only):
            yield node
            yield from statements(node, deep)


def imports(module: str, file: pathlib.Path, deep: bool = True) -> set[str]:
    """Returns the dotted names that a module imports.

    Args:
        module: The module's own dotted name, which relative imports start from.
        file: Its source.
        deep: Whether imports within functions and for type checkers count too.
    """
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set[str]()
    for node in statements(ast.parse(file.read_text(encoding="utf-8")), deep):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=source, names=names, level=level):
                if level:
                    parents = package.split(".")
                    parents = parents[: len(parents) - level + 1]
                    source = ".".join([*parents, *([source] if source else [])])
                # A name may be a module or something within one: keep both readings.
                found |= {f"{source}.{alias.name}" for alias in names}
            # importlib.import_module("...") and the like.
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if (
                "import" in ast.unparse(func).rpartition(".")[2]
            ):
                found.add(name)
    return found


def layer(name: str) -> str | None:
    """Returns the layer of a dotted name: "" for the package, None outside it."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else ""


def forbidden_imports(root: pathlib.Path) -> list[str]:
    """Returns one line for each import that a module's layer may not have."""
    found = []
    for module, file in sources(root).items():
        own = layer(module)
        if not own:  # tflottery/__init__.py lists the whole API.
            continue
        for name in sorted(imports(module, file)):
            other = layer(name)
            if other is None or other == own:
                continue
            if other == "" and own in ABOVE_THE_API:
                continue
            excepted = module in EXCEPTIONS and name.startswith(EXCEPTIONS[module])
            if other not in LAYERS[own] and not excepted:
                found.append(f"{module} imports {name}")
    return found


def circles(root: pathlib.Path) -> list[str]:
    """Returns one line for each pair of modules that reach each other by imports."""
    modules = sources(root)
    del modules[PACKAGE]
    graph = {
        module: {
            # `from a import b` is of the module a.b, or of something in the module a.
            name if name in modules else name.rpartition(".")[0]
            for name in imports(module, file)
        }
        for module, file in modules.items()
    }
    reached = {module: near & set(modules) for module, near in graph.items()}
    for middle in graph:
        for near in reached.values():
            if middle in near:
                near |= reached[middle]
    return [
        f"{one} <-> {other}"
        for one in graph
        for other in sorted(reached[one])
        if one < other and one in reached[other]
    ]


def modules_without_layer(root: pathlib.Path) -> list[str]:
    return [
        module
        for module in sources(root)
        if module != PACKAGE and module.split(".")[1] not in LAYERS
    ]


def framework_imports(root: pathlib.Path) -> list[str]:
    """Returns one line for each import of a framework where it may not stand.

    The core imports none at all; elsewhere, importing a module must not load
    TensorFlow, so that everything but export and tfmot runs where it is not installed.
    """
    found = []
    for module, file in sources(root).items():
        if module.startswith(MAY_LOAD_TENSORFLOW):
            continue
        in_core = layer(module) == "core"
        banned = FRAMEWORKS if in_core else TENSORFLOW
        found += [
            f"{module} imports {name}"
            for name in sorted(imports(module, file, deep=in_core))
            if name.split(".")[0] in banned
        ]
    return found


def core_imports(root: pathlib.Path) -> list[str]:
    """Returns one line for each import of a library that the core may not have."""
    found = []
    for module, file in sources(root).items():
        allowed = FILES_MAY_IMPORT if file.name == "files.py" else CORE_MAY_IMPORT
        allowed = allowed | sys.stdlib_module_names | {PACKAGE}
        found += [
            f"{module} imports {name}"
            for name in sorted(imports(module, file))
            if layer(module) == "core" and name.split(".")[0] not in allowed
        ]
    return found


def loaded(root: pathlib.Path, module: str, names: set[str]) -> set[str]:
    """Returns which of `names` are loaded once `module` is imported, in a new process.

    Args:
        root: The folder that holds the package.
        module: Dotted name of the module to import.
        names: Top-level packages to look for.
    """
    script = f"import sys, {module}; print(*(set(sys.modules) & {names!r}))"
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def long_files(root: pathlib.Path) -> list[str]:
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for file in sources(root).values()
    }
    return [
        f"{file.relative_to(root)} has {lines} lines"
        for file, lines in lengths.items()
        if lines > MOST_LINES
    ]


def vague_names(root: pathlib.Path) -> list[str]:
    return [
        module
        for module in sources(root)
        if VAGUE & set(module.replace(".", "_").lower().split("_"))
    ]


# The project.


def test_a_layer_imports_what_it_may():
    assert forbidden_imports(ROOT) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles(ROOT) == []


def test_every_module_has_a_layer():
    assert modules_without_layer(ROOT) == []


def test_the_core_imports_no_framework_and_the_rest_loads_no_tensorflow():
    assert framework_imports(ROOT) == []


def test_the_core_imports_numpy_alone():
    assert core_imports(ROOT) == []


def test_importing_the_core_loads_neither_keras_nor_tensorflow():
    core = [module for module in sources(ROOT) if layer(module) == "core"]
    assert loaded(ROOT, ", ".join(core), FRAMEWORKS) == set()


def test_importing_the_package_loads_neither_tensorflow_nor_matplotlib():
    assert loaded(ROOT, PACKAGE, TENSORFLOW | {"matplotlib"}) == set()


def test_files_stay_short():
    assert long_files(ROOT) == []


def test_module_names_say_what_is_inside():
    assert vague_names(ROOT) == []


# The checks themselves, each on a tree that breaks its rule.


def tree(root: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    """Writes a package of `files`, by path under tflottery/, and returns its root."""
    for path, text in {"__init__.py": "", **files}.items():
        file = root / PACKAGE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("path", "line", "message"),
    [
        (
            "core/masks.py",
            "from tflottery.search.loop import find_ticket",
            "tflottery.core.masks imports tflottery.search.loop.find_ticket",
        ),
        (
            "core/masks.py",
            "def f():\n    import tflottery.engines.keras3",
            "tflottery.core.masks imports tflottery.engines.keras3",
        ),
        (
            "core/masks.py",
            "from .. import cli",
            "tflottery.core.masks imports tflottery.cli",
        ),
        (
            "core/masks.py",
            "import importlib\nimportlib.import_module('tflottery.lab.models')",
            "tflottery.core.masks imports tflottery.lab.models",
        ),
        (
            "engines/keras3.py",
            "from ..transfer import student",
            "tflottery.engines.keras3 imports tflottery.transfer.student",
        ),
        (
            "engines/__init__.py",
            "from tflottery import find_ticket",
            "tflottery.engines imports tflottery.find_ticket",
        ),
        (
            "tflite/export.py",
            "from tflottery.search import loop",
            "tflottery.tflite.export imports tflottery.search.loop",
        ),
        (
            "lab/report/write.py",
            "from tflottery.cli import main",
            "tflottery.lab.report.write imports tflottery.cli.main",
        ),
        (
            "lab/data/pipelines.py",
            "from tflottery.engines import network, shuffling",
            "tflottery.lab.data.pipelines imports tflottery.engines.network",
        ),
        (
            "lab/experiment/bench.py",
            "from tflottery.transfer import controls",
            "tflottery.lab.experiment.bench imports tflottery.transfer.controls",
        ),
    ],
)
def test_a_forbidden_import_is_found(
    tmp_path: pathlib.Path, path: str, line: str, message: str
):
    assert forbidden_imports(tree(tmp_path, {path: line})) == [message]


def test_allowed_imports_are_free(tmp_path: pathlib.Path):
    files = {
        "__init__.py": "from tflottery.cli import main",
        "core/criteria.py": "import numpy as np\nfrom tflottery.core import masks",
        "search/loop.py": "from tflottery import engines, ticket",
        "lab/recipes.py": "import tflottery\nfrom . import models",
        "cli/find.py": "from tflottery import find_ticket\nfrom ..lab import recipes",
    }
    assert forbidden_imports(tree(tmp_path, files)) == []


def test_a_circle_is_found(tmp_path: pathlib.Path):
    files = {
        "core/a.py": "from tflottery.core import b",
        "core/b.py": "from tflottery.core.c import f",
        "core/c.py": "def f():\n    from tflottery.core import a",
    }
    assert circles(tree(tmp_path, files)) == [
        "tflottery.core.a <-> tflottery.core.b",
        "tflottery.core.a <-> tflottery.core.c",
        "tflottery.core.b <-> tflottery.core.c",
    ]


def test_a_module_without_a_layer_is_found(tmp_path: pathlib.Path):
    root = tree(tmp_path, {"core/masks.py": "", "extra.py": "", "other/part.py": ""})
    assert modules_without_layer(root) == ["tflottery.extra", "tflottery.other.part"]


def test_a_framework_out_of_place_is_found(tmp_path: pathlib.Path):
    files = {
        "core/masks.py": "def f():\n    import keras",
        "search/loop.py": "try:\n    import tensorflow\nexcept OSError:\n    pass",
        "transfer/student.py": "def f():\n    import tensorflow as tf",
        "transfer/controls.py": "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import tensorflow as tf",
        "tflite/export.py": "import tensorflow as tf",
    }
    assert framework_imports(tree(tmp_path, files)) == [
        "tflottery.core.masks imports keras",
        "tflottery.search.loop imports tensorflow",
    ]


def test_a_library_in_the_core_is_found(tmp_path: pathlib.Path):
    files = {
        "core/masks.py": "import json\nimport numpy as np\nimport safetensors.numpy",
        "core/files.py": "import safetensors.numpy\ndef f():\n    import etils.epath",
        "search/files.py": "import rich",
    }
    assert core_imports(tree(tmp_path, files)) == [
        "tflottery.core.files imports etils.epath",
        "tflottery.core.masks imports safetensors.numpy",
    ]


def test_a_loaded_framework_is_found(tmp_path: pathlib.Path):
    root = tree(tmp_path, {"masks.py": "from . import other", "other.py": "import jax"})
    (tmp_path / "jax.py").touch()
    assert loaded(root, "tflottery.masks", FRAMEWORKS) == {"jax"}


def test_a_long_file_is_found(tmp_path: pathlib.Path):
    files = {"masks.py": "\n" * MOST_LINES, "runs.py": "\n" * (MOST_LINES + 1)}
    assert long_files(tree(tmp_path, files)) == ["tflottery/runs.py has 401 lines"]


def test_a_vague_name_is_found(tmp_path: pathlib.Path):
    files = {"mask_utils.py": "", "lab/helpers.py": "", "baseline.py": ""}
    assert vague_names(tree(tmp_path, files)) == [
        "tflottery.lab.helpers",
        "tflottery.mask_utils",
    ]
