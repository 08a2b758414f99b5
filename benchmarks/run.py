"""`python -m benchmarks.run`: offline jobs beside what they are made of, and beside a script without them.

    from vectors      rows a second of `search run`, against the search alone on the same batches, and against a plain
                      script: load, search, append rows to a list, write them at the end
    from photos       photos a second of `search run`, against `encoder embed` alone
    on Ray            the same job from vectors with --engine ray, on this machine
    memory            peak of the job from vectors over 10,000 rows and over 1,000,000
    start             from the command to its first finished shard

Rates of jobs are without the start of Python, and of Ray; a job of any length has one. Answers are compared before
anything is timed. The bundle has the size of one for MP-16: about 24,500 leaves of 768 dimensions.
"""

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from jsonargparse import ArgumentParser

from benchmarks.embed import TINYCLIP, make_photos, save_clip
from benchmarks.harness import Report, run_command, seconds_of
from benchmarks.partition import photo_places
from benchmarks.place_vectors import PlaceVectors
from indexer.bundles.bundle import build_bundle
from indexer.bundles.leaf_index import stand_ins
from indexer.bundles.registry import Registry
from indexer.cells.division import S2Scheme, divide
from indexer.cells.hierarchy import sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.jobs.job_folder import read_marks
from indexer.paper import TAU_MAX, TAU_MIN
from indexer.vectors.features import FeatureBatch, open_features
from search.answers.engine import Engine

MIN_SHARE_OF_SEARCH = 0.90
MIN_SHARE_OF_EMBED = 0.90
MIN_SHARE_OF_LOCAL = 0.80  # of Ray, where there are enough cores for it
RAY_CORES = 4
MAX_BYTES, MAX_GROWTH = 2_000_000_000, 1.15
MAX_START_S = 10.0
_SHARD_ROWS = 2048
_TURNS = 5
_FEW = (1000, 300, 100)  # photos a cell, where a job's own work is to be seen
_MP16 = tuple(tau // 47 for tau in TAU_MAX)  # for a 47th of its photos: as many cells


def make_registry(folder: Path, *, photos: int, width: int, taus: tuple[int, ...], tau_min: int) -> Registry:
    """A registry with a bundle of cells where photos are."""
    places = pa.table({"s2_id": sorted_ids(photo_places(photos, seed=0))})
    rule = PartitionRule(tau_max=taus, tau_min=tau_min)
    hierarchy = divide(places, S2Scheme(rule), folder / "H").hierarchy
    registry = Registry(folder / "R")
    geocells = PlaceVectors(width, seed=1).geocells(hierarchy)
    registry.publish(build_bundle(folder / "H", geocells, registry.versions_folder, config={}, inputs={}).name)
    return registry


def write_vectors(file: Path, registry: Registry, *, rows: int) -> Path:
    """So many vectors like those of photos, in one Parquet file as others write them: a row group for every 100,000."""
    model = Engine.open(registry.path).bundle.model
    block = stand_ins(model, n=min(rows, 100_000), seed=2)
    schema = pa.schema([("photo", pa.string()), ("embedding", pa.list_(pa.float32(), block.shape[1]))])
    with pa.parquet.ParquetWriter(file, schema) as writer:
        for first in range(0, rows, len(block)):
            part = block[: rows - first]
            names = pa.array([f"{first + row}.jpg" for row in range(len(part))])
            flat = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), block.shape[1])
            writer.write_table(pa.table([names, flat], schema=schema))
    return file


def job(registry: Registry, out: Path, *options: str | Path) -> float:
    """Rows a second of a job, as it reports them."""
    child = run_command("search", "run", "--registry", registry.path, "--out", out, *options, "--json")
    return float(json.loads(child.output)["rows_per_second"])


def plain_script(engine: Engine, batches: list[FeatureBatch], out: Path) -> Callable[[], None]:
    """What a user would write with the same engine."""

    def run() -> None:
        leaves, rows = engine.bundle.hierarchy.leaves, []
        for batch in batches:
            hits = engine.search(batch.embedding)
            for photo, leaf, probability in zip(batch.photo, hits.leaf[:, 0], hits.probability[:, 0], strict=True):
                place = float(leaves.lat_deg[leaf]), float(leaves.lng_deg[leaf])
                rows.append(
                    {"photo": photo, "lat": place[0], "lng": place[1], "key": str(leaves.keys[leaf])}
                    | {"probability": float(probability)}
                )
        pa.parquet.write_table(pa.Table.from_pylist(rows), out)

    return run


