"""The photos of some lists: of all photos whose leaves are looked at, those most like each query.

In: queries, and for each the leaves whose lists are looked at (those that scored best, or all of them). Out: the
`near` photos of these lists with the largest inner products, and where they stand in the gallery.

Photos of a leaf stand in one range of the gallery's file. A batch of queries looks at most lists anyway, so the file is
read in its order, each list once, some neighbouring lists at a time, and compared with all queries that look at any of
them: neighbours are looked at by the same queries. That first look is fast and not exact
(`search.retrieval.photo_products`). What its error leaves possible is compared again in float32, each photo for itself:
a query's photos are the same, to the last bit, whatever is asked with it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from indexer.bundles.gallery import Gallery
from search.retrieval.photo_products import products_of

_FIRST = 4  # photos, for each that is wanted, that are looked at before the others: what others must reach
_WAITING = 4  # photos that may be among the best, for each that is wanted, before those that cannot are dropped
_DECODED = 1 << 11  # photos that are compared again at once
_Part = TypeVar("_Part")


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
        products = products_of(self.gallery, queries)
        found = _Candidates(products.error, near)

        def look(block: _Block) -> None:
            photo, query, similarity = products.above(
                block.queries, block.begins, block.ends, found.least[block.queries]
            )
            row, may = block.rows[photo], block.looks(photo, query)
            query = block.queries[query]
            if self.photos is not None:
                may &= self.photos[row]
            if owners is not None:
                of_photo, of_query = owners[0][row], owners[1][query].reshape(len(query), -1)
                may &= (of_photo < 0) | (of_photo[:, None] != of_query).all(axis=1)
            found.add(query[may], row[may], similarity[may])

        for part in self._parts(lists, n_first=_FIRST * near):
            _in_threads(look, self._blocks(len(queries), part, rows_at_once=products.rows_at_once))
            found.drop()
        return self._compared_again(queries, found, near=near)

    def _parts(self, lists: np.ndarray | None, *, n_first: int) -> Iterator[np.ndarray | None]:
        """The lists in two parts: the best of each query that hold about so many photos, and the others."""
        if lists is None:
            yield None
            return
        sizes = np.where(lists < 0, 0, self.sizes[lists])
        first = np.cumsum(sizes, axis=1) - sizes < n_first
        yield np.where(first, lists, -1)
        yield np.where(first, -1, lists)

    def _blocks(self, n_queries: int, lists: np.ndarray | None, *, rows_at_once: int) -> Iterator["_Block"]:
        """Lists that are looked at, or pieces of long ones, in the order of the file, a few at a time."""
        if lists is None:
            leaf, query = np.flatnonzero(self.sizes), np.empty(0, np.int64)
            starts = np.zeros(len(leaf) + 1, np.int64)
        else:
            query, place = np.nonzero(lists >= 0)
            pairs = lists[query, place] * n_queries + query
            of, query = np.divmod(np.sort(pairs[self.sizes[lists[query, place]] > 0]), n_queries)
            # The queries of the i-th of these leaves are query[starts[i] : starts[i + 1]].
            starts = np.flatnonzero(np.diff(of, prepend=-1, append=-1))
            leaf = of[starts[:-1]]
        begins, ends = self.gallery.begins[leaf], self.gallery.begins[leaf + 1]
        n_pieces = -(-(ends - begins) // rows_at_once)
        of_piece = np.repeat(np.arange(len(leaf)), n_pieces)  # which of the leaves
        begins = begins[of_piece] + rows_at_once * (np.arange(len(of_piece)) - np.searchsorted(of_piece, of_piece))
        ends = np.minimum(begins + rows_at_once, ends[of_piece])
        sizes = ends - begins
        number = (np.cumsum(sizes) - sizes) // rows_at_once
        bounds = np.flatnonzero(np.diff(number, prepend=-1, append=-1)).tolist()
        everybody, number_of, is_own = np.arange(n_queries), np.zeros(n_queries, np.int64), np.zeros(n_queries, bool)
        for start, stop in pairwise(bounds):
            own_pieces = slice(start, stop)
            if lists is None:
                yield _Block.of(everybody, begins[own_pieces], ends[own_pieces], None)
                continue
            first, last = of_piece[start], of_piece[stop - 1] + 1
            own = query[starts[first] : starts[last]]
            is_own[own] = True
            who = np.flatnonzero(is_own)
            is_own[who], number_of[who] = False, np.arange(len(who))
            looked = np.zeros((last - first, len(who)), bool)
            looked[np.repeat(np.arange(last - first), np.diff(starts[first : last + 1])), number_of[own]] = True
            yield _Block.of(who, begins[own_pieces], ends[own_pieces], looked[of_piece[own_pieces] - first])

    def _compared_again(self, queries: np.ndarray, found: "_Candidates", *, near: int) -> NearPhotos:
        """The best of the candidates by similarities in float32; of equals the first row."""
        query, row, place = found.best()
        first = place < near
        similarity = np.full(len(row), -np.inf, np.float32)
        similarity[first] = self._similarities(queries, query[first], row[first])
        # What they are now known to reach leaves fewer of the others possible.
        least = np.full(len(queries), np.inf, np.float32)
        np.minimum.at(least, query[first], similarity[first])
        others = np.flatnonzero(~first)
        others = others[found.possible(others, least)]
        similarity[others] = self._similarities(queries, query[others], row[others])
        order = np.lexsort((row, -similarity, query))
        query, row, similarity = query[order], row[order], similarity[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        kept = (place < near) & (similarity > -np.inf)
        at = query[kept], place[kept]
        rows, best = np.full((len(queries), near), -1, np.int64), np.full((len(queries), near), -np.inf)
        rows[at], best[at] = row[kept], similarity[kept]
        leaf = np.searchsorted(self.gallery.begins, rows, side="right") - 1
        return NearPhotos(rows, np.where(rows < 0, -1, leaf), best)

    def _similarities(self, queries: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Similarities of pairs of a query and a photo, (P,) int64 each, in the order of queries: (P,) float32."""
        result = np.empty(len(row), np.float32)
        lists = self.gallery.lists

        def compare(begin: int) -> None:
            part = slice(begin, begin + _DECODED)
            vectors, own = lists.codec.decode(lists.take(row[part])), query[part]
            bounds = np.flatnonzero(np.diff(own, prepend=-1, append=-1)).tolist()
            for start, stop in pairwise(bounds):  # not by a library of matrices: they add up in the order of a shape
                pairs = vectors[start:stop], queries[own[start]]
                np.einsum("pd,d->p", *pairs, out=result[begin + start : begin + stop])

        _in_threads(compare, range(0, len(row), _DECODED))
        return result


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Some ranges of a gallery, and the queries that look at any of them."""

    queries: np.ndarray  # (m,) int64
    begins: np.ndarray  # (p,) int64, of ranges of rows
    ends: np.ndarray
    rows: np.ndarray  # (n,) int64, all of them
    _piece: np.ndarray  # (n,) int64, which range each is of
    _looked: np.ndarray | None  # (p, m) bool, which queries look at which; None: all at all

    @classmethod
    def of(cls, queries: np.ndarray, begins: np.ndarray, ends: np.ndarray, looked: np.ndarray | None) -> "_Block":
        """begins, ends: (p,) int64, of the ranges."""
        sizes = ends - begins
        piece = np.repeat(np.arange(len(sizes)), sizes)
        rows = np.arange(len(piece)) + np.repeat(begins - (np.cumsum(sizes) - sizes), sizes)
        return cls(queries, begins, ends, rows, piece, looked)

    def looks(self, photo: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Which pairs of a photo, by its number here, and a query, by its number here, are looked at: (k,) bool."""
        if self._looked is None:
            return np.ones(len(photo), bool)
        return np.asarray(self._looked[self._piece[photo], query])


