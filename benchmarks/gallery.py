"""`python -m benchmarks.gallery`: answers by photos of known places, beside FAISS, at the size of MP-16.

4.7 million photos x 768 in 8 bits behind 24,200 leaves (`benchmarks.gallery_world`), 2,048 queries at once. What is
compared is finding the 100 photos most like each query:

    ours              the best leaves by an exact search, then the photos of their lists
    FAISS, leaves     flat over the leaf vectors: what ours is allowed to cost, three times over (six, where the
                      processor multiplies neither bfloat16 nor bytes)
    FAISS, photos     flat over all photos, by the slope from fewer of them
    FAISS, same lists its own search of the lists of the gallery's file, told which ones; without finding these
    FAISS, IVF        4,096 centroids trained with 200,000 photos, in 8 bits, visiting as many lists as it takes to hold
                      as much of the weight of a scan of all photos as ours does

The first search of ours is compared with FAISS over the same photos before anything is timed. All are timed in turn.
Beside them: whole answers, with their points; `search run` against the engine alone; memory; building.

What was expected, and what profiling showed (one core with AMX, 400,000 photos, 2,048 queries, seconds of the core):
decoding 8 bits anew for every block of queries and a small product of matrices for each list would be most of it, and
bytes multiplied as they are stored take a tenth of both. So it was: 1.2 to 2.0 for decoding and products in float32,
0.6 to 0.8 in bytes, of which the products themselves take 0.1; but then comparing again took 0.8, until that went
query by query, and only to photos that could still be among the best once the first hundred were known (0.4). In the
order of the file alone nearly every photo passed, as a query's lists are neighbours: its best lists go first now, and a
sixth passes. The leaves take 1.9: the product 0.6, posteriors 0.7, the best 256 of all 0.4.

`--folder` keeps worlds, and takes those that are there. Where memory or time forbid 4.7 million, `--photos` of two
sizes, with as many leaves, give all figures for 4.7 million by the slope from one to the other.
"""

import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from faiss.contrib.ivf_tools import add_preassigned
from jsonargparse import ArgumentParser

from benchmarks.gallery_world import PLACES, PhotoWorld, world_of
from benchmarks.harness import AnonPeak, Report, run_command, seconds_of
from encoder.models.device import multiplies_bfloat16, multiplies_bytes
from indexer.bundles.faiss_index import Index, flat_index, list_count, map_lists, search_index, set_probes
from indexer.bundles.gallery import VECTORS_FILE
from indexer.bundles.registry import Registry
from indexer.paper import MP16_PHOTOS
from search.answers.engine import Engine
from search.answers.leaf_search import LeafSearch
from search.retrieval.found import Searched
from search.retrieval.gallery_lists import GalleryLists, NearPhotos
from search.retrieval.posterior import LEFT_OUT

NEAR = 100
MOST_LEAF_SCANS = {True: 3.0, False: 6.0}  # what a query may cost, where the processor multiplies bfloat16 or bytes
LEAST_FLAT_RATIO, MOST_IVF_RATIO = 30.0, 1.0
LEAST_WEIGHT = 0.99
MOST_ANON_BYTES = 1_000_000_000
LEAST_SHARE_OF_SEARCH = 0.90
_CPU = torch.device("cpu")
QUICK = multiplies_bfloat16(_CPU) or multiplies_bytes()
_CENTROIDS, _TRAINED_WITH = 4096, 200_000
_ROUNDS = 10  # of k-means
_SCANNED = 256  # queries that are compared with all photos
_SHARE_OF_LISTS = 0.013
_PROBES = (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512, 1024)
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
    return Searched.of(engine.bundle).leaf_vectors


