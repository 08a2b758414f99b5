"""Front doors: the names that a package offers are there, hide no module, and cost nothing to import."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import fork

ROOT = Path(__file__).parents[1]
PACKAGES = ("indexer", "encoder", "training", "search")

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


def load_anew(names: list[str]) -> None:
    """Import modules as if none of the packages had been imported; what they build on stays."""
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    for name in names:
        importlib.import_module(name)


def door(package: str) -> dict[str, str]:
    """For each name of a front door the module that it comes from, as the stub says."""
    homes: dict[str, str] = {}
    for line in ast.parse((ROOT / package / "__init__.pyi").read_text()).body:
        assert isinstance(line, ast.ImportFrom)
        assert line.level == 1
        for alias in line.names:
            assert alias.asname == alias.name, f"{alias.name} is exported only as `{alias.name} as {alias.name}`"
            homes[alias.name] = f"{package}.{line.module}"
    return homes


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_imports_and_hides_no_module(package: str) -> None:
    module, homes = importlib.import_module(package), door(package)
    assert sorted(module.__all__) == sorted(homes)
    modules = {each.name for each in pkgutil.iter_modules(module.__path__)}
    for name, home in homes.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
        assert name in dir(module)
        assert name not in modules, f"{package}.{name} is a module too: which one one gets would depend on the order"
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = module.nothing_of_that_name


def test_configs_are_made_by_keywords_alone() -> None:
    import encoder
    import indexer
    import search
    import training

    made = [indexer.BuildConfig, indexer.PartitionRule, encoder.EmbedConfig, encoder.EncoderOptions]
    made += [encoder.FeedOptions, encoder.ReadOptions, encoder.SegmentConfig, search.SearchOptions, search.RunSpec]
    made += [search.RunConfig, search.AuditConfig, search.CalibrateConfig, search.EvaluateConfig, search.ServeOptions]
    for config in (*made, training.FitConfig, training.RefitConfig):
        kinds = {each.kind for each in inspect.signature(config).parameters.values()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}, config


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
    for name in names:
        importlib.import_module(name)
    process = fork(load_anew, names)
    process.join()
    assert process.exitcode == 0
