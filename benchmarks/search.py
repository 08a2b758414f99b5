"""`python -m benchmarks.search`: ways to find the best leaf and its probability, in one run, answers compared first.

    (a) plain     the usual way from coarse to fine: for each query the best cells of one level, their descendants
                  gathered and scored, in numpy
    (b) levels    brute force over all cells of all levels in torch, as the paper's inference goes (section III-D)
    (c) FAISS     a flat index of each level, searched for its best cell; these are not answers yet
    (d) exact     ours over all leaves
    (e) beam      ours over the leaves of some lists; and adaptive

Two figures each: leaves and scores; and whole rows, with the probability and the radii that hold 50 and 90 % of it:
over all leaves in (b) and (d), over those visited in (a) and (e). FAISS's own k-means lists stand beside ours. Sizes
are those of MP-16: as many places as a 47th of its photos, thresholds a 47th of the paper's (`--photos table.csv` takes
places from a table); then ten times as many leaves. The part `large` is of ten times that again, beam and exact search
alone, in float16 with fewer dimensions; it has a run of its own, as it takes three times the memory. Vectors
are those of `benchmarks.place_vectors`; lists are chosen with other photos than the queries.

Goals are for two cores with avx512_bf16, and count only there: (d) leaves at least 5 times faster than (c), whole rows
4 times faster than (b); (e) leaves 12 times faster than (c) at recall@1 of 0.999 or more. That ten times the leaves
cost a beam at most 3.5 times the time counts on any processor.

What was expected of a processor without bfloat16, and what profiling showed (one core with AVX2, 24,500 leaves): the
product of matrices in float32 is all there is to exact search, over 2.9 times fewer rows than all levels have, so at
best that much faster than (c). Of a query's 500 us the product takes 450 to 480, at the processor's peak; the selection
20 to 25 (a partial sort of every row took 66), the float64 scores 11 to 13, the sum of exponentials 60 (all rows at
once took 97 to 200; only the columns that matter, 0 to 250). A row read from a list costs as much as 8 to 10 in a
product of matrices, because lists are read from memory here and there: `indexer.bundles.leaf_index` reckons with that.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace

from benchmarks.harness import Report, Timing, timed
from benchmarks.search_ways import (
    MP16_PLACES,
    QUICK,
    Levels,
    Plain,
    Way,
    World,
    adaptive_search,
    beam_search,
    check_radii,
    city_places,
    exact_search,
    faiss_levels,
    make_world,
    mp16_world,
    same,
    way_of,
)
from encoder.models.device import multiplies_bfloat16
from indexer.bundles.faiss_index import Index, flat_index, gpu_count, list_count, on_device, search_index, set_probes
from indexer.bundles.leaf_index import best_of_all, list_index
from indexer.cli import Strings
from search.retrieval.adaptive import PROVED
from search.retrieval.exact import ExactSearch
from search.retrieval.lists import BeamSearch, HierarchyLists
from search.retrieval.proof import tensor_of

MIN_EXACT, MIN_ROWS, MIN_BEAM = 5.0, 4.0, 12.0  # times faster, on two cores with avx512_bf16
MIN_RECALL = 0.999
MAX_TEN_TIMES = 3.5  # times the time for ten times the leaves, by a beam
MAX_GPU_SECONDS = 1.0  # for a million queries
PARTS = Strings(("mp16", "tenfold", "large"))  # the last two take 5 GB and 15 GB


def compare(report: Report, world: World, *, runs: int) -> None:
    """All ways on one world, answers first."""
    queries = world.queries
    ours = exact_search(world), beam_search(world), adaptive_search(world)
    ways: dict[str, Way] = {
        "(a) plain, from coarse to fine": Plain(world),
        "(b) all levels in torch": Levels(world),
        **dict(zip(("(d) exact", "(e) beam", "(e) adaptive"), (way_of(each, world) for each in ours), strict=True)),
    }
    plain, levels, exact, beam, _ = ways.values()
    best, share, _ = exact(queries, rows=True)
    same(exact(queries, rows=False)[0], best, world, "exact search without probabilities")
    theirs, shares, _ = levels(queries, rows=True)
    same(theirs, best, world, "brute force over all levels")
    visited, visited_share, _ = beam(queries, rows=True)
    same(beam(queries, rows=False)[0], visited, world, "a beam without probabilities")
    by_hand, by_hand_share, _ = plain(queries, rows=True)
    same(by_hand, visited, world, "the usual way")
    for one, two in ((share, shares), (visited_share, by_hand_share)):
        if not np.allclose(one, two, rtol=0.01, atol=1e-4):
            raise SystemExit("Probabilities differ from those worked out the usual way; nothing was timed.")
    for search in ours:
        check_radii(search, world)
    found = ours[2](queries, 1)
    proved = found.mode == PROVED
    same(found.leaf[proved, 0], best[proved], world, "adaptive search, where it is proved", rows=proved)
    recalls = [float((leaf == best).mean()) for leaf in (visited, found.leaf[:, 0])]
    times: dict[str, tuple[Timing, Timing | None]] = {
        name: (timed(partial(way, queries, rows=False), runs=runs), timed(partial(way, queries, rows=True), runs=runs))
        for name, way in ways.items()
    }
    times["(c) FAISS flat, each level"] = faiss_levels(world, runs=runs), None
    for name in sorted(times):
        ids, rows = times[name]
        report.row(
            f"{name}, {shown(world)}",
            f"{microseconds(ids, queries):.0f} us a query for leaves"
            + ("" if rows is None else f", {microseconds(rows, queries):.0f} us for whole rows")
            + f" (median of {runs}, {len(queries):,} queries)",
            ids=ids,
            rows=rows,
            queries=len(queries),
            leaves=world.model.n_leaves,
        )
    judge(report, world, times, recall=recalls[0])
    report.row(
        f"(e), {shown(world)}",
        f"{world.probes} lists of level {world.level} visited: recall@1 {recalls[0]:.4f}; adaptive search proved "
        f"{proved.mean():.1%} of its answers, recall@1 {recalls[1]:.4f}",
        level=world.level,
        probes=world.probes,
        recall=recalls[0],
        adaptive_recall=recalls[1],
        proved=float(proved.mean()),
    )


def judge(report: Report, world: World, times: Mapping[str, tuple[Timing, Timing | None]], *, recall: float) -> None:
    """Ratios beside their floors, which are for processors that multiply bfloat16."""
    floors = QUICK and world.model.n_leaves < 2 * MP16_PLACES
    exact, beam = times["(d) exact"], times["(e) beam"]
    flat, levels = times["(c) FAISS flat, each level"], times["(b) all levels in torch"]
    assert exact[1] is not None
    assert levels[1] is not None
    for what, ratio, floor, enough in (
        ("(d) leaves against (c)", flat[0].median_s / exact[0].median_s, MIN_EXACT, True),
        ("(d) whole rows against (b)", levels[1].median_s / exact[1].median_s, MIN_ROWS, True),
        ("(e) leaves against (c)", flat[0].median_s / beam[0].median_s, MIN_BEAM, recall >= MIN_RECALL),
    ):
        report.row(
            f"{what}, {shown(world)}",
            f"{ratio:.1f}x, floor {floor:g}x" + ("" if floors else ", which is for avx512_bf16 and MP-16's size"),
            holds=enough and ratio >= floor if floors else None,
            ratio=ratio,
        )


def k_means(report: Report, world: World, *, runs: int) -> None:
    """Lists that follow the hierarchy beside as many made by k-means, as many visited."""
    ours = list_index(world.model, world.rows, world.level)
    set_probes(ours, world.probes)
    n_lists, width = list_count(ours), world.rows.shape[1]
    started = time.perf_counter()
    peer = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, n_lists, faiss.METRIC_INNER_PRODUCT)
    peer.cp.min_points_per_centroid = 1  # no warning that the lists are short: they are as short as ours
    peer.train(world.rows)
    peer.add(world.rows)
    peer.nprobe = world.probes
    trained_s = time.perf_counter() - started
    best = best_of_all(world.model, world.rows, world.queries)[:, 0]
    both: list[Index] = [ours, peer]
    recalls = [float((search_index(index, world.queries, 1)[1][:, 0] == best).mean()) for index in both]
    timings = [timed(partial(search_index, index, world.queries, 10), runs=runs) for index in both]
    report.row(
        f"{n_lists} lists of level {world.level}, {world.probes} visited, through FAISS alone",
        f"ours {microseconds(timings[0], world.queries):.0f} us a query at recall@1 {recalls[0]:.4f}, k-means lists "
        f"{microseconds(timings[1], world.queries):.0f} us at {recalls[1]:.4f} (training them took {trained_s:.1f} s)",
        ours=timings[0],
        peer=timings[1],
        recalls=recalls,
        peer_build_s=trained_s,
    )


def break_even(report: Report, worlds: Sequence[World], *, runs: int) -> None:
    """From how many leaves on a beam is faster than exact search, for leaves and for whole rows."""
    for rows in (False, True):
        sizes, ratios = [], []
        for world in worlds:
            exact, beam = (
                timed(partial(way_of(make(world), world), world.queries, rows=rows), runs=runs)
                for make in (exact_search, beam_search)
            )
            sizes.append(world.model.n_leaves)
            ratios.append(exact.median_s / beam.median_s)
        crossing = crossed(sizes, ratios)
        each = ", ".join(f"{ratio:.2f} times with {size:,}" for size, ratio in zip(sizes, ratios, strict=True))
        report.row(
            f"break-even of beam and exact search, {'whole rows' if rows else 'leaves'}",
            (f"about {crossing:,.0f} leaves" if crossing else "not within these sizes")
            + f"; exact search takes a beam's time {each}",
            leaves=sizes,
            ratios=ratios,
            crossing=crossing,
        )


def crossed(sizes: Sequence[int], ratios: Sequence[float]) -> float | None:
    """Where ratios pass 1 for good, on logarithmic scales; None where they do not."""
    for number in reversed(range(len(sizes) - 1)):
        low, high = (math.log(ratio) for ratio in ratios[number : number + 2])
        if low < 0 <= high:
            return float(sizes[number] * (sizes[number + 1] / sizes[number]) ** (-low / (high - low)))
    return None


def ten_times(report: Report, small: World, large: World, *, runs: int) -> None:
    """What ten times the leaves cost a beam."""
    times = []
    for world in (small, large):
        beam = way_of(beam_search(world), world)
        times.append(microseconds(timed(partial(beam, world.queries, rows=False), runs=runs), world.queries))
    grown(report, small.model.n_leaves, large.model.n_leaves, times)


def grown(report: Report, few: int, many: int, times: Sequence[float]) -> None:
    """The row that says so; times: microseconds a query."""
    ratio, larger = times[1] / times[0], many / few
    tenfold = ratio ** (math.log(10) / math.log(larger))  # as if it grew by the same power all the way
    report.row(
        f"a beam over {larger:.1f} times the leaves ({few:,} to {many:,})",
        f"{times[0]:.0f} us a query, then {times[1]:.0f} us: {ratio:.1f} times the time; {tenfold:.1f} for ten times "
        f"the leaves, at most {MAX_TEN_TIMES:g}",
        holds=tenfold <= MAX_TEN_TIMES,
        ratio=ratio,
        tenfold=tenfold,
    )


def large_worlds(report: Report, *, width: int, seed: int, runs: int) -> None:
    """Ten and a hundred times MP-16's leaves in float16: exact search and beams only."""
    times, sizes = [], []
    for scale in (10, 100):
        world = make_world(city_places(scale * MP16_PLACES, seed=seed), queries=256, width=width, seed=seed)
        index = list_index(world.model, world.rows, world.level, "fp16")
        lists = HierarchyLists(world.model, index, level=world.level, probes=world.probes)
        beam = way_of(BeamSearch(world.model, lists), world)
        half = tensor_of(world.rows).half()
        exact = way_of(ExactSearch(world.model, half, low_precision=False), world)
        best = best_of_all(world.model, world.rows, world.queries)[:, 0]
        same(exact(world.queries, rows=False)[0], best, world, "exact search in float16")
        recall = float((beam(world.queries, rows=False)[0] == best).mean())
        both = [timed(partial(way, world.queries, rows=False), runs=runs) for way in (exact, beam)]
        times.append(microseconds(both[1], world.queries))
        sizes.append(world.model.n_leaves)
        report.row(
            f"{sizes[-1]:,} leaves x {width}, float16",
            f"exact {microseconds(both[0], world.queries):,.0f} us a query, beam {times[-1]:.0f} us "
            f"({world.probes} lists of level {world.level}, recall@1 {recall:.4f})",
            exact=both[0],
            beam=both[1],
            recall=recall,
            probes=world.probes,
        )
    grown(report, sizes[0], sizes[1], times)


