"""The audit of a test set, from files to tables."""

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.disk.manifest import read_manifest
from indexer.errors import InputError
from search.evaluation import audit as module
from search.evaluation.audit import KIND, SCHEMA_VERSION, audit
from search.evaluation.options import AuditConfig
from tests.photo_files import LAT, LNG, comment, exif, iptc, jpeg, picture, with_segments


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A table of six photos: clean, EXIF, comment and IPTC, coordinates in the name, damaged, plain grey."""
    home = tmp_path / "test"
    home.mkdir()
    files = {
        "clean.jpg": jpeg(picture(1)),
        "exif.jpg": with_segments(jpeg(picture(2)), exif(gps=True)),
        "both.jpg": with_segments(jpeg(picture(3)), comment("latitude: 1.5\nlongitude: 2.5"), iptc((90, "Paris"))),
        "48.8584,2.2945.jpg": jpeg(picture(4)),
        "broken.jpg": b"no image",
        "plain.jpg": jpeg(picture(5).convert("L").point(lambda value: 128)),
    }
    for name, content in files.items():
        (home / name).write_bytes(content)
    lines = [f'"{name}",{LAT},{LNG}' for name in files]
    (home / "photos.csv").write_text("\n".join(["photo,lat,lng", *lines]) + "\n")
    return home / "photos.csv"


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """Photos 1 and 2 of the test set in other sizes and qualities, one degree north; and two others."""
    home = tmp_path / "train"
    home.mkdir()
    for seed, edge, quality in ((1, 64, 60), (2, 96, 40), (50, 96, 90), (51, 96, 90)):
        (home / f"{seed}.jpg").write_bytes(jpeg(picture(seed).resize((edge, edge)), quality))
    (home / "again.jpg").write_bytes(jpeg(picture(1)))
    (home / "broken.jpg").write_bytes(b"no image")
    names = ["1.jpg", "2.jpg", "50.jpg", "51.jpg", "again.jpg", "broken.jpg"]
    (home / "photos.csv").write_text(
        "\n".join(["photo,lat,lng", *(f"{name},{LAT + 1},{LNG}" for name in names)]) + "\n"
    )
    return home / "photos.csv"


def rows(folder: Path, name: str) -> list[dict[str, object]]:
    return pa.parquet.read_table(folder / f"{name}.parquet").to_pylist()


def test_leaks_are_listed_with_how_right_they_are(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(module, "track", lambda what, total: nullcontext(seen.append))
    summary = audit(str(photos), tmp_path / "A")
    assert sum(seen) == summary.photos == 6
    assert summary.leaking == 3
    assert summary.leaks == {"exif_gps": 1, "comment": 1, "iptc": 1, "file_name": 1}
    assert summary.unreadable == {"not_an_image": 1}
    assert (summary.references, summary.duplicates) == (None, {"hash": 0, "embedding": 0})
    leaks = {(row["photo"], row["where"]): row for row in rows(tmp_path / "A", "leaks")}
    assert leaks["exif.jpg", "exif_gps"]["error_km"] == pytest.approx(0, abs=0.01)
    assert leaks["both.jpg", "comment"]["lat"] == 1.5
    assert float(str(leaks["both.jpg", "comment"]["error_km"])) > 5000
    assert leaks["both.jpg", "iptc"]["error_km"] is None
    assert [row["photo"] for row in rows(tmp_path / "A", "unreadable")] == ["broken.jpg"]
    assert rows(tmp_path / "A", "duplicates") == []
    read_manifest(tmp_path / "A", kind=KIND, schema_version=SCHEMA_VERSION)


def test_copies_among_the_references_are_found(photos: Path, references: Path, tmp_path: Path) -> None:
    summary = audit(str(photos), tmp_path / "A", config=AuditConfig(references=str(references)))
    assert (summary.references, summary.unreadable_references, summary.too_plain) == (6, 1, 1)
    assert summary.duplicates["hash"] == 2
    found = {row["photo"]: row for row in rows(tmp_path / "A", "duplicates")}
    assert set(found) == {"clean.jpg", "exif.jpg"}
    assert found["clean.jpg"]["reference"] == "again.jpg"
    assert found["clean.jpg"]["bits"] == 0
    assert found["clean.jpg"]["n_references"] == 2
    assert found["clean.jpg"]["distance_km"] == pytest.approx(111.2, abs=0.1)
    assert found["exif.jpg"]["by"] == "hash"


def test_blocks_of_references_change_nothing(
    photos: Path, references: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit(str(photos), tmp_path / "A", config=AuditConfig(references=str(references)))
    monkeypatch.setattr(module, "_BATCH", 2)
    audit(str(photos), tmp_path / "B", config=AuditConfig(references=str(references), workers=1))
    assert rows(tmp_path / "A", "duplicates") == rows(tmp_path / "B", "duplicates")


def test_embeddings_are_compared_as_well(photos: Path, tmp_path: Path) -> None:
    vectors = np.eye(4, dtype=np.float32)
    for name, part in (("Q", vectors[:2]), ("F", vectors[1:])):
        table = {"photo": [f"{name}{row}" for row in range(len(part))], "embedding": part.tolist()}
        pa.parquet.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    config = AuditConfig(features=str(tmp_path / "Q.parquet"), reference_features=str(tmp_path / "F.parquet"))
    summary = audit(photos, str(tmp_path / "A"), config=config)
    assert summary.duplicates == {"hash": 0, "embedding": 1}
    (row,) = rows(tmp_path / "A", "duplicates")
    assert (row["photo"], row["reference"], row["bits"], row["distance_km"]) == ("Q1", "F0", None, None)
    assert row["cosine"] == pytest.approx(1)


def test_nothing_is_left_behind_when_it_fails(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`max_bits`"):
        audit(str(photos), tmp_path / "A", config=AuditConfig(references=str(photos), max_bits=60))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test"]
    with pytest.raises(InputError, match="`workers`"):
        AuditConfig(workers=0)


def test_a_photo_whose_place_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "P").mkdir()
    (tmp_path / "P" / "a.jpg").write_bytes(with_segments(jpeg(), exif(gps=True)))
    audit(str(tmp_path / "P"), tmp_path / "A")
    (leak,) = rows(tmp_path / "A", "leaks")
    assert leak["error_km"] is None
    assert not math.isnan(float(str(leak["lat"])))
