"""One shard: its addresses point at its maps, and an index that is not whole is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from encoder.class_maps.lookup import MapAddress
from encoder.class_maps.shards import ShardDraft, index_path, read_map, read_shard_index, tar_path
from indexer.errors import ArtifactError, BadImage

DIGESTS = [f"{number:064x}" for number in (5, 1 << 200, 7)]


def classes_of(row: int) -> np.ndarray:
    return np.full((3 + row, 900), row, np.uint8)  # whose PNGs end inside, and at, a block of the tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draft = ShardDraft()
    draft.add(DIGESTS[0], classes_of(0))
    draft.fail(DIGESTS[1], BadImage("damaged", "why"))
    draft.add(DIGESTS[2], classes_of(2))
    (tmp_path / "maps").mkdir()
    (tmp_path / "index").mkdir()
    tar_path(tmp_path, 12).write_text("left by a kill")
    written, read = draft.write(tmp_path, 12), read_shard_index(tmp_path, 12)
    np.testing.assert_array_equal(written.keys, read.keys)
    np.testing.assert_array_equal(written.addresses, read.addresses)
    assert written.shards == read.shards == {12: tar_path(tmp_path, 12).stat().st_size}
    return tmp_path


def test_places_lead_to_maps_and_to_reasons(folder: Path) -> None:
    index = read_shard_index(folder, 12)
    addresses = [MapAddress(*address.item()) for address in index.addresses]
    assert [address.shard for address in addresses] == [12, 12, 12]
    for row in (0, 2):
        np.testing.assert_array_equal(read_map(folder, addresses[row]), classes_of(row))
    with pytest.raises(BadImage, match="damaged: why"):
        read_map(folder, addresses[1])
    with pytest.raises(
        ArtifactError, match=r"00012\.tar: a map in it is not what was written. Remove .*00012\.parquet"
    ):
        read_map(folder, addresses[0]._replace(offset=513))
    tar_path(folder, 12).unlink()
    with pytest.raises(ArtifactError, match=r"00012\.tar: cannot be read \(No such file or directory\)"):
        read_map(folder, addresses[0])


@pytest.mark.parametrize("change", ["rows", "column", "digest", "metadata", "text", "absent"])
def test_an_index_that_is_not_whole_is_refused(folder: Path, change: str) -> None:
    path = index_path(folder, 12)
    table = pa.parquet.read_table(path)
    changed = {
        "rows": lambda: table.slice(1),
        "column": lambda: table.drop_columns(["crc32"]),
        "digest": lambda: table.set_column(0, "sha256", pa.array(["x", "y", "z"])),
        "metadata": lambda: table.replace_schema_metadata(None),
    }
    if change in changed:
        pa.parquet.write_table(changed[change](), path)
    elif change == "text":
        path.write_text("text")
    else:
        path.unlink()
    with pytest.raises(ArtifactError, match=r"00012\.parquet: cannot be read as an index of class maps .* Remove"):
        read_shard_index(folder, 12)