def shape(report: Report, engine: Engine, scan: Scan) -> None:
    """How near the best photo's leaf is to the best, and what lists hold; beside the demo's."""
    n_leaves, fit = engine.n_leaves, engine.photo_fit
    assert fit is not None
    first, hundredth = (scan.rank[:, 0] == 0).mean(), (scan.rank[:, 0] < n_leaves / 100).mean()
    held = scan.held_by(_SHARE_OF_LISTS * n_leaves)
    chosen = scan.held_by(fit.lists)
    report.row(
        f"shape of {len(engine.bundle.gallery or ()):,} photos behind {n_leaves:,} leaves",
        f"the best photo's leaf is first for {first:.1%} of queries (the demo: 40 to 50 %) and among the best 1 % of "
        f"leaves for {hundredth:.1%} (97 to 99 %); 1.3 % of the lists hold {held:.1%} of the weight (99.7 %), the "
        f"{fit.lists} that are looked at {chosen:.2%}, at least {LEAST_WEIGHT:.0%}",
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
        gallery, fit = engine.bundle.gallery, engine.photo_fit
        assert gallery is not None
        assert fit is not None
        self._lists, self._n_lists = GalleryLists(gallery), min(fit.lists, engine.n_leaves)
        self._leaves = LeafSearch(engine.bundle, options=engine.options, where=_CPU, allowed=None, calibration=None)

    def __call__(self, queries: np.ndarray) -> NearPhotos:
        """The NEAR most similar."""
        return self._lists.nearest(queries, self.lists(queries), near=NEAR)

    def lists(self, queries: np.ndarray) -> np.ndarray:
        """The lists that are looked at: (Q, P) int64; with the posterior over leaves, as answers need it."""
        hits = self._leaves(queries, k=1, left_out=LEFT_OUT, n_lists=self._n_lists)
        assert hits.lists is not None, "they are wanted"
        return hits.lists.leaf


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


def in_same_lists(engine: Engine, queries: np.ndarray, lists: np.ndarray) -> None:
    """FAISS's search of the gallery's own lists, (Q, P) int64 of them, in the mapped file."""
    index = map_lists(engine.bundle.path / VECTORS_FILE)
    set_probes(index, lists.shape[1])
    index.search_preassigned(queries, NEAR, lists, np.zeros(lists.shape, np.float32))  # type: ignore[attr-defined]


def flat_cost(engine: Engine, queries: np.ndarray, sizes: tuple[int, ...]) -> Mapping[int, Callable[[], object]]:
    """Searches of a flat index over the first so many photos."""
    gallery = engine.bundle.gallery
    assert gallery is not None
    vectors = gallery.vectors(0, max(sizes))
    return {size: partial(search_index, flat_index(vectors[:size]), queries, NEAR) for size in sizes}


def ivf_index(engine: Engine, *, n_centroids: int, seed: int) -> Index:
    """All photos behind trained centroids, in the gallery's own 8 bits."""
    gallery = engine.bundle.gallery
    assert gallery is not None
    sample = np.sort(np.random.default_rng(seed).permutation(len(gallery))[:_TRAINED_WITH])
    training = gallery.lists.codec.decode(gallery.lists.take(sample))
    centroids = k_means(torch.from_numpy(training), n_centroids, seed=seed)
    quantiser = faiss.IndexFlatIP(gallery.width)
    quantiser.add(centroids.numpy())
    index = faiss.IndexIVFScalarQuantizer(
        quantiser, gallery.width, n_centroids, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    index.train(training)  # the range of its bytes: a quantiser that is filled is not trained again
    for begin in range(0, len(gallery), _DECODED):
        rows = gallery.vectors(begin, min(begin + _DECODED, len(gallery)))
        add_preassigned(index, rows, nearest_centroid(torch.from_numpy(rows), centroids).numpy())
    return index


def k_means(vectors: torch.Tensor, k: int, *, seed: int) -> torch.Tensor:
    """Centroids of k lists by FAISS's own number of rounds, (k, D) float32 unit rows.

    Not through FAISS, whose products of matrices take many times longer on processors that multiply bfloat16.
    """
    centroids = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))[:k]].clone()
    for _ in range(_ROUNDS):
        nearest = nearest_centroid(vectors, centroids)
        total = torch.zeros_like(centroids).index_add_(0, nearest, vectors)
        filled = torch.bincount(nearest, minlength=k) > 0
        centroids[filled] = torch.nn.functional.normalize(total[filled], dim=1)
    return centroids