class _Candidates:
    """Photos that can be among the best of their query, as far as is known; threads share it."""

    def __init__(self, error: np.ndarray, near: int) -> None:
        """error: (Q,) float64, how far a similarity can be from what it is told as."""
        self._error, self._near = error, near
        self.least = np.full(len(error), -np.inf)  # (Q,) what a photo must reach
        self._lock = threading.Lock()
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._n_waiting = 0

    def add(self, query: np.ndarray, row: np.ndarray, similarity: np.ndarray) -> None:
        """Pairs of a query and a photo, (k,) int64 each, and how similar they are: (k,) float32."""
        with self._lock:
            self._waiting.append((query, row, similarity))
            self._n_waiting += len(query)
            if self._n_waiting > _WAITING * self._near * len(self._error):
                self.drop()

    def best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the last `drop` left: query, row, and its place among the query's, (P,) int64; the queries in order."""
        query, row, _ = self._waiting[0]
        return query, row, np.arange(len(query)) - np.searchsorted(query, query)

    def possible(self, numbers: np.ndarray, least: np.ndarray) -> np.ndarray:
        """Which of some of these, by their number, can be as similar as the least of their query: (k,) bool.

        least: (Q,) float32, of true similarities.
        """
        query, _, similarity = self._waiting[0]
        query, similarity = query[numbers], similarity[numbers]
        return np.asarray(similarity >= least[query] - self._error[query])

    def drop(self) -> None:
        """Leave out those that cannot be among the best."""
        nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        parts, self._waiting = [nothing, *self._waiting], []
        query, row, similarity = (np.concatenate(each) for each in zip(*parts, strict=True))
        del parts  # there are many
        if (self._error > 0).all():
            order = np.argsort(_descending(query, similarity))
        else:  # similarities that are true need an order to the end: a query of zeros is as like all photos
            order = np.lexsort((row, -similarity, query))
        for each in query, row, similarity:
            each[:] = each[order]
        begins = np.searchsorted(query, np.arange(len(self._error) + 1))
        last = begins[:-1] + self._near - 1
        enough = last < begins[1:]
        self.least[enough] = similarity[last[enough]] - 2 * self._error[enough]
        place = np.arange(len(query)) - begins[query]
        kept = (place < self._near) | ((similarity >= self.least[query]) & (self._error[query] > 0))
        self._waiting, self._n_waiting = [(query[kept], row[kept], similarity[kept])], 0


