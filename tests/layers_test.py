"""The layers hold: a module imports only from its own layer and those below it."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).absolute().parent.parent
PACKAGE = "tflottery"

# From the lowest to the highest. A file belongs to the layer that names it, or that
# names the folder of tflottery/ that holds it.
LAYERS = {
    "core": (
        *("masks", "criteria", "budgets", "pruning", "plans", "config"),
        *("files", "paths", "records", "tickets", "runs", "locks"),
    ),
    "engines": ("engines",),
    "verbs": (
        *(
            "search",
            "rounds",
            "stages",
            "selection",
            "calls",
            "callbacks",
            "stops",
            "progress",
            "cost",
        ),
        *("transfer", "controls", "tflite"),
    ),
    "lab": ("lab",),
    "cli": ("cli", "commands", "demo", "edge_commands", "__main__"),
}
RANKS = {name: rank for rank, names in enumerate(LAYERS.values()) for name in names}
VERBS = list(LAYERS).index("verbs")

# `Ticket.apply` hands the ticket over to the engines, and imports them when called.
THE_ONE_DOOR = "tflottery.tickets (core) imports tflottery.engines (engines)"

TENSORFLOW = {"tensorflow", "tf_keras", "tensorflow_model_optimization"}
FRAMEWORKS = TENSORFLOW | {"keras", "jax", "torch"}
MAY_LOAD_TENSORFLOW = ("tflottery.tflite", "tflottery.engines.tfmot")

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


def rank(name: str) -> int | None:
    """Returns the layer's rank of a dotted name, None for what is in no layer.

    The package itself is its public API: to import it is to import a verb.
    """
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    return RANKS.get(parts[1], VERBS) if len(parts) > 1 else VERBS


def upward_imports(root: pathlib.Path) -> list[str]:
    """Returns one line for each import that points to a higher layer."""
    layers = list(LAYERS)
    found = []
    for module, file in sources(root).items():
        own = rank(module)
        # tflottery/__init__.py lists the whole API: it stands above every layer.
        if module == PACKAGE or own is None:
            continue
        for name in sorted(imports(module, file)):
            other = rank(name)
            if other is not None and other > own:
                found.append(
                    f"{module} ({layers[own]}) imports {name} ({layers[other]})"
                )
    return found


def modules_without_layer(root: pathlib.Path) -> list[str]:
    return [
        module
        for module in sources(root)
        if module != PACKAGE and module.split(".")[1] not in RANKS
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
        in_core = module.removeprefix(f"{PACKAGE}.") in LAYERS["core"]
        banned = FRAMEWORKS if in_core else TENSORFLOW
        found += [
            f"{module} imports {name}"
            for name in sorted(imports(module, file, deep=in_core))
            if name.split(".")[0] in banned
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


def test_no_import_points_upward():
    assert upward_imports(ROOT) == [THE_ONE_DOOR]


def test_every_module_has_a_layer():
    assert modules_without_layer(ROOT) == []


def test_the_core_imports_no_framework_and_the_rest_loads_no_tensorflow():
    assert framework_imports(ROOT) == []


@pytest.mark.parametrize("name", LAYERS["core"])
def test_importing_a_core_module_loads_neither_keras_nor_tensorflow(name: str):
    assert loaded(ROOT, f"{PACKAGE}.{name}", FRAMEWORKS) == set()


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
            "masks.py",
            "from tflottery.search import find_ticket",
            "tflottery.masks (core) imports tflottery.search.find_ticket (verbs)",
        ),
        (
            "masks.py",
            "def f():\n    import tflottery.engines.keras3",
            "tflottery.masks (core) imports tflottery.engines.keras3 (engines)",
        ),
        (
            "masks.py",
            "from . import cli",
            "tflottery.masks (core) imports tflottery.cli (cli)",
        ),
        (
            "masks.py",
            "import importlib\nimportlib.import_module('tflottery.lab.models')",
            "tflottery.masks (core) imports tflottery.lab.models (lab)",
        ),
        (
            "engines/keras3.py",
            "from ..transfer import transfer_ticket",
            "tflottery.engines.keras3 (engines) imports "
            "tflottery.transfer.transfer_ticket (verbs)",
        ),
        (
            "engines/__init__.py",
            "from tflottery import find_ticket",
            "tflottery.engines (engines) imports tflottery.find_ticket (verbs)",
        ),
        (
            "tflite/convert.py",
            "from tflottery.lab import models",
            "tflottery.tflite.convert (verbs) imports tflottery.lab.models (lab)",
        ),
        (
            "lab/report.py",
            "from tflottery import cli",
            "tflottery.lab.report (lab) imports tflottery.cli (cli)",
        ),
    ],
)
def test_an_upward_import_is_found(
    tmp_path: pathlib.Path, path: str, line: str, message: str
):
    assert upward_imports(tree(tmp_path, {path: line})) == [message]


def test_imports_downward_and_sideways_are_free(tmp_path: pathlib.Path):
    files = {
        "__init__.py": "from tflottery.cli import main",
        "criteria.py": "import numpy as np\nfrom tflottery.masks import Masks",
        "search.py": "from tflottery import config, engines, transfer",
        "lab/report.py": "import tflottery\nfrom . import recipes",
        "cli.py": "from tflottery import find_ticket\nfrom .lab.recipes import RECIPES",
    }
    assert upward_imports(tree(tmp_path, files)) == []


def test_a_module_without_a_layer_is_found(tmp_path: pathlib.Path):
    root = tree(tmp_path, {"masks.py": "", "extra.py": "", "other/part.py": ""})
    assert modules_without_layer(root) == ["tflottery.extra", "tflottery.other.part"]


def test_a_framework_out_of_place_is_found(tmp_path: pathlib.Path):
    files = {
        "masks.py": "def f():\n    import keras",
        "search.py": "try:\n    import tensorflow as tf\nexcept ImportError:\n    pass",
        "transfer.py": "def f():\n    import tensorflow as tf",
        "controls.py": "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import tensorflow as tf",
        "tflite/convert.py": "import tensorflow as tf",
    }
    assert framework_imports(tree(tmp_path, files)) == [
        "tflottery.masks imports keras",
        "tflottery.search imports tensorflow",
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
