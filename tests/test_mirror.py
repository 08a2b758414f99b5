"""Tests mirror the modules: `search/runs/job.py` is tested in `tests/search/runs/test_job.py`.

Modules without a test file of their own are listed here with the file that tests them, and so are test files of more
than a module.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("indexer", "encoder", "training", "search")
TESTED_IN = {
    "indexer/bundles/build_config.py": "tests/indexer/bundles/test_builds.py",
    "indexer/bundles/list_file.py": "tests/indexer/bundles/test_gallery.py",
    "indexer/bundles/typical_photos.py": "tests/indexer/bundles/test_gallery_builds.py",
    "indexer/errors.py": "tests/indexer/test_cli.py",
    "indexer/paper.py": "tests/indexer/cells/test_partition.py",
    "training/adopt_commands.py": "tests/training/test_adopting.py",
    "training/runs/check_report.py": "tests/training/test_checking.py",
}
TESTS_OF_MORE = {
    "tests/indexer/bundles/test_registry_kills.py",
    "tests/indexer/disk/test_full_disk.py",
    "tests/search/answers/test_features_bundle.py",
    "tests/search/runs/test_buckets.py",
    "tests/search/runs/test_job_kills.py",
    "tests/search/runs/test_soak.py",
    "tests/search/service/test_browser.py",
    "tests/search/service/test_hostile.py",
    "tests/training/test_checkpoint_files.py",
    "tests/training/test_two_processes.py",
}


def modules() -> list[str]:
    paths = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.as_posix() for path in paths if not path.name.startswith("__"))


@pytest.mark.parametrize("module", modules())
def test_every_module_has_tests(module: str) -> None:
    path = Path(module)
    own = Path("tests") / path.with_name(f"test_{path.name}")
    elsewhere = TESTED_IN.get(module)
    if elsewhere is None:
        assert (ROOT / own).is_file(), f"{own} is missing; or say in TESTED_IN where {module} is tested"
        return
    assert not (ROOT / own).is_file(), f"{own} is there: {module} needs no line in TESTED_IN"
    name = path.with_suffix("").as_posix().replace("/", ".")
    text = (ROOT / elsewhere).read_text()
    parent, _, last = name.rpartition(".")
    assert f"from {name} import" in text or f"from {parent} import {last}" in text, f"{elsewhere} does not use {name}"


def test_every_test_file_has_a_module() -> None:
    home = ROOT / "tests"
    paths = (path.relative_to(home) for package in PACKAGES for path in (home / package).rglob("test_*.py"))
    without = {
        f"tests/{path.as_posix()}"
        for path in paths
        if not (ROOT / path.with_name(path.name.removeprefix("test_"))).is_file()
    }
    assert without == TESTS_OF_MORE


def test_the_list_names_modules_that_are_there() -> None:
    assert set(TESTED_IN) <= set(modules())
