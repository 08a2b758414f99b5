"""A disk that fills up at any moment: one sentence, nothing half-written, and what was published goes on."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles.bundle import build_bundle, verify_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import write_folder
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
from tests.conftest import clustered_points, random_geocells

# No file may grow beyond the limit, which the system reports as it does a full disk (EFBIG for ENOSPC).
LIMITED = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
runpy.run_module("indexer", run_name="__main__", alter_sys=True)
"""


def indexer(limit_bytes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(limit_bytes), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("limit_bytes", [0, 1_000, 30_000, 60_000])
def test_a_partition_that_does_not_fit(tmp_path: Path, limit_bytes: int) -> None:
    lat, lng = clustered_points(20_000, seed=1)
    pyarrow.parquet.write_table(pa.table({"lat": lat, "lng": lng}), tmp_path / "p.parquet")
    done = indexer(limit_bytes, "partition", "--photos", tmp_path / "p.parquet", "--out", tmp_path / "H")
    assert done.returncode == 1, done.stderr
    assert done.stderr == f"error: {tmp_path / 'H'}: no space left. Nothing was kept; free some space and run again.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


@pytest.mark.parametrize("limit_bytes", [60_000, 100_000, 120_000, 400_000])
def test_a_cell_table_is_whole_or_absent_though_its_log_would_fit(tmp_path: Path, limit_bytes: int) -> None:
    # Between the size of DuckDB's log and that of the table: closing the database would hide that this failed.
    lat, lng = clustered_points(3000, seed=1)
    pyarrow.parquet.write_table(pa.table({"lat": lat, "lng": lng}), tmp_path / "p.parquet")
    taus = ("--tau-max", "60,20", "--tau-min", "2")
    done = indexer(limit_bytes, "partition", "--photos", tmp_path / "p.parquet", *taus, "--out", tmp_path / "H")
    if done.returncode == 0:
        assert load_hierarchy(tmp_path / "H").leaves.n_photos.sum() > 1000
        assert {path.name for path in (tmp_path / "H").iterdir()} == {"cells.duckdb", "photos.parquet", "manifest.json"}
    else:
        assert "no space left" in done.stderr
        assert not (tmp_path / "H").exists()
    assert (done.returncode == 0) == (limit_bytes == 400_000)


@pytest.mark.parametrize("limit_bytes", [1_000, 100_000, 160_000])
def test_a_build_that_does_not_fit(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path, limit_bytes: int
) -> None:
    home = Registry(tmp_path / "R")
    home.publish(
        build_bundle(
            hierarchy_folder, random_geocells(hierarchy, 8, 0), home.versions_folder, config={}, inputs={}
        ).name
    )
    with write_folder(tmp_path / "C", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, random_geocells(hierarchy, 256, 1))
    before = home.current
    done = indexer(
        limit_bytes, "build", "--hierarchy", hierarchy_folder, "--checkpoint", tmp_path / "C", "--registry", home.path
    )
    assert done.returncode == 1, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert home.current == before
    assert [path.name for path in home.versions_folder.iterdir()] == home.versions == [before]
    assert verify_bundle(home.resolve()) == []
