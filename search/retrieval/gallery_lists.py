"""The photos of some lists: of all photos whose leaves are looked at, those most like each query.

In: queries, and for each the leaves whose lists are looked at (those that scored best, or all of them). Out: the
`near` photos of these lists with the largest inner products, and where they stand in the gallery.

Photos of a leaf stand in one range of the gallery's file. A batch of queries looks at most lists anyway, so lists are
read in the order of the file, each once, and compared with all queries that look at it: one product of matrices a list.
Of what that gives only photos that beat what a query holds already go any further. So that there is soon something to
beat, each query's first few lists come first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from indexer.bundles.gallery import Gallery

_FIRST = 4  # lists of each query that are looked at before the others
_TOGETHER = 1 << 13  # photos of neighbouring lists that are compared at once, where all are looked at
_WAITING = 4  # photos that beat what was known, for each that is wanted, before the best of them are kept


@dataclass(frozen=True, slots=True, eq=False)
class NearPhotos:
    """The photos most like each of Q queries, the most similar first; -1 and minus infinity where there are fewer."""

    row: np.ndarray  # (Q, near) int64, of the gallery
    leaf: np.ndarray  # (Q, near) int64, whose list each stands in
    similarity: np.ndarray  # (Q, near) float64, q . x

    def take(self, queries: np.ndarray | slice) -> "NearPhotos":
        """Those of some of the queries."""
        return NearPhotos(self.row[queries], self.leaf[queries], self.similarity[queries])


class GalleryLists:
    """The lists of a gallery, for queries as they meet geocells."""

    def __init__(self, gallery: Gallery, *, photos: np.ndarray | None = None) -> None:
        """photos: (N,) bool, which ones may be looked at; None: all."""
        self.gallery, self.photos = gallery, photos
        rows = np.ones(len(gallery), bool) if photos is None else photos
        counts = np.concatenate([[0], np.cumsum(rows)])
        self.sizes = np.diff(counts[gallery.begins])  # (leaves,) int64, photos of each list that may be looked at

    def nearest(
        self,
        queries: np.ndarray,
        lists: np.ndarray | None,
        *,
        near: int,
        owners: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> NearPhotos:
        """The `near` most similar photos of lists.

        queries: (Q, D) float32. lists: (Q, P) int64, the best first, -1 for none; None: all lists. owners: of photos
        (N,) and of queries (Q,) or, of several each, (Q, K), int64 numbers, -1 for nobody's: a query does not look at
        photos of its own owners.
        """
        found = _Found(len(queries), near)
        for rows, begin, vectors in self._looks(queries, lists):
            similarity = queries[rows] @ vectors.T
            end = begin + len(vectors)
            if self.photos is not None:
                similarity[:, ~self.photos[begin:end]] = -np.inf
            if owners is not None:
                of_photo, of_query = owners[0][begin:end], owners[1][rows].reshape(len(rows), -1)
                for own in of_query.T:
                    similarity[(of_photo == own[:, None]) & (of_photo >= 0)] = -np.inf
            found.add(rows, begin, similarity)
        row, similarity = found.best()
        leaf = np.searchsorted(self.gallery.begins, row, side="right") - 1
        return NearPhotos(row, np.where(row < 0, -1, leaf), similarity)

    def _looks(self, queries: np.ndarray, lists: np.ndarray | None) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
        """Which queries look at photos from which row on, and the vectors of these (n, D) float32."""
        begins = self.gallery.begins
        if lists is None:
            everybody = np.arange(len(queries))
            for begin in range(0, len(self.gallery), _TOGETHER):
                yield everybody, begin, self.gallery.vectors(begin, min(begin + _TOGETHER, len(self.gallery)))
            return
        for part in (lists[:, :_FIRST], lists[:, _FIRST:]):
            query, place = np.nonzero(part >= 0)
            leaf = part[query, place]
            order = np.argsort(leaf, kind="stable")
            numbers, first = np.unique(leaf[order], return_index=True)
            for number, rows in zip(numbers.tolist(), np.split(query[order], first)[1:], strict=True):
                if self.sizes[number]:
                    yield rows, int(begins[number]), self.gallery.vectors(*begins[number : number + 2].tolist())


_LEAST = np.finfo(np.float32).min  # below it photos that may not be looked at


class _Found:
    """The best photos of each query so far, and those that may be."""

    def __init__(self, n_queries: int, near: int) -> None:
        self._row = np.full((n_queries, near), -1, np.int64)
        self._similarity = np.full((n_queries, near), -np.inf, np.float32)
        self._least = np.full(n_queries, -np.inf, np.float32)  # what a photo must beat
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._n_waiting = 0

    def add(self, queries: np.ndarray, begin: int, similarity: np.ndarray) -> None:
        """Photos from row `begin` on, as similar to some of the queries as this: (Q', n) float32."""
        better, photo = np.nonzero(similarity >= np.maximum(self._least[queries], _LEAST)[:, None])
        self._waiting.append((queries[better], begin + photo, similarity[better, photo]))
        self._n_waiting += len(better)
        if self._n_waiting > _WAITING * self._row.size:
            self._keep()

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (Q, near) int64 and similarities (Q, near) float64, the most similar first; of equals the first row."""
        self._keep()
        return self._row, self._similarity.astype(np.float64)

    def _keep(self) -> None:
        """Put those that wait among the best."""
        near = self._row.shape[1]
        known_query, known_place = np.nonzero(self._row >= 0)
        query, row, similarity = (
            np.concatenate([known, *waiting])
            for known, waiting in zip(
                (known_query, self._row[known_query, known_place], self._similarity[known_query, known_place]),
                zip(*self._waiting, strict=True) if self._waiting else ((), (), ()),
                strict=True,
            )
        )
        order = np.lexsort((row, -similarity, query))
        query, row, similarity = query[order], row[order], similarity[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        kept = place < near
        self._row[query[kept], place[kept]] = row[kept]
        self._similarity[query[kept], place[kept]] = similarity[kept]
        self._least = self._similarity[:, -1].copy()
        self._waiting, self._n_waiting = [], 0
