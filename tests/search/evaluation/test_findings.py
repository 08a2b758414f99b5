"""Lists of photos that are no evidence, from an audit or from anybody."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.disk.artifact import write_folder
from indexer.errors import ArtifactError, InputError
from search.evaluation.findings import (
    DUPLICATES,
    KIND,
    LEAKS,
    SCHEMA_VERSION,
    UNREADABLE,
    excluded_photos,
    near_duplicates,
)


def table(path: Path, names: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pa.table({"photo": pa.array(names, pa.string())}), path)
    return path


def written_audit(
    folder: Path, duplicates: Sequence[str], leaks: Sequence[str] = (), *, photos: int = 4, compared: bool = True
) -> Path:
    """A folder as `audit` writes it, of tables that have names and nothing else."""
    with write_folder(folder, kind=KIND, schema_version=SCHEMA_VERSION, config={}, inputs={"photos": None}) as draft:
        for name, names in ((LEAKS, leaks), (DUPLICATES, duplicates), (UNREADABLE, ["z"])):
            table(draft.path / name, list(names))
        draft.facts |= {"photos": photos, "compared": compared}
    return folder


def test_an_audits_tables_name_each_photo_once(tmp_path: Path) -> None:
    audit = written_audit(tmp_path / "A", ["c", "b", "c"], ["a", "b", "a"])
    assert excluded_photos(audit / LEAKS) == ["a", "b"]
    assert excluded_photos(audit / DUPLICATES) == near_duplicates(audit).photos == ["c", "b"]
    assert near_duplicates(audit).n_audited == 4


def test_an_audit_that_found_nothing_names_nobody(tmp_path: Path) -> None:
    audit = written_audit(tmp_path / "A", [])
    assert near_duplicates(audit).photos == excluded_photos(audit / LEAKS) == []


def test_an_audit_that_compared_with_nothing_has_no_near_duplicates_to_tell(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compared with nothing"):
        near_duplicates(written_audit(tmp_path / "A", [], compared=False))
    (tmp_path / "B").mkdir()
    with pytest.raises(ArtifactError, match="not a audit folder"):
        near_duplicates(tmp_path / "B")


def test_anybodys_table_will_do(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("photo,why\na,copy\n,\nb,exif\n")
    assert excluded_photos(tmp_path / "l.csv") == ["a", "b"]


def test_what_is_no_list_is_explained(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    with pytest.raises(InputError, match="Give an audit's folder as `audit`"):
        excluded_photos(tmp_path / "A")
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(InputError, match="cannot be read"):
        excluded_photos(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no such file"):
        excluded_photos(tmp_path / "absent.parquet")
