"""`python -m benchmarks.bundle`: a bundle of MP-16's size, built and opened, with each kind of leaf index.

How fast it is searched is `benchmarks.search`'s.
"""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from jsonargparse import ArgumentParser

from benchmarks.harness import Report
from benchmarks.partition import photo_places
from benchmarks.place_vectors import PlaceVectors
from indexer.bundles.bundle import build_bundle, open_bundle
from indexer.bundles.leaf_index import IndexChoice
from indexer.cells.division import S2Scheme, divide
from indexer.cells.hierarchy import sorted_ids
from indexer.paper import MP16_PHOTOS


def main() -> int:
    """Run the command line; the exit code is 1 where a floor was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.bundle", description=__doc__)
    parser.add_argument("--photos", type=int, default=MP16_PHOTOS)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = Report("bundle")
    places = pa.table({"s2_id": sorted_ids(photo_places(options.photos, seed=options.seed))})
    with tempfile.TemporaryDirectory() as folder:
        hierarchy = Path(folder) / "H"
        divided = divide(places, S2Scheme(), hierarchy).hierarchy
        geocells = PlaceVectors(options.width, seed=options.seed + 100).geocells(divided, stands_for=1)
        for choice in (IndexChoice("flat"), IndexChoice("flat", "int8"), IndexChoice("ivf")):
            started = time.perf_counter()
            path = build_bundle(hierarchy, geocells, Path(folder) / "V", config={}, inputs={}, index=choice)
            built = time.perf_counter()
            bundle = open_bundle(path)
            opened = time.perf_counter()
            size = sum(entry.size_bytes for entry in bundle.manifest.files.values())
            facts, beam = bundle.index_facts, bundle.beam
            report.row(
                f"bundle {choice.kind} {choice.precision}",
                f"built and synced in {built - started:.1f} s, opened in {opened - built:.2f} s, {size / 1e6:.0f} MB, "
                f"leaf index {facts.size_bytes / 1e6:.0f} MB, recall@1 {facts.recall_at_1:.4f}; a beam visits "
                f"{beam.probes} lists of level {beam.level} for {beam.recall_at_1:.4f}",
                build_s=built - started,
                open_s=opened - built,
                size_bytes=size,
                leaf_index=asdict(facts),
                beam=asdict(beam),
            )
    return report.finish(photos=options.photos, width=options.width, seed=options.seed)


if __name__ == "__main__":
    raise SystemExit(main())
