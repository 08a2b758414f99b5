"""Front doors: the names that a package offers are there, are seen by type checkers, and cost nothing to import."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("indexer", "encoder", "training", "search")
DOORS = [package for package in PACKAGES if "lazy(" in (ROOT / package / "__init__.py").read_text()]

QUIET = """
import logging, os, sys, warnings
root = logging.getLogger()
def state():
    return dict(os.environ), list(warnings.filters), list(root.handlers), root.level
before = state()
import {package}
assert state() == before, "importing changed the environment, the warning filters or the root logger"
print(*{{name.partition(".")[0] for name in sys.modules}})
"""

EAGER = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def door(package: str) -> tuple[dict[str, str], dict[str, str]]:
    """Where names come from by the dictionary that is used at run time, and by the imports that type checkers read."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    (loaded,) = (call.args[1] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "lazy")
    branches = (node for node in tree.body if isinstance(node, ast.If))
    (checked,) = (node.body for node in branches if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
    seen: dict[str, str] = {}
    for line in checked:
        assert isinstance(line, ast.ImportFrom)
        for alias in line.names:
            assert alias.asname == alias.name, f"{alias.name} is exported only as `{alias.name} as {alias.name}`"
            seen[alias.name] = str(line.module)
    return ast.literal_eval(loaded), seen


@pytest.mark.parametrize("package", DOORS)
def test_type_checkers_see_what_is_loaded(package: str) -> None:
    loaded, seen = door(package)
    assert loaded == seen
    assert sorted(loaded) == importlib.import_module(package).__all__


@pytest.mark.parametrize("package", DOORS)
def test_every_name_imports_and_hides_no_module(package: str) -> None:
    module = importlib.import_module(package)
    modules = {each.name for each in pkgutil.iter_modules(module.__path__)}
    for name, home in door(package)[0].items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
        assert name in dir(module)
        assert name not in modules, f"{package}.{name} is a module too: which one one gets would depend on the order"
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_that_name'"):
        _ = module.nothing_of_that_name


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_is_quiet(package: str) -> None:
    done = subprocess.run([sys.executable, "-c", QUIET.format(package=package)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = {"torch", "transformers", "lightning", "faiss", "duckdb", "pyarrow", "PIL", "numpy"}
    assert not heavy & set(done.stdout.split())


def test_all_modules_load_together() -> None:
    names = [
        each.name
        for package in PACKAGES
        for each in pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.")
        if not each.name.endswith("__main__")
    ]
    done = subprocess.run([sys.executable, "-c", EAGER, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
