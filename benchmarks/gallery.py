"""`python -m benchmarks.gallery`: answers by photos of known places, beside FAISS, at the size of MP-16.

4.7 million photos x 768 in 8 bits behind 24,200 leaves (`benchmarks.gallery_world`), 2,048 queries at once. What is
compared is finding the 100 photos most like each query:

    ours              the best leaves by an exact search, then the photos of their lists
    FAISS, leaves     flat over the leaf vectors: what ours is allowed to cost, three times over (six, where the
                      processor multiplies neither bfloat16 nor bytes)
    FAISS, photos     flat over all photos, by the slope from fewer of them
    FAISS, IVF        4,096 centroids trained with 200,000 photos, in 8 bits, visiting as many lists as it takes to hold
                      as much of the weight of a scan of all photos as ours does

The first search of ours is compared with FAISS over the same photos before anything is timed. All are timed in turn.
Beside them: whole answers, with their point and radii; `search run` against the engine alone; memory; building.

`--folder` keeps the world, and takes the one that is there. With fewer `--photos` ours, too, is told by the slope.
"""

import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from jsonargparse import ArgumentParser

from benchmarks.gallery_world import PLACES, PhotoWorld, world_of
from benchmarks.harness import AnonPeak, Report, run_command, seconds_of
from benchmarks.partition import MP16_PHOTOS
from encoder.device import multiplies_bfloat16, multiplies_bytes
from indexer.bundles.faiss_index import Index, flat_index, search_index
from indexer.bundles.registry import Registry
from search.answers.engine import Engine
from search.answers.gallery_photos import PhotoSearch
from search.retrieval.gallery_lists import GalleryLists, NearPhotos

