"""What a search that leaves out leaves and photos misses, measured on a sample of the queries it answered.

In: the queries of a job as they come, shard by shard. Out: the share of a sample that got the best of all leaves, and
the share of their ten best that were among the ten found, by exact search on the same bundle. Where photos count, how
much of the weight that a look at all photos finds lies in the lists that were looked at, and how often the answer
points to where it would with all photos.
"""

from dataclasses import dataclass, replace

import numpy as np

from indexer.bundles.gallery import NOBODY
from indexer.earth.geo import chords_to_km
from indexer.errors import InputError
from search.answers.engine import Engine
from search.answers.photo_evidence import PhotoEvidence

STAYED = 0.1  # widths of a bell around a photo, h, that a point may move by and still count as the same
_TEN = 10
_TOGETHER = 1024  # queries whose photos are looked at together


@dataclass(frozen=True, slots=True)
class PhotoRecall:
    """How much of what a look at all photos finds was found in lists."""

    queries: int  # of the sample, those that have photos
    weight: float  # of all their photos, the part in the lists that were looked at: the mean over queries
    stayed: float  # share whose point moves by a tenth of a bell's width at most when all photos are looked at
    within_km: float  # that distance

    def __str__(self) -> str:
        """As people read it."""
        return (
            f"of photos the lists hold {self.weight:.2%} of the weight that all have, and {self.stayed:.2%} of the "
            f"points are within {self.within_km:.3g} km of where all let them be"
        )


@dataclass(frozen=True, slots=True)
class Recall:
    """How much of what exact search finds a search found."""

    queries: int  # of the sample
    at_1: float  # share whose best leaf is the best of all
    at_10: float  # share of the ten best of all leaves (of fewer, all) that are among the ten found
    photos: PhotoRecall | None = None  # None where cells alone decide, or no query has photos

    def __str__(self) -> str:
        """As people read it."""
        text = (
            f"recall@1 {self.at_1:.4f}, recall@10 {self.at_10:.4f} against exact search, on {self.queries:,} of the "
            "queries"
        )
        return text if self.photos is None else f"{text}; {self.photos}"


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
        self._n_photos = np.empty(0, np.int64)
        self._owners = np.empty((0, 0), np.int64)  # NOBODY in places that a query does not need

    def add(
        self, rows: np.ndarray, queries: np.ndarray, n_photos: np.ndarray, *, owners: np.ndarray | None = None
    ) -> None:
        """Take notice of queries.

        rows: (Q,) int64, their numbers. queries: (Q, D) float32 as they are compared. n_photos: (Q,) int64, how many
        photos each is made of. owners: (Q, K) int64, as for `Engine.find`.
        """
        owners = np.empty((len(rows), 0), np.int64) if owners is None else owners
        keys = np.concatenate([self._keys, _scattered(rows)])
        held = np.sort(np.argsort(keys, kind="stable")[: self._n])
        old = len(self._keys)
        # One copy of those that stay; the batch itself is not kept alive.
        self._queries = np.concatenate([self._queries[held[held < old]], queries[held[held >= old] - old]])
        self._n_photos = np.concatenate([self._n_photos, n_photos])[held]
        most = max(self._owners.shape[1], owners.shape[1])
        wide = [
            np.pad(each, ((0, 0), (0, most - each.shape[1])), constant_values=NOBODY) for each in (self._owners, owners)
        ]
        self._owners = np.concatenate(wide)[held]
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
        return Recall(len(best), float((first[:, 0] == best[:, 0]).mean()), float(shared.mean()), self._of_photos())

    def _of_photos(self) -> PhotoRecall | None:
        """How much of what all photos say the lists that were looked at say."""
        engine, fit = self._engine, self._engine.photo_fit
        if fit is None:
            return None
        options = replace(engine.options, mode="exact", probes=None, max_probes=None, radii=False, gallery="all")
        whole = Engine(engine.bundle, device=engine.device, options=options, protocol=engine.protocol)
        parts = []
        for start in range(0, len(self._queries), _TOGETHER):
            block = slice(start, start + _TOGETHER)
            queries, n_photos, own = self._queries[block], self._n_photos[block], self._owners[block]
            owners = own if own.shape[1] else None
            by_all, by_few = (each.find(queries, n_photos=n_photos, owners=owners).evidence for each in (whole, engine))
            assert by_all is not None, "photos count"
            assert by_few is not None, "for both"
            parts.append(held_and_moved(by_all, by_few))
        held, moved_km = (np.concatenate(each) for each in zip(*parts, strict=True))
        if not len(held):
            return None
        within_km = STAYED * fit.width_km
        return PhotoRecall(len(held), float(held.mean()), float((moved_km <= within_km).mean()), within_km)


def held_and_moved(whole: PhotoEvidence, few: PhotoEvidence) -> tuple[np.ndarray, np.ndarray]:
    """What evidence of few photos misses, of the same queries by the same numbers, but for those without a photo.

    Returns what the few hold of the weight that all photos have, (W,) float64, and how many km the few move the points
    of answers, (W,) float64; half way around the Earth where they are none.
    """
    shared = (whole.near.row[:, :, None] == few.near.row[:, None, :]).any(axis=2) & (whole.near.row >= 0)
    held = np.where(shared, whole.weight, 0.0).sum(axis=1)
    apart = np.where(few.there, np.linalg.norm(whole.points - few.points, axis=1), 2.0)
    return held[whole.there], chords_to_km(apart[whole.there])


def _scattered(rows: np.ndarray) -> np.ndarray:
    """Row numbers in a fixed disorder: (Q,) uint64 (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
