"""Held-out queries: read from features and a table, refused where these do not go together, divided by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.earth.geo import lat_lng, unit_vectors
from indexer.errors import InputError
from indexer.vectors.features import open_features
from search.answers.engine import Engine
from search.evaluation.held_out import held_out


def test_photos_and_truth_that_do_not_belong_together_are_refused(home: Path) -> None:
    bundle = Engine.open(home / "R").bundle
    features = open_features(home / "F")
    (home / "others.csv").write_text("photo,lat,lng\nx.jpg,1,2\n")
    with pytest.raises(InputError, match=r"0 photos of .*others\.csv have a vector"):
        held_out(bundle, features, home / "others.csv")
    (home / "twice.csv").write_text("photo,lat,lng\n1.jpg,1,2\n1.jpg,1,2\n")
    with pytest.raises(InputError, match="names of photos repeat"):
        held_out(bundle, features, home / "twice.csv")


def test_an_album_lies_in_the_middle_of_its_photos(home: Path) -> None:
    bundle = Engine.open(home / "R").bundle
    rows = pa.parquet.read_table(home / "truth.parquet")
    pairs = rows.append_column("pair", pa.array([row // 2 for row in range(400)]))
    pa.parquet.write_table(pairs, home / "pairs.parquet")
    album = held_out(bundle, open_features(home / "F"), home / "pairs.parquet", album="pair")
    assert (len(album), set(album.n_photos.tolist())) == (200, {2})
    points = unit_vectors(rows["lat"].to_numpy(), rows["lng"].to_numpy()).reshape(200, 2, 3).sum(axis=1)
    lat, lng = lat_lng(points)
    np.testing.assert_allclose(album.lat_deg, lat)
    np.testing.assert_allclose(album.lng_deg, lng)
    np.testing.assert_array_equal(album.leaf, bundle.hierarchy.locate(lat, lng)[:, -1])