def nearest_centroid(vectors: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The list that each vector (N, D) belongs to: (N,) int64."""
    kind = torch.bfloat16 if multiplies_bfloat16(_CPU) else torch.float32
    few = centroids.to(kind).T.contiguous()
    return torch.cat([(block.to(kind) @ few).argmax(dim=1) for block in torch.split(vectors, _DECODED // 8)])


def probes_for(index: Index, scan: Scan, weight: float) -> tuple[int, float]:
    """How many lists it takes to hold that much of the weight, and how much they hold."""
    held, probes = 0.0, 0
    for probes in (*(each for each in _PROBES if each < list_count(index)), list_count(index)):
        held = scan.held(search_index(index, scan.queries, NEAR, probes=probes)[1])
        if held >= weight - 1e-4:
            break
    return probes, held


def in_turn(works: Mapping[str, Callable[[], object]], *, runs: int) -> dict[str, float]:
    """The median seconds of each, all run in turn."""
    for work in works.values():
        work()
    turns = [{name: seconds_of(work) for name, work in works.items()} for _ in range(runs)]
    return {name: statistics.median(turn[name] for turn in turns) for name in works}


def speed(report: Report, engine: Engine, queries: np.ndarray, scan: Scan, *, runs: int, seed: int) -> dict[str, float]:
    """Ours beside FAISS, at one recall; microseconds a query of each."""
    gallery, photos = engine.bundle.gallery, Photos(engine)
    assert gallery is not None
    check(photos, engine, queries)
    weight = scan.held(photos(scan.queries).row)
    leaves = flat_index(leaf_rows(engine))
    extended = engine.bundle.model.extended(queries)
    few = min(256, len(queries))
    sizes = tuple(size for size in (20_000, 40_000, 80_000) if size <= len(gallery)) or (
        len(gallery) // 2,
        len(gallery),
    )
    flats = flat_cost(engine, queries[:few], sizes)
    index = ivf_index(engine, n_centroids=min(_CENTROIDS, len(gallery) // 40), seed=seed)
    probes, ivf_weight = probes_for(index, scan, weight)
    works: dict[str, Callable[[], object]] = {
        "leaves": partial(search_index, leaves, extended, 1),
        "ours": partial(photos, queries),
        "ours, leaves alone": partial(photos.lists, queries),
        "answers": partial(whole_answers, engine, queries),
        "same lists": partial(in_same_lists, engine, queries[:few], photos.lists(queries[:few])),
        "IVF": partial(search_index, index, queries, NEAR, probes=probes),
        **{f"flat {size}": work for size, work in flats.items()},
    }
    seconds = in_turn(works, runs=runs)
    n_queries = {name: few if name.startswith(("flat", "same")) else len(queries) for name in works}
    each = {name: value / n_queries[name] * 1e6 for name, value in seconds.items()}
    line = np.polyfit(sizes, [each[f"flat {size}"] for size in sizes], 1)
    each["photos"] = float(np.polyval(line, len(gallery)))
    report.row(
        f"{NEAR} photos of {len(gallery):,} x {gallery.width} in 8 bits, {len(queries):,} queries at once",
        f"ours {each['ours']:,.0f} us a query, {each['ours, leaves alone']:,.0f} of them for the leaves, hold "
        f"{weight:.2%} of the weight; {list_count(index):,} lists of FAISS IVF, {probes} visited, hold "
        f"{ivf_weight:.2%} (median of {runs} turns)",
        us=each,
        weight=weight,
        probes=probes,
        ivf_weight=ivf_weight,
    )
    return each


def judge(report: Report, each: Mapping[str, float], *, photos: int, leaves: int, judged: bool) -> None:
    """Ratios of microseconds a query; judged where there are as many photos as the goals are for."""
    ours, what, most = each["ours"], f"{photos:,} photos: ours", MOST_LEAF_SCANS[QUICK]
    for beside, ratio, text, holds in (
        ("leaves", ours / each["leaves"], f"times its cost, at most {most:g}", ours <= most * each["leaves"]),
        (
            "photos",
            each["photos"] / ours,
            f"times less, at least {LEAST_FLAT_RATIO:g}; FAISS by the slope",
            each["photos"] >= LEAST_FLAT_RATIO * ours,
        ),
        (
            "IVF",
            ours / each["IVF"],
            f"times its cost, at most {MOST_IVF_RATIO:g}",
            ours <= MOST_IVF_RATIO * each["IVF"],
        ),
    ):
        name = {"leaves": f"flat over {leaves:,} leaf vectors", "photos": "flat over all photos", "IVF": "IVF"}[beside]
        report.row(
            f"{what} beside FAISS {name}",
            f"{ours:,.0f} us a query, FAISS {each[beside]:,.0f}: {ratio:.2f} {text}",
            holds=holds if judged else None,
            ours_us=ours,
            faiss_us=each[beside],
            ratio=ratio,
        )
    alone = ours - each["ours, leaves alone"]
    report.row(
        f"{what} beside FAISS in the same lists, photos alone",
        f"{alone:,.0f} us a query, FAISS {each['same lists']:,.0f}: {alone / each['same lists']:.2f} times its cost",
        ours_us=alone,
        faiss_us=each["same lists"],
        ratio=alone / each["same lists"],
    )
    report.row(
        f"{what}, whole answers with their points",
        f"{each['answers']:,.0f} us a query, {each['answers'] / each['leaves']:.2f} times FAISS flat over the leaves",
        answers_us=each["answers"],
        ratio=each["answers"] / each["leaves"],
    )


def by_slope(
    few: Mapping[str, float], many: Mapping[str, float], sizes: tuple[int, int], size: int
) -> dict[str, float]:
    """What each takes with so many photos, by the line through two sizes."""
    share = (size - sizes[0]) / (sizes[1] - sizes[0])
    far = {name: few[name] + share * (many[name] - few[name]) for name in many if name in few}
    return far | {"leaves": (few["leaves"] + many["leaves"]) / 2}  # which do not know of photos


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
    for _ in range(turns):
        rate = rows / seconds_of(alone)
        with tempfile.TemporaryDirectory(prefix="bench-gallery-") as out:
            done, peak = sampled(
                "search",
                "run",
                "--registry",
                folder / "R",
                "--features",
                file,
                "--out",
                Path(out) / "O",
                "--shard-rows",
                str(step),
                "--json",
            )
        shares.append(float(json.loads(done)["rows_per_second"]) / rate)
        rates.append(rate)
        peaks.append(peak)
    share = statistics.median(shares)
    report.row(
        f"`search run` of {rows:,} vectors with the gallery",
        f"{share:.2f} of the engine's own rate, {statistics.median(rates):,.0f} rows/s (median of {turns} turns), "
        f"floor {LEAST_SHARE_OF_SEARCH:g}; {max(peaks) / 1e6:.0f} MB of its own memory at most, bound "
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
        f"built in {took['build_s']:.0f} s, {took['build_s'] / photos * 1e6:.0f} s a million, without making the "
        f"photos ({took['made_s']:.0f} s); {took['peak_anon_bytes'] / 1e6:.0f} MB of memory of its own",
        **took,
    )


def measure(
    report: Report, folder: Path, world: PhotoWorld, *, queries: int, runs: int, seed: int
) -> tuple[Engine, np.ndarray, dict[str, float]]:
    """Shape and speed of one world; returns its engine, the queries, and microseconds a query."""
    engine = Engine.open(Registry(folder / "R").path)
    vectors = engine.prepared(world.queries(queries))
    scan = scan_of(engine, vectors[: min(_SCANNED, queries)])
    shape(report, engine, scan)
    each = speed(report, engine, vectors, scan, runs=runs, seed=seed)
    judge(report, each, photos=world.n_photos, leaves=engine.n_leaves, judged=world.n_photos >= MP16_PHOTOS)
    return engine, vectors, each


def main() -> int:
    """Run the command line; the exit code is 1 where a bound was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--photos", type=list[int], default=[MP16_PHOTOS], help="One size, or two for the slope.")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--places", type=int, default=PLACES, help="Places that the leaves are made from.")
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=16_384, help="Vectors that `search run` answers; 0: it is not run.")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="Keep the world there, and take one that is there.")
    options = parser.parse_args()
    report = Report("gallery")
    common = {"width": options.width, "places": options.places, "seed": options.seed}
    sizes: list[int] = sorted(options.photos)
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-gallery-") as name:
        for photos in sizes:
            folder = (Path(name) if options.folder is None else options.folder) / str(photos)
            if not (folder / "R").exists():
                build(report, folder, photos=photos, **common)
            world = world_of(folder, photos=photos, **common)
            engine, vectors, each = measure(
                report, folder, world, queries=options.queries, runs=options.runs, seed=options.seed
            )
            found.append(each)
        if len(sizes) == 2 and sizes[1] < MP16_PHOTOS:
            far = by_slope(found[0], found[1], (sizes[0], sizes[1]), MP16_PHOTOS)
            judge(report, far, photos=MP16_PHOTOS, leaves=engine.n_leaves, judged=True)
        if options.rows:
            runs_beside(report, folder, engine, vectors, rows=options.rows, turns=max(3, options.runs // 2))
    processor = {"threads": torch.get_num_threads(), "bytes": multiplies_bytes(), "bfloat16": multiplies_bfloat16(_CPU)}
    settings = {
        **common,
        **processor,
        "photos": sizes,
        "queries": options.queries,
        "rows": options.rows,
        "runs": options.runs,
    }
    return report.finish(**settings)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
