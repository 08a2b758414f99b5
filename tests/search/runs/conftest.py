"""A registry whose gallery knows whose its photos are, and vectors that ask it for photos of these owners."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.vectors.prototypes import Placed
from tests.conftest import random_geocells
from tests.search.conftest import WIDTH
from tests.search.gallery_oracle import bundle_with_photos

OWNERS = ["ann-0xA1", "ben-0xB2", "cleo-0xC3"]  # words that stand nowhere else


@pytest.fixture(scope="session")
def owned(
    hierarchy: Hierarchy, hierarchy_folder: Path, placed: Placed, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a registry R whose gallery's photos have owners, and features F of 18 photos with theirs.

    Each asks with the vector of a photo of its owner in the gallery, and row 5 has no owner.
    """
    home = tmp_path_factory.mktemp("owned")
    registry = Registry(home / "R")
    whose = [OWNERS[row % 3] for row in range(len(placed.photo))]
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    made = bundle_with_photos(hierarchy, hierarchy_folder, geocells, placed, registry.versions_folder, owners=whose)
    registry.publish(made.version)
    rows = {
        "photo": [f"q{row}" for row in range(18)],
        "embedding": placed.vectors[:18].tolist(),
        "who": [None if row == 5 else whose[row] for row in range(18)],
        "trip": [f"{row // 3}" for row in range(18)],
    }
    (home / "F").mkdir()
    pa.parquet.write_table(pa.table(rows), home / "F" / "0.parquet")
    return home