def from_vectors(report: Report, folder: Path, registry: Registry, *, rows: int) -> None:
    """The job against the search alone and the plain script, in turns; and on Ray."""
    vectors = write_vectors(folder / "vectors.parquet", registry, rows=rows)
    engine = Engine.open(registry.path)
    batches = [batch for _, batch in open_features(vectors).cut(_SHARD_ROWS, lambda number: True)]
    script = plain_script(engine, batches, folder / "plain.parquet")
    options = ("--features", vectors, "--shard-rows", str(_SHARD_ROWS))
    script()
    job(registry, folder / "first", *options)
    ours, theirs = (pa.parquet.read_table(folder / name) for name in ("first", "plain.parquet"))
    if ours["key"] != theirs["key"]:
        raise SystemExit("The job's answers are not the script's; nothing was timed.")

    def search_alone() -> None:
        for batch in batches:
            engine.search(batch.embedding)

    turns = [
        (rows / seconds_of(search_alone), job(registry, folder / f"O{turn}", *options), rows / seconds_of(script))
        for turn in range(_TURNS)
    ]
    alone, whole, plain = (statistics.median(column) for column in zip(*turns, strict=True))
    share = statistics.median(turn[1] / turn[0] for turn in turns)
    n_leaves = engine.bundle.model.n_leaves
    report.row(
        f"from vectors, {n_leaves:,} leaves x {batches[0].embedding.shape[1]}",
        f"job {whole:,.0f} rows/s, search alone {alone:,.0f}/s -> {share:.2f} (median of {_TURNS} turns), plain script "
        f"{plain:,.0f}/s, floor {MIN_SHARE_OF_SEARCH:g}",
        holds=share >= MIN_SHARE_OF_SEARCH,
        rows_per_second=whole,
        search_alone=alone,
        plain_script=plain,
        share=share,
        rows=rows,
    )
    ray = job(registry, folder / "ray", *options, "--engine", "ray")
    cores = os.cpu_count() or 1
    report.row(
        f"the same on Ray, {cores} cores",
        f"{ray:,.0f} rows/s, with its actors' start, without that of Ray -> {ray / whole:.2f} of the local engine",
        holds=ray / whole >= MIN_SHARE_OF_LOCAL if cores >= RAY_CORES else None,
        rows_per_second=ray,
        share=ray / whole,
    )


def from_photos(report: Report, folder: Path, *, n: int) -> None:
    """The job against `encoder embed` alone, in turns."""
    folder.mkdir()
    clip = save_clip(folder / "tinyclip", TINYCLIP, width=512)
    registry = make_registry(folder, photos=20_000, width=512, taus=_FEW, tau_min=5)
    photos = make_photos(folder / "photos", n=n, size=(1024, 768), seed=0)
    table = folder / "photos" / "table.csv"
    names = sorted(path.name for path in photos.glob("*.jpg"))
    table.write_text("\n".join(["photo", *(names * 5)]) + "\n")
    common = ("--photos", table, "--checkpoint", f"hf:{clip}", "--batch-size", "8")
    turns = []
    for turn in range(_TURNS):
        whole = job(registry, folder / f"O{turn}", *common) if turn % 2 else None  # either one goes first in turn
        embed = run_command("encoder", "embed", *common, "--out", folder / f"F{turn}", "--json")
        alone = float(json.loads(embed.output)["photos_per_second"])
        turns.append((alone, whole or job(registry, folder / f"O{turn}", *common)))
    share = statistics.median(whole / alone for alone, whole in turns)
    alone, whole = (statistics.median(column) for column in zip(*turns, strict=True))
    report.row(
        "from photos, TinyCLIP ViT-8M/16, 0.8 MP JPEGs",
        f"job {whole:.1f} photos/s, embed alone {alone:.1f}/s -> {share:.2f} (median of {_TURNS} turns), floor "
        f"{MIN_SHARE_OF_EMBED:g}",
        holds=share >= MIN_SHARE_OF_EMBED,
        photos_per_second=whole,
        embed_alone=alone,
        share=share,
        photos=5 * n,
    )


def memory_and_start(report: Report, folder: Path) -> None:
    """Peak memory of jobs of 10,000 and of 1,000,000 rows; and how soon the first shard of a job is done."""
    folder.mkdir()
    registry = make_registry(folder, photos=20_000, width=64, taus=_FEW, tau_min=5)
    peaks, small = {}, ("--shard-rows", "1024")  # so that the smaller job, too, is one of many shards
    for rows in (10_000, 1_000_000):
        vectors = write_vectors(folder / f"{rows}.parquet", registry, rows=rows)
        out = folder / f"O{rows}"
        began = time.time()
        child = run_command("search", "run", "--registry", registry.path, "--features", vectors, "--out", out, *small)
        first = min(mark.ended_at for mark in read_marks(out).values()) - began
        peaks[rows] = child.peak_bytes
        report.row(
            f"{rows:,} rows from vectors",
            f"peak {child.peak_bytes / 1e6:.0f} MB, bound {MAX_BYTES / 1e6:.0f}; {child.seconds:.0f} s, the first "
            f"shard after {first:.1f} s, bound {MAX_START_S:g}",
            holds=child.peak_bytes <= MAX_BYTES and first <= MAX_START_S,
            peak_bytes=child.peak_bytes,
            seconds=child.seconds,
            first_shard_s=first,
        )
    growth = peaks[1_000_000] / peaks[10_000]
    report.row(
        "peak memory of a hundred times the rows",
        f"{growth:.2f}x, bound {MAX_GROWTH:g}x",
        holds=growth <= MAX_GROWTH,
        growth=growth,
    )


def main() -> int:
    """Run the command line; the exit code is 1 where a floor was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rows", type=int, default=32 * _SHARD_ROWS, help="Vectors to answer.")
    parser.add_argument("--photos", type=int, default=60, help="Photos to make, each answered five times.")
    parser.add_argument("--places", type=int, default=100_000, help="Photos that the cells are made from.")
    options = parser.parse_args()
    report = Report("run")
    with tempfile.TemporaryDirectory(prefix="bench-run-") as name:
        folder = Path(name)
        memory_and_start(report, folder / "memory")
        from_photos(report, folder / "photos", n=options.photos)
        registry = make_registry(folder, photos=options.places, width=768, taus=_MP16, tau_min=TAU_MIN // 47)
        from_vectors(report, folder, registry, rows=options.rows)
        return report.finish(rows=options.rows, photos=options.photos, places=options.places)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
