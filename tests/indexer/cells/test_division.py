"""Hierarchy folders from photo tables: what they say of themselves, and that a later one can follow."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.cells.division import LabelScheme, S2Scheme, divide, partition, recorded_scheme, update
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.partition import PartitionRule
from indexer.cells.table import hierarchy_manifest, load_hierarchy
from indexer.disk.manifest import file_digest, manifest_digest
from indexer.errors import ArtifactError, InputError
from indexer.photos.sources import open_photos
from tests.conftest import RULE


def test_a_table_becomes_a_folder_that_says_how(photo_table: Path, hierarchy: Hierarchy, tmp_path: Path) -> None:
    made = partition(str(photo_table), S2Scheme(RULE), str(tmp_path / "H"))
    assert (made.folder, made.n_photos, made.lineage) == (tmp_path / "H", 3000, None)
    assert load_hierarchy(made.folder).digest == made.hierarchy.digest == hierarchy.digest
    manifest = hierarchy_manifest(made.folder)
    assert manifest.inputs == {"photos": file_digest(photo_table)}
    assert manifest.config["split"] is None
    assert recorded_scheme(manifest.config["scheme"], source=made.folder) == S2Scheme(RULE)


def test_more_photos_divide_as_all_would_have_at_once(photo_table: Path, hierarchy: Hierarchy, tmp_path: Path) -> None:
    first = partition(photo_table, S2Scheme(RULE), tmp_path / "A", split="train")
    both = update(first.folder, photo_table, tmp_path / "B", split="test")
    assert (first.n_photos, both.n_photos) == (2000, 3000)
    assert both.hierarchy.digest == hierarchy.digest
    assert both.lineage is not None
    assert hierarchy_manifest(both.folder).inputs["hierarchy"] == manifest_digest(first.folder)


def test_shards_divide_as_a_table_of_the_same_places(
    photo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.photos.sources._AT_ONCE", 70)
    rows = pyarrow.parquet.read_table(photo_table).slice(0, 200)
    pyarrow.parquet.write_table(rows, tmp_path / "p.parquet")
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for row in rows.slice(100 * number, 100).to_pylist():
                for name, content in (("jpg", b"x"), ("json", json.dumps({"LAT": row["lat"], "LON": row["lng"]}))):
                    member = tarfile.TarInfo(f"{row['photo'].replace('/', '-').replace('.', '-')}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content.encode() if isinstance(content, str) else content))
    rule = PartitionRule(tau_max=(60, 20), tau_min=1)
    by_table = partition(tmp_path / "p.parquet", S2Scheme(rule), tmp_path / "A")
    by_shards = partition(tmp_path / "{0..1}.tar", S2Scheme(rule), tmp_path / "B")
    assert by_shards.n_photos == by_table.n_photos == 200
    assert by_shards.hierarchy.digest == by_table.hierarchy.digest
    assert hierarchy_manifest(by_shards.folder).inputs == {"photos": open_photos(tmp_path / "*.tar").identity}
    with pytest.raises(InputError, match=r"2.tar: no such file"):
        partition(tmp_path / "{0..2}.tar", S2Scheme(rule), tmp_path / "C")


def test_labels_are_followed_too(tmp_path: Path) -> None:
    table = pa.table({"lat": [1.0, 2.0, 3.0], "lng": [4.0, 5.0, 6.0], "country": ["FR", "FR", "DE"]})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    first = partition(tmp_path / "p.parquet", LabelScheme(("country",)), tmp_path / "A")
    both = update(first.folder, tmp_path / "p.parquet", tmp_path / "B")
    assert both.hierarchy.levels[0].n_photos.tolist() == [2, 4]


def test_rows_that_stand_for_many_are_followed_too(tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    table.write_text("lat,lng,country,city,people\n1,2,FR,Paris,20\n3,4,US,Paris,5\n5,6,US,Nome,0\n")
    scheme = LabelScheme(("country", "city"), by_path=True, counts="people")
    first = partition(table, scheme, tmp_path / "A")
    assert first.hierarchy.leaves.n_photos.tolist() == [20, 1, 5]
    assert recorded_scheme(hierarchy_manifest(first.folder).config["scheme"], source=first.folder) == scheme
    both = update(first.folder, table, tmp_path / "B")
    assert both.hierarchy.levels[0].n_photos.tolist() == [40, 12]
    for wrong, message in [
        ("many", "people must be whole numbers"),
        ("-1", "people of row 1 is -1"),
        ("", "row 1 is nan"),
    ]:
        table.write_text(f"lat,lng,country,city,people\n1,2,FR,Paris,20\n3,4,US,Paris,{wrong}\n")
        with pytest.raises(InputError, match=message):
            partition(table, scheme, tmp_path / "C")


def test_a_target_that_exists_is_refused_before_the_table_is_read(hierarchy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        partition(tmp_path / "no such table.parquet", S2Scheme(RULE), hierarchy_folder)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({}, r"scheme this release does not know \(None\)"),
        ({"kind": "h3"}, r"does not know \('h3'\)"),
        ({"kind": "s2"}, "does not say how it was made"),
        ({"kind": "labels", "labels": ["a"]}, "does not say how it was made"),
    ],
)
def test_a_hierarchy_that_cannot_be_followed_says_so(
    scheme: dict[str, object], message: str, photo_table: Path, hierarchy_folder: Path, tmp_path: Path
) -> None:
    places = S2Scheme(RULE).read(photo_table, split=None)
    folder = divide(places, S2Scheme(RULE), tmp_path / "H").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["scheme"] = scheme
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=message):
        update(folder, photo_table, tmp_path / "B")
