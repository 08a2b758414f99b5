"""`python -m indexer export`: what geopandas reads back, what is refused, and that a file is whole or absent."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import shapely

from indexer.cells.export import COLUMNS, CRS, cell_frame, export_cells, write_frame
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.earth.polygons import cell_polygons
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
from tests.conftest import random_geocells
from tests.indexer.conftest import indexer


def read(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


def values_table(path: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


@pytest.fixture(params=["cells.parquet", "cells.geojson"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


@pytest.mark.parametrize("level", [0, 2])
def test_what_is_written_is_read_back(
    hierarchy: Hierarchy, hierarchy_folder: Path, out: Path, level: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [] if level == 2 else ["--level", level]  # the finest is the default
    assert indexer("export", "--hierarchy", hierarchy_folder, "--out", out, *options, "--json") == 0
    cells = hierarchy.levels[level]
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "out": str(out),
        "format": "GeoParquet" if out.suffix == ".parquet" else "GeoJSON",
        "crs": CRS,
        "level": level,
        "cells": len(cells),
    }
    frame = read(out)
    in_json = out.suffix == ".geojson"
    assert list(frame.columns) == [name for name in COLUMNS if not (in_json and name == "s2_id")] + ["geometry"]
    assert frame.crs == ("EPSG:4326" if in_json else "OGC:CRS84")
    assert frame["key"].tolist() == frame["token"].tolist() == cells.keys.tolist()
    for name in ("n_photos", "lat_deg", "lng_deg", "radius_km", "city", "country", "leaf_begin", "leaf_end"):
        assert frame[name].tolist() == getattr(cells, name).tolist()
    assert cells.s2_ids is not None
    if not in_json:
        assert frame["s2_id"].dtype == np.uint64
        np.testing.assert_array_equal(frame["s2_id"], cells.s2_ids)
    assert shapely.equals_exact(frame.geometry.values, cell_polygons(cells.s2_ids), tolerance=1e-9).all()
    assert shapely.is_valid(frame.geometry.values).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(shapely.get_parts(frame.geometry.values))).all()


def test_cube_faces_survive_both_formats(photo_table: Path, out: Path, tmp_path: Path) -> None:
    rule = ["--first-level", 0, "--tau-max", 5000, "--tau-min", 0]
    assert indexer("partition", "--photos", photo_table, *rule, "--out", tmp_path / "H") == 0
    assert indexer("export", "--hierarchy", tmp_path / "H", "--out", out) == 0
    frame = read(out)
    assert frame["s2_level"].tolist() == [0] * 6
    assert shapely.area(frame.geometry.values).sum() == pytest.approx(360 * 180, abs=1e-4)
    assert frame.geometry.union_all().area == pytest.approx(360 * 180, abs=1e-4)
    assert frame.geometry.contains(shapely.Point(77, 89.9999)).tolist() == [False, False, True, False, False, False]


def test_geojson_is_as_rfc_7946_wants_it(hierarchy_folder: Path, tmp_path: Path) -> None:
    assert indexer("export", "--hierarchy", hierarchy_folder, "--out", tmp_path / "cells.geojson") == 0
    collection = json.loads((tmp_path / "cells.geojson").read_text())
    assert "crs" not in collection
    numbers = [
        value
        for feature in collection["features"]
        for value in feature["properties"].values()
        if isinstance(value, int | float)
    ]
    assert max(map(abs, numbers)) < 2**53


def test_cells_of_a_registry_by_version_or_the_current_one(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from indexer.disk.artifact import write_folder

    with write_folder(tmp_path / "C", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, random_geocells(hierarchy, 8, seed=0))
    registry = ["--registry", tmp_path / "R"]
    made = indexer("build", "--hierarchy", hierarchy_folder, "--checkpoint", tmp_path / "C", *registry, "--json")
    assert made == 0
    version = json.loads(capsys.readouterr().out)["version"]
    assert indexer("export", *registry, "--out", tmp_path / "a.parquet") == 0
    assert indexer("export", *registry, "--version", version[:8], "--out", tmp_path / "b.parquet") == 0
    assert read(tmp_path / "a.parquet").equals(read(tmp_path / "b.parquet"))
    assert len(read(tmp_path / "a.parquet")) == len(hierarchy.leaves)


def test_values_of_all_kinds_are_joined_by_key(hierarchy: Hierarchy, hierarchy_folder: Path, out: Path) -> None:
    keys = hierarchy.leaves.keys[[5, 1, 3]].tolist()
    values = values_table(
        out.with_name("values.parquet"),
        count=pa.array([7, 2**53, None], pa.int64()),
        share=[0.5, None, 1.5],
        name=pa.array(["five", "one", None]).dictionary_encode(),
        seen=[True, None, False],
        nothing=pa.nulls(3),
        key=keys,
    )
    assert indexer("export", "--hierarchy", hierarchy_folder, "--out", out, "--values", values) == 0
    frame = read(out)
    assert list(frame.columns)[-6:] == ["count", "share", "name", "seen", "nothing", "geometry"]
    rows = frame.set_index("key").loc[keys]
    assert rows["count"].tolist()[:2] == [7, 2**53]
    assert rows["share"].tolist()[::2] == [0.5, 1.5]
    assert rows["name"].tolist()[:2] == ["five", "one"]
    assert rows["seen"].tolist()[::2] == [True, False]
    assert frame[["count", "share", "name", "seen"]].notna().sum().tolist() == [2, 2, 2, 2]
    assert frame["nothing"].isna().all()


def test_integers_with_nulls_stay_integers(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path) -> None:
    values = values_table(tmp_path / "v.parquet", key=hierarchy.leaves.keys[:1].tolist(), count=[2**53])
    for name in ("c.parquet", "c.geojson"):
        arguments = ["--hierarchy", hierarchy_folder, "--out", tmp_path / name, "--values", values]
        assert indexer("export", *arguments) == 0
    assert pyarrow.parquet.read_schema(tmp_path / "c.parquet").field("count").type == pa.int64()
    assert '"count": 9007199254740992 }' in (tmp_path / "c.geojson").read_text()


def test_tokens_that_look_like_numbers_stay_text_in_csv(hierarchy_folder: Path, tmp_path: Path) -> None:
    frame = cell_frame(load_hierarchy(hierarchy_folder), 2)
    values = tmp_path / "values.csv"
    values.write_text("key,n\n" + "".join(f"{key},{row}\n" for row, key in enumerate(frame["key"])))
    written = export_cells(load_hierarchy(hierarchy_folder), str(tmp_path / "c.geojson"), level=2, values=str(values))
    assert written["n"].tolist() == list(range(len(frame)))
    assert cell_frame(load_hierarchy(hierarchy_folder), 2, values=values)["n"].tolist() == list(range(len(frame)))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"token": ["89c25"]}, "no column 'key'"),
        ({"key": ["nowhere", None]}, "2 key(s) are no cells of this level: 'nowhere', an empty one"),
        ({"key": [12]}, "it must be text"),
        ({"key": ["A", "B", "A"], "n": [1, 2, 3]}, "1 key(s) repeat: "),
        ({"key": ["A"], "n_photos": [1], "geometry": ["x"]}, "its own n_photos, geometry"),
        ({"key": ["A"], "vector": [[1.0, 2.0]]}, "values must be numbers, text"),
    ],
)
def test_values_that_do_not_fit_are_wrong_input(
    hierarchy: Hierarchy,
    hierarchy_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    columns: dict[str, list],
    message: str,
) -> None:
    names = dict(zip("AB", hierarchy.leaves.keys.tolist(), strict=False))  # real keys in place of A and B
    columns = {name: [names.get(str(value), value) for value in column] for name, column in columns.items()}
    values = values_table(tmp_path / "values.parquet", **columns)
    out = tmp_path / "cells.parquet"
    assert indexer("export", "--hierarchy", hierarchy_folder, "--out", out, "--values", values) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("numbers", [[2**53 + 1], [-(2**60)], [float("inf")]])
def test_numbers_that_json_cannot_hold_are_refused_there_only(
    hierarchy: Hierarchy,
    hierarchy_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    numbers: list[float],
) -> None:
    values = values_table(tmp_path / "values.parquet", key=hierarchy.leaves.keys[:1].tolist(), x=numbers)
    arguments = ["export", "--hierarchy", hierarchy_folder, "--values", values, "--out"]
    assert indexer(*arguments, tmp_path / "cells.geojson") == 2
    assert "x holds numbers that JSON cannot" in capsys.readouterr().err
    assert indexer(*arguments, tmp_path / "cells.parquet") == 0
    assert read(tmp_path / "cells.parquet")["x"].max() == max(numbers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hierarchy", "H", "--out", "cells.shp"], "must end in .parquet (GeoParquet) or .geojson (GeoJSON)"),
        (["--hierarchy", "H", "--out", "cells"], "must end in"),
        (["--hierarchy", "H"], "required"),
        (["--out", "c.parquet"], "Give one of --registry and --hierarchy"),
        (["--hierarchy", "H", "--registry", "R", "--out", "c.parquet"], "Give one of"),
        (["--hierarchy", "H", "--version", "ab", "--out", "c.parquet"], "--version goes with --registry"),
        (["--hierarchy", "H", "--level", "3", "--out", "c.parquet"], "levels are 0 (coarsest) to 2 (finest)"),
        (["--hierarchy", "H", "--level", "-1", "--out", "c.parquet"], "There is no level -1"),
        (["--hierarchy", "H", "--out", "H"], "must end in"),
        (["--hierarchy", "absent", "--out", "c.parquet"], "not a hierarchy folder"),
        (["--registry", "absent", "--out", "c.parquet"], "not a registry"),
        (["--hierarchy", "H", "--values", "absent.csv", "--out", "c.parquet"], "absent.csv: no such file"),
        (["--hierarchy", "H", "--values", "H/manifest.json", "--out", "c.parquet"], "must be a .parquet or .csv"),
        (["--hierarchy", "H", "--values", "bad.parquet", "--out", "c.parquet"], "cannot be read as a table"),
        (["--hierarchy", "H", "--out", "taken.parquet"], "exists already"),
        (["--hierarchy", "H", "--out", "folder.parquet"], "exists already"),
        (["--hierarchy", "H", "--out", "taken.parquet/c.parquet"], "taken.parquet is a file, not a folder"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what(
    hierarchy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "H").symlink_to(hierarchy_folder)
    (tmp_path / "taken.parquet").write_text("mine")
    (tmp_path / "bad.parquet").write_text("no table")
    (tmp_path / "folder.parquet").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert indexer("export", *arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_label_trees_have_nothing_to_draw(
    photo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hierarchy = ["--scheme", "labels", "--labels", "split", "--out", tmp_path / "H"]
    assert indexer("partition", "--photos", photo_table, *hierarchy) == 0
    assert indexer("export", "--hierarchy", tmp_path / "H", "--out", tmp_path / "c.geojson") == 2
    assert "are labels (split): they have no borders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "module"), [("geopandas", "indexer.cells.export"), ("shapely", "indexer.earth.polygons")]
)
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    hierarchy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in {module, "indexer.cells.export"}:
        monkeypatch.delitem(sys.modules, name)
    assert indexer("export", "--hierarchy", hierarchy_folder, "--out", tmp_path / "c.geojson") == 2
    said = capsys.readouterr().err
    assert f"{package} is not installed" in said
    assert "pip install '.[export]'" in said


@pytest.fixture
def frame(hierarchy: Hierarchy) -> Iterator[geopandas.GeoDataFrame]:
    return cell_frame(hierarchy, 0)


def test_a_write_that_fails_leaves_nothing(
    frame: geopandas.GeoDataFrame, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_frame(frame, out)
    assert list(out.parent.iterdir()) == []
