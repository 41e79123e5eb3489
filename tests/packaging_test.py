"""The metadata declares what the package imports; nothing else needs a bound."""

import ast
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import tflottery
from tflottery.engines import network

ROOT = pathlib.Path(__file__).absolute().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGE = pathlib.Path(tflottery.__file__).parent
TREES = {
    file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
    for file in sorted(PACKAGE.rglob("*.py"))
}

# Distributions that are not named like the package that one imports.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "upath": "universal_pathlib"}
DISTRIBUTIONS |= {"absl": "absl-py"}
WHERE_IT_RUNS = {"ipython"}  # Imported in a notebook only.
# Declared for tensorflow-datasets, run as a program, as a backend of Keras, for URLs.
NOT_IMPORTED = {"importlib-resources", "ethos-u-vela", "jax", "s3fs"}
NOT_IMPORTED |= {"huggingface-hub"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> dict[str, str]:
    """Returns the version specifiers of requirements by normalized name."""
    matches = [re.match(r"([\w.-]+)(?:\[.*\])?(.*)", line) for line in requirements]
    return {normal(m[1]): m[2] for m in matches if m}


DEPENDENCIES = declared(PROJECT["dependencies"])
EXTRAS = {
    name: declared(requirements)
    for name, requirements in PROJECT["optional-dependencies"].items()
    if name not in ("all", "docs", "test")
}


def imported() -> set[str]:
    """Returns the distributions that tflottery imports, by normalized name."""
    found = set[str]()
    for tree in TREES.values():
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names):
                    found |= {alias.name for alias in names}
                case ast.ImportFrom(module=str(module), level=0):
                    found.add(module)
                case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if (
                    ast.unparse(func).endswith("import_module")
                ):
                    found.add(name)
    tops = {name.partition(".")[0] for name in found}
    tops -= {*sys.stdlib_module_names, "tflottery"}
    return {normal(DISTRIBUTIONS.get(top, top)) for top in tops}


def test_every_imported_distribution_is_declared_and_no_other():
    optional = {name for extra in EXTRAS.values() for name in extra} - {"tflottery"}
    assert {*DEPENDENCIES, *optional} == imported() - WHERE_IT_RUNS | NOT_IMPORTED


def test_only_what_private_names_are_used_of_has_an_upper_bound():
    everything = DEPENDENCIES | EXTRAS["tfmot"]
    bounded = {name for name, versions in everything.items() if "<" in versions}
    keras = {"keras", "tf-keras"}
    assert bounded == keras | {"tensorflow", "tensorflow-model-optimization"}


def test_an_old_keras_is_refused_below_the_declared_bound():
    oldest = ".".join(map(str, network.OLDEST_KERAS))
    assert DEPENDENCIES["keras"].startswith(f">={oldest},")


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert importlib.metadata.version("tflottery") == tflottery.__version__


def test_the_readme_has_no_link_that_breaks_outside_of_the_repository():
    links = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("https://")] == []
