"""Small worlds that several packages' tests share; everything is seeded."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import settings

from indexer.cells.division import S2Scheme, divide
from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.jobs.job_folder import Job, open_job
from indexer.vectors.features import KIND, SCHEMA_VERSION, FeatureBatch, feature_table
from indexer.vectors.geocells import Geocells
from tests.kills import Forks, fork_server

# Slow machines are no fault of the code; and a run that passed must pass again.
settings.register_profile("geosurge", deadline=None, derandomize=True)
settings.load_profile("geosurge")

RULE = PartitionRule(tau_max=(400, 120, 40), tau_min=5)

# Where S2 arithmetic goes wrong first: poles, the antimeridian, cube edges and corners, signed zeros.
EDGE_POINTS = np.array(
    [
        (90.0, 0.0),
        (90.0, 123.0),
        (-90.0, 0.0),
        (0.0, 180.0),
        (0.0, -180.0),
        (12.5, 180.0),
        (12.5, -180.0),
        (0.0, 45.0),
        (0.0, -45.0),
        (0.0, 135.0),
        (35.264389682754654, 45.0),
        (-35.264389682754654, -135.0),
        (45.0, 0.0),
        (45.0, 90.0),
        (-45.0, -90.0),
        (0.0, 0.0),
        (-0.0, -0.0),
        (0.0, 90.0),
    ]
)


def clustered_points(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places as photos have them: crowded cities, some of them on awkward spots, and a thin spread everywhere."""
    rng = np.random.default_rng(seed)
    centres = np.concatenate([EDGE_POINTS[:8], np.degrees(rng.uniform(-1, 1, (30, 2)) * [1.2, np.pi])])
    city = rng.choice(len(centres), n, p=rng.dirichlet(np.full(len(centres), 0.5)))
    lat = np.clip(centres[city, 0] + rng.normal(0, 1.0, n), -90, 90)
    lng = (centres[city, 1] + rng.normal(0, 1.0, n) + 180) % 360 - 180
    wide = rng.random(n) < 0.05
    lat[wide] = np.degrees(np.arcsin(rng.uniform(-1, 1, wide.sum())))
    lng[wide] = rng.uniform(-180, 180, wide.sum())
    return lat, lng


def save_s2_hierarchy(lat_deg: np.ndarray, lng_deg: np.ndarray, *, rule: PartitionRule, out: Path) -> Path:
    """A hierarchy folder as `python -m indexer partition` writes it."""
    places = pa.table({"s2_id": sorted_ids([(lat_deg, lng_deg)])})
    return divide(places, S2Scheme(rule), out).folder


def random_geocells(hierarchy: Hierarchy, width: int, seed: int, encoder: str | None = "e" * 64) -> Geocells:
    """Unit vectors in random directions, one temperature for each level."""
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(len(level), width)) for level in hierarchy.levels]
    return Geocells(
        [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in vectors],
        np.linspace(0.05, 0.1, len(vectors)),
        np.ones(len(vectors)),
        hierarchy.digest,
        encoder,
    )


def random_classes(hierarchy: Hierarchy, width: int, seed: int) -> Geocells:
    """The classes of a classifier: vectors of lengths from 0.2 to 3 in random directions, and biases."""
    rng = np.random.default_rng(seed)
    geocells = random_geocells(hierarchy, width, seed)
    vectors = [(level * rng.uniform(0.2, 3.0, (len(level), 1))).astype(np.float32) for level in geocells.vectors]
    biases = [rng.normal(0, 3, len(level)).astype(np.float32) for level in vectors]
    return replace(geocells, vectors=vectors, biases=biases)


def unit_rows(n: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# Files that take longest. They begin first, so that no core waits for one of them at the end.
_LONGEST = [
    f"tests/{name}.py"
    for name in (
        "search/runs/test_ray_run",
        "search/runs/test_job_kills",
        "benchmarks/test_refit",
        "training/test_refitting",
        "training/test_two_processes",
        "docs/test_examples",
        "benchmarks/test_demo",
        "docs/test_commands",
        "search/calibration/test_photo_calibration",
        "indexer/bundles/test_bundle",
        "indexer/bundles/test_gallery_maker",
        "training/test_fitting",
        "encoder/photos/test_decoding",
        "encoder/class_maps/test_cache",
        "encoder/test_segmenting",
        "search/calibration/test_calibrate",
        "search/service/test_server",
        "search/test_locate",
        "indexer/jobs/test_job_folder",
        "indexer/bundles/test_registry_kills",
        "indexer/cells/test_extent",
    )
]


def _place_in_line(item: pytest.Item) -> int:
    file = item.nodeid.partition("::")[0]
    return _LONGEST.index(file) if file in _LONGEST else len(_LONGEST)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported is no garbage, in forks neither
    gc.set_threshold(10_000)  # tests leave little
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # DuckDB counts what is left when a process ends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place_in_line)
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_disks() -> Iterator[None]:
    """Nobody pulls a plug here: the death of a process loses nothing that was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def forks_of() -> Iterator[Callable[[str], Forks]]:
    """For all tests of this process, and before the first of them starts a thread."""
    with fork_server() as of_module:
        yield of_module


@pytest.fixture(scope="module")
def started(forks_of: Callable[[str], Forks], request: pytest.FixtureRequest) -> Forks:
    """Forks that call functions of the test's module."""
    return forks_of(request.module.__name__)


@pytest.fixture(scope="session")
def points() -> tuple[np.ndarray, np.ndarray]:
    return clustered_points(3000, seed=7)


@pytest.fixture(scope="session")
def hierarchy(points: tuple[np.ndarray, np.ndarray]) -> Hierarchy:
    return build_hierarchy(sorted_ids([points]), rule=RULE)


@pytest.fixture(scope="session")
def hierarchy_folder(points: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_s2_hierarchy(*points, rule=RULE, out=tmp_path_factory.mktemp("hierarchy") / "H")


@pytest.fixture
def photo_table(points: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    lat, lng = points
    path = tmp_path / "photos.parquet"
    names = [f"{row:05d}.jpg" for row in range(len(lat))]
    split = ["train" if row % 3 else "test" for row in range(len(lat))]
    pyarrow.parquet.write_table(pa.table({"photo": names, "lat": lat, "lng": lng, "split": split}), path)
    return path


def write_features(out: Path, *batches: FeatureBatch, encoder: str | None, **facts: Any) -> Path:
    """A features folder, as `python -m encoder embed` leaves it, with a shard for each batch."""
    with open_job(out, Job(KIND, SCHEMA_VERSION, {}, {})) as folder:
        first_row = 0
        for number, batch in enumerate(batches):
            folder.add(number, feature_table(batch), first_row=first_row)
            first_row += len(batch)
        folder.finish({"encoder": encoder, **facts})
    return out
