"""Lists of photos that are no evidence, from an audit or from anybody."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.errors import InputError
from search.evaluation.findings import DUPLICATES, LEAKS, UNREADABLE, excluded_photos


def table(path: Path, names: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pa.table({"photo": pa.array(names, pa.string())}), path)
    return path


def test_an_audits_findings_name_each_photo_once(tmp_path: Path) -> None:
    table(tmp_path / "A" / LEAKS, ["a", "b", "a"])
    table(tmp_path / "A" / DUPLICATES, ["c", "b"])
    table(tmp_path / "A" / UNREADABLE, ["d"])
    assert excluded_photos(tmp_path / "A") == ["a", "b", "c"]


def test_an_audit_that_found_nothing_names_nobody(tmp_path: Path) -> None:
    table(tmp_path / "A" / LEAKS, [])
    assert excluded_photos(tmp_path / "A") == []


def test_anybodys_table_will_do(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("photo,why\na,copy\n,\nb,exif\n")
    assert excluded_photos(tmp_path / "l.csv") == ["a", "b"]


def test_what_is_no_list_is_explained(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    with pytest.raises(InputError, match="Give a folder of `audit`"):
        excluded_photos(tmp_path / "A")
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(InputError, match="cannot be read"):
        excluded_photos(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no such file"):
        excluded_photos(tmp_path / "absent.parquet")