def _descending(query: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Numbers that are in order where queries are, and within a query the larger similarities come first: (P,) uint64.

    Sorting one number takes a tenth of the time of sorting by two.
    """
    bits = (similarity + np.float32(0)).view(np.int32)  # -0.0 is 0.0
    np.bitwise_xor(bits, 0x7FFFFFFF, out=bits, where=bits < 0)  # now in the order of the similarities
    np.subtract(0x7FFFFFFF, bits, out=bits)  # and now the other way round, as a number without a sign
    number = query.astype(np.uint64)
    number <<= np.uint64(32)
    number |= bits.view(np.uint32)
    return number


def _in_threads(work: Callable[[_Part], None], parts: Iterable[_Part]) -> None:
    """Do a part of some work after the other, in as many threads as torch works in, each on one core.

    Parts are too small to be shared out among cores: they would wait for one another at each.
    """
    left, lock = iter(parts), threading.Lock()

    def work_off() -> None:
        torch.set_num_threads(1)  # of this thread, but threads that begin later take it over
        while True:
            with lock:
                part = next(left, None)
            if part is None:
                return
            work(part)

    n_threads = torch.get_num_threads()
    if n_threads == 1:
        for part in left:
            work(part)
        return
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            for ended in [pool.submit(work_off) for _ in range(n_threads)]:
                ended.result()
    finally:
        torch.set_num_threads(n_threads)