def many_queries(report: Report, world: World, *, queries: int, device: torch.device, runs: int) -> None:
    """Many queries at once on a device, from vectors in the host's memory; the CPU's answers first."""
    there = tensor_of(world.rows).to(device)
    exact = way_of(ExactSearch(world.model, there, low_precision=multiplies_bfloat16(device)), world)
    few = world.queries
    on_cpu = way_of(exact_search(world), world)
    same(exact(few, rows=False)[0], on_cpu(few, rows=False)[0], world, f"search on {device}")
    many = np.tile(few, (-(-queries // len(few)), 1))[:queries]
    for rows in (False, True):
        took = timed(partial(exact, many, rows=rows), runs=runs)
        report.row(
            f"exact search, {queries:,} queries in {shown(world)}, {'whole rows' if rows else 'leaves'}, {device.type}",
            f"{took.median_s:.2f} s" + ("" if rows else f", at most {MAX_GPU_SECONDS:g} s for a million on a GPU"),
            holds=None if rows or device.type != "cuda" else took.median_s <= MAX_GPU_SECONDS,
            took=took,
        )
    if device.type == "cuda" and gpu_count():
        flats = [on_device(flat_index(vectors), "cuda") for vectors in world.model.geocells.vectors]
        took_s = [timed(partial(search_index, index, many, 1), runs=runs).median_s for index in flats]
        report.row(f"FAISS flat on the GPU, each level, {queries:,} queries", f"{sum(took_s):.2f} s", seconds=took_s)


def shown(world: World) -> str:
    """Its size."""
    cells = sum(len(vectors) for vectors in world.model.geocells.vectors)
    return f"{world.model.n_leaves:,} leaves, {cells:,} cells x {world.queries.shape[1]}"


def microseconds(timing: Timing, queries: np.ndarray) -> float:
    """Of one query."""
    return timing.median_s / len(queries) * 1e6


def usual_worlds(report: Report, options: Namespace) -> None:
    """MP-16's size and smaller ones, ten times as many leaves, and from what size on a beam is worth it."""
    settings = {"width": options.width, "seed": options.seed}
    world = mp16_world(queries=options.queries, photos=options.photos, **settings)
    if "mp16" in options.parts:
        compare(report, world, runs=options.runs)
        k_means(report, world, runs=options.runs)
    worlds = [
        make_world(city_places(MP16_PLACES // part, seed=options.seed), queries=options.queries, **settings)
        for part in (100, 30, 10, 3)
    ]
    worlds.append(world)
    few_runs = max(3, options.runs // 2)
    if "tenfold" in options.parts:
        places = city_places(10 * MP16_PLACES, seed=options.seed)
        many = make_world(places, queries=max(1, options.queries // 4), **settings)
        compare(report, many, runs=few_runs)
        ten_times(report, world, many, runs=options.runs)
        worlds.append(many)
    break_even(report, worlds, runs=few_runs)
    if torch.cuda.is_available():
        many_queries(report, world, queries=1_000_000, device=torch.device("cuda"), runs=options.runs)


def main() -> int:
    """Run the command line; the exit code is 1 where a floor was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--photos", type=Path, default=None, help="table of lat and lng, as many as a 47th of MP-16's")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--parts", type=Strings, default=Strings(PARTS[:2]), help=f"Which of {','.join(PARTS)} to measure."
    )
    parser.add_argument("--large-width", type=int, default=128)
    options = parser.parse_args()
    report = Report("search")
    if "mp16" in options.parts or "tenfold" in options.parts:
        usual_worlds(report, options)
    if "large" in options.parts:
        large_worlds(report, width=options.large_width, seed=options.seed, runs=3)
    given: dict[str, Any] = vars(options) | {"parts": list(options.parts)}
    given["photos"] = None if options.photos is None else options.photos.name
    return report.finish(**given)


if __name__ == "__main__":
    raise SystemExit(main())
