"""What a search that leaves out leaves misses, measured on a sample of the queries it answered.

In: the queries of a job as they come, shard by shard. Out: the share of a sample that got the best of all leaves, and
the share of their ten best that were among the ten found, by exact search on the same bundle.
"""

from dataclasses import dataclass, replace

import numpy as np

from indexer.errors import InputError
from search.answers.engine import Engine

_TEN = 10


@dataclass(frozen=True, slots=True)
class Recall:
    """How much of what exact search finds a search found."""

    queries: int  # of the sample
    at_1: float  # share whose best leaf is the best of all
    at_10: float  # share of the ten best of all leaves (of fewer, all) that are among the ten found

    def __str__(self) -> str:
        """As people read it."""
        return (
            f"recall@1 {self.at_1:.4f}, recall@10 {self.at_10:.4f} against exact search, on {self.queries:,} of the "
            "queries"
        )


class RecallCheck:
    """Keeps a sample of queries, the same whatever shards they come in, and measures recall with it."""

    def __init__(self, engine: Engine, n: int) -> None:
        """n: queries to keep, at least 1. InputError where the engine multiplies cosines, which leaves out none."""
        if engine.options.score != "softmax":
            raise InputError(
                f"`check_recall` compares modes; `score` {engine.options.score} has only one. Leave one out."
            )
        self._engine = engine
        self._n = n
        self._keys = np.empty(0, np.uint64)
        self._queries = np.empty((0, engine.bundle.model.geocells.width), np.float32)

    def add(self, rows: np.ndarray, queries: np.ndarray) -> None:
        """Take notice of queries (Q, D) float32 as they are compared, and of the numbers of their rows, (Q,) int64."""
        keys = np.concatenate([self._keys, _scattered(rows)])
        held = np.sort(np.argsort(keys, kind="stable")[: self._n])
        old = len(self._keys)
        # One copy of those that stay; the batch itself is not kept alive.
        self._queries = np.concatenate([self._queries[held[held < old]], queries[held[held >= old] - old]])
        self._keys = keys[held]

    def measure(self) -> Recall | None:
        """Recall on the sample; None where no query came."""
        if not len(self._queries):
            return None
        engine = self._engine
        options = replace(engine.options, mode="exact", probes=None, max_probes=None, radii=False)
        exact = Engine(engine.bundle, device=engine.device, options=options, protocol=engine.protocol)
        k = min(_TEN, engine.n_leaves)
        best = exact.search_prepared(self._queries, k=k, probability=False).leaf
        # Apart, because a search for ten visits all lists where the nearest hold fewer.
        first, ten = (engine.search_prepared(self._queries, k=n, probability=False).leaf for n in (1, k))
        shared = (ten[:, :, None] == best[:, None, :]).any(axis=1)
        return Recall(len(best), float((first[:, 0] == best[:, 0]).mean()), float(shared.mean()))


def _scattered(rows: np.ndarray) -> np.ndarray:
    """Row numbers in a fixed disorder: (Q,) uint64 (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