NEAR = 100
MOST_LEAF_SCANS = {True: 3.0, False: 6.0}  # what a query may cost, where the processor multiplies bfloat16 or bytes
LEAST_FLAT_RATIO, MOST_IVF_RATIO = 30.0, 1.0
LEAST_WEIGHT = 0.99
MOST_ANON_BYTES = 1_000_000_000
LEAST_SHARE_OF_SEARCH = 0.90
SHAPE = {"first": (0.40, 0.50), "hundredth": (0.97, 0.99)}
QUICK = multiplies_bfloat16(torch.device("cpu")) or multiplies_bytes()
_CENTROIDS, _TRAINED_WITH = 4096, 200_000
_SCANNED = 256  # queries that are compared with all photos
_SHARE_OF_LISTS = 0.013
_PROBES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_DECODED = 1 << 14  # photos at once


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What a scan of all photos finds for some queries."""

    queries: np.ndarray  # (Q, D) float32
    near: NearPhotos
    weight: np.ndarray  # (Q, NEAR) float64
    rank: np.ndarray  # (Q, NEAR) int64, of the photos' leaves by their scores, 0 for the best

    def held(self, rows: np.ndarray) -> float:
        """The share of the weight that found photos (Q, K) hold, on average."""
        found = (self.near.row[:, :, None] == rows[:, None, :]).any(axis=2)
        return float((self.weight * found).sum(axis=1).mean())

    def held_by(self, lists: float) -> float:
        """The share that the photos of so many lists hold, those of the best leaves."""
        return float((self.weight * (self.rank < lists)).sum(axis=1).mean())


def scan_of(engine: Engine, queries: np.ndarray) -> Scan:
    """Compare queries with all photos."""
    gallery, fit = engine.bundle.gallery, engine.photo_fit
    assert gallery is not None
    assert fit is not None
    near = GalleryLists(gallery).nearest(queries, None, near=min(NEAR, len(gallery)))
    score = engine.bundle.model.extended(queries) @ leaf_rows(engine).T
    own = np.take_along_axis(score, near.leaf, axis=1)
    weight = fit.weights(
        near.similarity, own.astype(np.float64), gallery.stands_for[near.row], np.ones(len(queries), np.int64)
    )
    rank = np.stack([(row > limits[:, None]).sum(axis=1) for row, limits in zip(score, own, strict=True)])
    return Scan(queries, near, weight, rank)


def leaf_rows(engine: Engine) -> np.ndarray:
    """The leaf vectors, (leaves, leaf_width) float32."""
    return engine._searched.leaf_vectors


def shape(report: Report, engine: Engine, scan: Scan) -> None:
    """How near the best photo's leaf is to the best, and what lists hold; beside the demo's."""
    n_leaves, fit = engine.n_leaves, engine.photo_fit
    assert fit is not None
    first, hundredth = (scan.rank[:, 0] == 0).mean(), (scan.rank[:, 0] < n_leaves / 100).mean()
    held = scan.held_by(_SHARE_OF_LISTS * n_leaves)
    chosen = scan.held_by(fit.lists)
    report.row(
        f"shape of {len(engine.bundle.gallery or ()):,} photos behind {n_leaves:,} leaves",
        f"the best photo's leaf is first for {first:.1%} of queries and among the best 1 % of leaves for "
        f"{hundredth:.1%}; 1.3 % of the lists hold {held:.1%} of the weight, the {fit.lists} that are looked at "
        f"{chosen:.2%}, at least {LEAST_WEIGHT:.0%}",
        holds=chosen >= LEAST_WEIGHT,
        first=float(first),
        hundredth=float(hundredth),
        held=held,
        held_by_chosen=chosen,
        lists=fit.lists,
    )


class Photos:
    """Ours: the best leaves, then the photos of their lists."""

    def __init__(self, engine: Engine) -> None:
        photos = engine._photos
        assert isinstance(photos, PhotoSearch)
        self._engine, self._photos = engine, photos

    def __call__(self, queries: np.ndarray) -> NearPhotos:
        """The NEAR most similar."""
        return self._photos._lists.nearest(queries, self.lists(queries), near=NEAR)

    def lists(self, queries: np.ndarray) -> np.ndarray:
        """The lists that are looked at: (Q, P) int64."""
        return self._engine.best_leaves(queries, self._photos.n_lists)


def check(photos: Photos, engine: Engine, queries: np.ndarray, *, n: int = 16) -> None:
    """Make sure that ours finds what a flat index of the same lists finds.

    Raises:
        SystemExit: it does not.
    """
    gallery = engine.bundle.gallery
    assert gallery is not None
    found, lists = photos(queries), photos.lists(queries)
    for query in range(min(n, len(queries))):
        own = np.sort(lists[query])
        rows = np.concatenate([np.arange(*gallery.begins[leaf : leaf + 2]) for leaf in own.tolist()])
        vectors = np.concatenate([gallery.vectors(*gallery.begins[leaf : leaf + 2].tolist()) for leaf in own.tolist()])
        k = min(NEAR, len(rows))
        similarity, place = search_index(flat_index(vectors), queries[query : query + 1], k)
        same = np.allclose(found.similarity[query, :k], similarity[0], atol=2e-6)
        differ = np.setxor1d(found.row[query, :k], rows[place[0]])
        if not same or len(differ) > 2:  # two photos that float32 cannot tell apart, one in and one out
            raise SystemExit(f"Query {query}: not the photos that FAISS finds in the same lists; nothing was timed.")


def flat_cost(engine: Engine, queries: np.ndarray, sizes: tuple[int, ...]) -> Mapping[int, Callable[[], object]]:
    """Searches of a flat index over the first so many photos."""
    gallery = engine.bundle.gallery
    assert gallery is not None
    vectors = gallery.vectors(0, max(sizes))
    return {size: partial(search_index, flat_index(vectors[:size]), queries, NEAR) for size in sizes}


def ivf_index(engine: Engine, *, centroids: int, seed: int) -> Index:
    """All photos behind centroids that FAISS trained, in the gallery's own 8 bits."""
    gallery = engine.bundle.gallery
    assert gallery is not None
    rng, width = np.random.default_rng(seed), gallery.width
    some = np.sort(rng.permutation(len(gallery))[:_TRAINED_WITH])
    training = gallery.lists.codec.decode(gallery.lists.take(some))
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, centroids, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = max(256, -(-_TRAINED_WITH // centroids))
    index.train(training)
    heads = torch.from_numpy(faiss.rev_swig_ptr(index.quantizer.get_xb(), centroids * width).reshape(centroids, width))
    quick = heads.bfloat16() if multiplies_bfloat16(torch.device("cpu")) else heads
    for begin in range(0, len(gallery), _DECODED):
        rows = gallery.vectors(begin, min(begin + _DECODED, len(gallery)))
        lists = (torch.from_numpy(rows).to(quick.dtype) @ quick.T).argmax(dim=1).numpy()
        index.add_core(len(rows), faiss.swig_ptr(rows), None, faiss.swig_ptr(lists))
    return index


def probes_for(index: Index, scan: Scan, weight: float) -> tuple[int, float]:
    """How many lists it takes to hold that much of the weight, and how much they hold."""
    held = 0.0
    for probes in _PROBES:
        held = scan.held(search_index(index, scan.queries, NEAR, probes=probes)[1])
        if held >= weight:
            return probes, held
    return _PROBES[-1], held


def in_turn(works: Mapping[str, Callable[[], object]], *, runs: int) -> dict[str, float]:
    """The median seconds of each, all run in turn."""
    for work in works.values():
        work()
    turns = [{name: seconds_of(work) for name, work in works.items()} for _ in range(runs)]
    return {name: statistics.median(turn[name] for turn in turns) for name in works}


def speed(report: Report, engine: Engine, queries: np.ndarray, scan: Scan, *, runs: int, seed: int) -> None:
    """Ours beside FAISS, at one recall."""
    gallery, photos = engine.bundle.gallery, Photos(engine)
    assert gallery is not None
    check(photos, engine, queries)
    weight = scan.held(photos(scan.queries).row)
    leaves = flat_index(leaf_rows(engine))
    extended = engine.bundle.model.extended(queries)
    few = min(512, len(queries))
    sizes = tuple(size for size in (50_000, 100_000, 200_000) if size <= len(gallery)) or (len(gallery) // 2, len(gallery))
    flats = flat_cost(engine, queries[:few], sizes)
    index = ivf_index(engine, centroids=min(_CENTROIDS, len(gallery) // 40), seed=seed)
    probes, ivf_weight = probes_for(index, scan, weight)
    works: dict[str, Callable[[], object]] = {
        "leaves": partial(search_index, leaves, extended, 1),
        "ours": partial(photos, queries),
        "ours, leaves alone": partial(photos.lists, queries),
        "answers": partial(whole_answers, engine, queries),
        "IVF": partial(search_index, index, queries, NEAR, probes=probes),
        **{f"flat {size}": work for size, work in flats.items()},
    }
    seconds = in_turn(works, runs=runs)
    each = {name: value / (few if name.startswith("flat") else len(queries)) * 1e6 for name, value in seconds.items()}
    slope, start = np.polyfit(sizes, [each[f"flat {size}"] for size in sizes], 1)
    flat = float(start + slope * len(gallery))
    leaf_scans = each["ours"] / each["leaves"]
    most = MOST_LEAF_SCANS[QUICK]
    what = f"{NEAR} photos of {len(gallery):,} x {gallery.width} in 8 bits, {len(queries):,} queries at once"
    report.row(
        f"{what}, beside FAISS flat over {engine.n_leaves:,} leaves",
        f"{each['ours']:,.0f} us a query ({each['ours, leaves alone']:,.0f} of them for the leaves), FAISS "
        f"{each['leaves']:,.0f} us -> {leaf_scans:.2f}, at most {most:g} (median of {runs} turns)",
        holds=leaf_scans <= most,
        us=each,
        ratio=leaf_scans,
    )
    report.row(
        "the same beside FAISS flat over all photos",
        f"{flat:,.0f} us by the slope from {', '.join(f'{size:,}' for size in sizes)} -> {flat / each['ours']:.1f} "
        f"times less, at least {LEAST_FLAT_RATIO:g}",
        holds=flat / each["ours"] >= LEAST_FLAT_RATIO,
        flat_us=flat,
        ratio=flat / each["ours"],
    )
    report.row(
        f"the same beside FAISS IVF, {index.nlist:,} centroids, 8 bits",
        f"{each['IVF']:,.0f} us with {probes} lists, which hold {ivf_weight:.2%} of the weight, ours {weight:.2%} -> "
        f"{each['ours'] / each['IVF']:.2f}, at most {MOST_IVF_RATIO:g}",
        holds=each["ours"] <= MOST_IVF_RATIO * each["IVF"],
        probes=probes,
        ivf_weight=ivf_weight,
        weight=weight,
        ratio=each["ours"] / each["IVF"],
    )
    report.row(
        "whole answers, with point and radii",
        f"{each['answers']:,.0f} us a query, {each['answers'] / each['leaves']:.2f} FAISS flat over the leaves",
        ratio=each["answers"] / each["leaves"],
    )


def whole_answers(engine: Engine, queries: np.ndarray) -> None:
    """All that is said of queries."""
    for _ in engine.answers(queries, k=1):
        pass


def runs_beside(report: Report, folder: Path, engine: Engine, queries: np.ndarray, *, rows: int, turns: int) -> None:
    """`search run` from vectors against the engine alone in one process, and its memory."""
    vectors = np.tile(queries, (-(-rows // len(queries)), 1))[:rows]
    file = folder / "queries.parquet"
    names = pa.array([f"query {row}.jpg" for row in range(rows)])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pa.parquet.write_table(pa.table({"photo": names, "embedding": flat}), file)
    step = len(queries)

    def alone() -> None:
        for begin in range(0, rows, step):
            whole_answers(engine, engine.prepared(vectors[begin : begin + step]))

    alone()
    shares, peaks, rates = [], [], []
    for turn in range(turns):
        rate = rows / seconds_of(alone)
        with tempfile.TemporaryDirectory(prefix="bench-gallery-") as out:
            done, peak = sampled(
                "search", "run", "--registry", folder / "R", "--features", file, "--out", Path(out) / "O", "--shard-rows",
                str(step), "--json",
            )
        shares.append(float(json.loads(done)["rows_per_second"]) / rate)
        rates.append(rate)
        peaks.append(peak)
    share = statistics.median(shares)
    report.row(
        f"`search run` of {rows:,} vectors with the gallery",
        f"{share:.2f} of the engine's own rate, {statistics.median(rates):,.0f} rows/s (median of {turns} turns), floor "
        f"{LEAST_SHARE_OF_SEARCH:g}; {max(peaks) / 1e6:.0f} MB of its own memory at most, bound "
        f"{MOST_ANON_BYTES / 1e6:.0f}",
        holds=share >= LEAST_SHARE_OF_SEARCH and max(peaks) <= MOST_ANON_BYTES,
        share=share,
        rows_per_second=statistics.median(rates),
        anon_bytes=max(peaks),
    )


def sampled(*arguments: str | Path) -> tuple[str, int]:
    """What `python -m ...` prints, and the most memory of its own that it had.

    Raises:
        SystemExit: the command failed; it has said why.
    """
    with subprocess.Popen([sys.executable, "-m", *map(str, arguments)], stdout=subprocess.PIPE, text=True) as child:
        with AnonPeak(child.pid) as peak:
            printed = child.communicate()[0]
    if child.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))} ended with {child.returncode}")
    return printed, peak.bytes


def build(report: Report, folder: Path, *, photos: int, width: int, places: int, seed: int) -> None:
    """Make the world, in a process of its own."""
    sizes = {"photos": photos, "width": width, "places": places, "seed": seed}
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    took = json.loads(run_command("benchmarks.gallery_world", "--out", folder, *options).output)
    report.row(
        f"a gallery of {photos:,} photos x {width} in 8 bits",
        f"built in {took['build_s']:.0f} s, {took['build_s'] / photos * 1e6:.0f} s a million, without making the photos "
        f"({took['made_s']:.0f} s); {took['peak_anon_bytes'] / 1e6:.0f} MB of memory of its own",
        **took,
    )


def measure(report: Report, folder: Path, world: PhotoWorld, *, queries: int, rows: int, runs: int, seed: int) -> None:
    """All that needs no building."""
    engine = Engine.open(Registry(folder / "R").path)
    asked = engine.prepared(world.queries(queries))
    scan = scan_of(engine, asked[: min(_SCANNED, queries)])
    shape(report, engine, scan)
    speed(report, engine, asked, scan, runs=runs, seed=seed)
    runs_beside(report, folder, engine, asked, rows=rows, turns=max(3, runs // 2))


def main() -> int:
    """Run the command line; the exit code is 1 where a bound was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--photos", type=int, default=MP16_PHOTOS)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--places", type=int, default=PLACES, help="Places that the leaves are made from.")
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=16_384, help="Vectors that `search run` answers.")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="Keep the world there, and take one that is there.")
    options = parser.parse_args()
    report = Report("gallery")
    sizes = {"photos": options.photos, "width": options.width, "places": options.places, "seed": options.seed}
    with tempfile.TemporaryDirectory(prefix="bench-gallery-") as name:
        folder = Path(name) if options.folder is None else options.folder
        if not (folder / "R").exists():
            build(report, folder, **sizes)
        world = world_of(folder, **sizes)
        measure(
            report, folder, world, queries=options.queries, rows=options.rows, runs=options.runs, seed=options.seed
        )
    return report.finish(**sizes, queries=options.queries, rows=options.rows, runs=options.runs)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
