"""Writes one golden folder: every format on disk, small, as the release of today writes it.

`python -m tests.golden.make ../v2` for a new schema version, from a checkout without changes, then moved to
`tests/golden/v2`: manifests name the commit, and `-dirty` where tracked files are changed or gone. From the first
release on, folders that exist are never made again, because what they hold is what users hold.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from encoder.class_maps.cache import MapOrigin, content_digest, write_cache
from indexer.__main__ import COMMANDS as INDEXER
from indexer.bundles.bundle import open_bundle
from indexer.bundles.registry import Registry
from indexer.cli import Command, main
from indexer.errors import BadImage
from indexer.jobs.job_folder import OK
from indexer.vectors.features import FeatureBatch
from search.__main__ import COMMANDS as SEARCH
from tests.conftest import write_features
from tests.indexer.anisotropic import anisotropic_world
from training.__main__ import COMMANDS as TRAINING


def make(out: Path) -> None:
    """Write photos, hierarchy, features, checkpoint, registry and predictions below `out`, and what queries answer."""
    out.mkdir(parents=True)
    world = anisotropic_world(n_known=1300, n_unseen=20, width=33, seed=1)
    names = [f"{row:04d}.jpg" for row in range(len(world.vectors))]
    known, unseen = slice(0, 1300), slice(1300, None)
    columns = {"photo": names[known], "lat": world.lat_deg[known], "lng": world.lng_deg[known]}
    table = pa.table({**columns, "user": [None if row % 4 == 0 else f"user {row % 50}" for row in range(1300)]})
    pyarrow.parquet.write_table(table, out / "photos.parquet", compression="zstd")
    for folder, rows in (("features", known), ("queries", unseen)):
        n_rows = len(names[rows])
        places = world.lat_deg[rows], world.lng_deg[rows]
        batch = FeatureBatch(names[rows], world.vectors[rows], [OK] * n_rows, [""] * n_rows, *places)
        write_features(out / folder, batch, encoder="e" * 64, width=33)
    taus = ["--tau-max", "120,40", "--tau-min", "3"]
    run(INDEXER, "partition", "--photos", out / "photos.parquet", *taus, "--out", out / "hierarchy")
    places = ["--hierarchy", out / "hierarchy", "--features", out / "features", "--registry", out / "registry"]
    owners = ["--photos", out / "photos.parquet", "--owner-column", "user"]
    run(INDEXER, "build", *places, *owners, "--shrinkage", "0.05")
    run(
        TRAINING,
        "refit",
        *places[:4],
        *("--epochs", "0", "--held-out", "0.1", "--shrinkage", "0.05", "--device", "cpu"),
        *("--gallery-per-leaf", "2", "--gallery-precision", "fp16", "--out", out / "checkpoint"),
    )
    cells = ("--registry", out / "registry", "--gallery", "off")  # the paper's product: what all releases answer
    run(SEARCH, "run", *cells, "--features", out / "queries", "--out", out / "predictions")
    make_class_maps(out / "class_maps")
    answers = pyarrow.parquet.read_table(out / "predictions")
    gallery = open_bundle(Registry(out / "registry").resolve()).gallery
    assert gallery is not None
    of_checkpoint = pyarrow.parquet.read_metadata(out / "checkpoint" / "gallery.parquet").num_rows
    expected = {
        "key": answers["key"].to_pylist(),
        "probability": np.round(answers["probability"], 9).tolist(),
        "gallery": {"photos": [len(gallery), of_checkpoint], "stands_for": round(float(gallery.stands_for.sum()), 3)},
    }
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    # Of the process that wrote, for people to look at, and of this machine.
    for pattern in ("*lock", "_status.json", "_report.*", "sources.jsonl"):
        for path in out.rglob(pattern):
            path.unlink()


def make_class_maps(out: Path) -> None:
    """Write a cache of class maps: two shards, of photos whose files are b"0" to b"3"; b"3" is damaged."""
    with write_cache(out, MapOrigin("e" * 64, "some/model", ("wall", "sky", "tree"), 384), shard_maps=2) as cache:
        for number in range(3):
            cache.add(content_digest(b"%d" % number), class_map(number))
        cache.fail(content_digest(b"3"), BadImage("damaged", "image file is truncated"))


def class_map(number: int) -> np.ndarray:
    """The map of one golden photo: stripes, and a corner without class."""
    classes = (np.indices((6, 8 + number)).sum(axis=0) % 3).astype(np.uint8)
    classes[0, 0] = 255
    return classes


def run(commands: dict[str, Command], *arguments: object) -> None:
    """Run one command of the product."""
    code = main("golden", "", commands, argv=[str(argument) for argument in arguments])
    assert code == 0, arguments


if __name__ == "__main__":
    make(Path(sys.argv[1]))
