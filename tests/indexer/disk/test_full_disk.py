"""A disk that fills up at any moment: one sentence, nothing half-written, and what was published goes on."""

import contextlib
import io
import json
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles.bundle import verify_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import write_folder
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
from tests.conftest import clustered_points, random_geocells
from tests.indexer.conftest import indexer
from tests.kills import Forks


def run_limited(result: str, limit_bytes: int, *arguments: str) -> None:
    """A command's exit code and what it prints on standard error, as JSON in a file.

    No file may grow beyond the limit, which the system reports as it does a full disk (EFBIG for ENOSPC).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = indexer(*arguments)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    Path(result).write_text(json.dumps([code, errors.getvalue()]))


def limited(started: Forks, folder: Path, limit_bytes: int, *arguments: object) -> tuple[int, str]:
    result = folder.parent / f"{folder.name}.json"
    assert started.run("run_limited", result, limit_bytes, *arguments) == 0, "an error that no command may end with"
    code, errors = json.loads(result.read_text())
    return code, errors


@pytest.mark.parametrize("limit_bytes", [0, 1_000, 30_000, 60_000])
def test_a_partition_that_does_not_fit(started: Forks, tmp_path: Path, limit_bytes: int) -> None:
    lat, lng = clustered_points(20_000, seed=1)
    pyarrow.parquet.write_table(pa.table({"lat": lat, "lng": lng}), tmp_path / "p.parquet")
    code, errors = limited(
        started, tmp_path, limit_bytes, "partition", "--photos", tmp_path / "p.parquet", "--out", tmp_path / "H"
    )
    assert code == 1, errors
    assert errors == f"error: {tmp_path / 'H'}: no space left. Nothing was kept; free some space and run again.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


@pytest.mark.parametrize("limit_bytes", [60_000, 100_000, 120_000, 400_000])
def test_a_cell_table_is_whole_or_absent_though_its_log_would_fit(
    started: Forks, tmp_path: Path, limit_bytes: int
) -> None:
    # Between the size of DuckDB's log and that of the table: closing the database would hide that this failed.
    lat, lng = clustered_points(3000, seed=1)
    pyarrow.parquet.write_table(pa.table({"lat": lat, "lng": lng}), tmp_path / "p.parquet")
    taus = ("--tau-max", "60,20", "--tau-min", "2")
    command = ("partition", "--photos", tmp_path / "p.parquet", *taus, "--out", tmp_path / "H")
    code, errors = limited(started, tmp_path, limit_bytes, *command)
    if code == 0:
        assert load_hierarchy(tmp_path / "H").leaves.n_photos.sum() > 1000
        assert {path.name for path in (tmp_path / "H").iterdir()} == {"cells.duckdb", "photos.parquet", "manifest.json"}
    else:
        assert "no space left" in errors
        assert not (tmp_path / "H").exists()
    assert (code == 0) == (limit_bytes == 400_000)


@pytest.mark.parametrize("limit_bytes", [1_000, 100_000, 160_000])
def test_a_build_that_does_not_fit(
    started: Forks, registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path, limit_bytes: int
) -> None:
    with write_folder(tmp_path / "C", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, random_geocells(hierarchy, 256, 1))
    before = registry.current
    command = ("build", "--hierarchy", hierarchy_folder, "--checkpoint", tmp_path / "C", "--registry", registry.path)
    code, errors = limited(started, tmp_path, limit_bytes, *command)
    assert code == 1, errors
    assert "no space left" in errors
    assert "Traceback" not in errors
    assert registry.current == before
    assert [path.name for path in registry.versions_folder.iterdir()] == registry.versions == [before]
    assert verify_bundle(registry.resolve()) == []
