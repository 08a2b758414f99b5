"""`python -m benchmarks.bundle`: a bundle of MP-16's size, built, opened and searched beside the plain ways to do it.

Peers: multiplying out the softmax probabilities of all levels, as the paper writes the score; and FAISS's own inverted
lists, trained by k-means, with as many lists and probes as ours. Answers are compared before anything is timed.
"""

import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from jsonargparse import ArgumentParser

from benchmarks.harness import Report, timed
from benchmarks.partition import MP16_PHOTOS, photo_places
from indexer.bundle import Bundle, build_bundle, open_bundle
from indexer.cells import save_hierarchy
from indexer.faiss_index import list_count, search_index
from indexer.geocells import Geocells
from indexer.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.leaf_index import IndexChoice, stand_ins
from indexer.recipe import S2Recipe
from indexer.rule import PartitionRule
from indexer.scoring import leaf_vectors, log_product
from search.engine import Engine

MIN_PRODUCT_RATIO = 3.0  # exact search through leaves.faiss against multiplying out
MIN_IVF_RECALL = 0.998  # at 1, of the lists that follow the tree: 0.999 is what was chosen for, on other queries


def geocells_of(hierarchy: Hierarchy, width: int, *, seed: int) -> Geocells:
    """Vectors that follow the tree, as learned ones do: each cell is its parent and as much of its own."""
    rng = np.random.default_rng(seed)
    vectors: list[np.ndarray] = []
    for number, level in enumerate(hierarchy.levels):
        own = rng.normal(size=(len(level), width))
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        rows = own + vectors[-1][hierarchy.parents(number)] if number else own
        vectors.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    n_levels = len(vectors)
    return Geocells(vectors, np.full(n_levels, 0.07), np.ones(n_levels), hierarchy.digest, None)


def compare_product(report: Report, bundle: Bundle, queries: np.ndarray) -> None:
    """Exact search against the product of all levels, multiplied out."""
    engine = Engine(bundle)
    product = log_product(bundle.model, queries).argmax(axis=1)
    if (engine.search(queries).leaf[:, 0] != product).any():
        raise SystemExit("The search and the multiplied-out product differ; nothing was timed.")
    ours = timed(lambda: engine.search(queries), runs=7)
    peer = timed(lambda: log_product(bundle.model, queries).argmax(axis=1), runs=3)
    ratio = peer.median_s / ours.median_s
    report.row(
        f"exact search, {bundle.model.n_leaves:,} leaves x {queries.shape[1]}, with probabilities",
        f"ours {ours.median_s / len(queries) * 1e6:.0f} us a query, product of levels "
        f"{peer.median_s / len(queries) * 1e6:.0f} us -> {ratio:.1f}x (median of {ours.runs}), same answers for "
        f"{len(queries):,} queries, floor {MIN_PRODUCT_RATIO:g}x",
        holds=ratio >= MIN_PRODUCT_RATIO,
        ours=ours,
        peer=peer,
        ratio=ratio,
        queries=len(queries),
    )


def compare_lists(report: Report, bundle: Bundle, queries: np.ndarray, best: np.ndarray) -> None:
    """Lists that follow the tree against lists made by k-means, both scored by the best leaf alone."""
    rows = leaf_vectors(bundle.model)
    facts = bundle.manifest.facts["leaf_index"]
    n_lists, probes = list_count(bundle.leaf_index), facts["probes"]
    started = time.perf_counter()
    peer_index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT
    )
    peer_index.cp.min_points_per_centroid = 1  # no warning that the lists are short: they are as short as ours
    peer_index.train(rows)
    peer_index.add(rows)
    peer_build = time.perf_counter() - started
    peer_index.nprobe = probes
    recalls = [
        float((search_index(index, queries, 1)[1][:, 0] == best).mean()) for index in (bundle.leaf_index, peer_index)
    ]
    ours = timed(lambda: search_index(bundle.leaf_index, queries, 10), runs=9)
    peer = timed(lambda: search_index(peer_index, queries, 10), runs=9)
    report.row(
        f"coarse to fine, {n_lists} lists of level {facts['quantiser_level']}, {probes} visited",
        f"ours {ours.median_s / len(queries) * 1e6:.0f} us a query at recall@1 {recalls[0]:.4f}, k-means lists "
        f"{peer.median_s / len(queries) * 1e6:.0f} us at {recalls[1]:.4f} (training them took {peer_build:.1f} s), "
        f"recall floor {MIN_IVF_RECALL:g}",
        holds=recalls[0] >= MIN_IVF_RECALL,
        ours=ours,
        peer=peer,
        recalls=recalls,
        peer_build_s=peer_build,
        queries=len(queries),
    )


def main() -> int:
    """Run the command line; the exit code is 1 where a floor was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.bundle", description=__doc__)
    parser.add_argument("--photos", type=int, default=MP16_PHOTOS)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = Report("bundle")
    recipe = S2Recipe(PartitionRule())
    ids = sorted_ids(photo_places(options.photos, seed=options.seed))
    tree = build_hierarchy(ids, rule=recipe.rule)
    geocells = geocells_of(tree, options.width, seed=options.seed + 100)
    with tempfile.TemporaryDirectory() as folder:
        hierarchy = Path(folder) / "H"
        save_hierarchy(tree, pa.table({"s2_id": ids}), hierarchy, config={"recipe": recipe.to_config()}, inputs={})
        bundles = []
        for choice in (IndexChoice("flat"), IndexChoice("flat", "int8"), IndexChoice("ivf")):
            started = time.perf_counter()
            path = build_bundle(hierarchy, geocells, Path(folder) / "V", config={}, inputs={}, index=choice)
            built = time.perf_counter()
            bundles.append(open_bundle(path))
            opened = time.perf_counter()
            size = sum(entry["size_bytes"] for entry in bundles[-1].manifest.files.values())
            facts = bundles[-1].manifest.facts["leaf_index"]
            report.row(
                f"bundle {choice.kind} {choice.precision}",
                f"built and synced in {built - started:.1f} s, opened in {opened - built:.2f} s, {size / 1e6:.0f} MB, "
                f"leaf index {facts['size_bytes'] / 1e6:.0f} MB, recall@1 {facts['recall_at_1']:.4f}",
                build_s=built - started,
                open_s=opened - built,
                size_bytes=size,
                leaf_index=dict(facts),
            )
    model = bundles[0].model
    queries = stand_ins(model, n=500, seed=options.seed + 1)
    compare_product(report, bundles[0], queries)
    many = stand_ins(model, n=5000, seed=options.seed + 2)
    compare_lists(report, bundles[2], many, Engine(bundles[0]).search(many).leaf[:, 0])
    return report.finish(photos=options.photos, width=options.width, seed=options.seed)


if __name__ == "__main__":
    raise SystemExit(main())
