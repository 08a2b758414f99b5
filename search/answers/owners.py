"""Owners: whose photos are, so that an evaluation can leave out gallery photos of the one whose photo it asks about.

Who takes many photos takes them alike and at the same places, so a gallery with other photos of a query's owner rewards
finding the photographer. Left out at query time, such photos change nothing of the others: not how many photos each of
these stands for, nor how photos count.

In: the gallery's owners, and a column of texts beside the photos of an input. Inside, owners are numbers, and they
stand in no answer. A photo without an owner is nobody's: nothing is left out for it, and it is left out for nobody.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.bundles.gallery import NOBODY, Gallery
from search.answers.row_texts import RowTexts

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)  # no slots: cached_property needs a __dict__
class GalleryOwners:
    """Whose the photos of a gallery are, by number."""

    of_photo: np.ndarray  # (N,) int64, NOBODY where that is not known
    _names: pa.Array  # by number

    @classmethod
    def of(cls, gallery: Gallery) -> "GalleryOwners":
        """Those of a gallery that has recorded them."""
        return cls(*gallery.owner_numbers())

    def numbers(self, owners: pa.Array) -> np.ndarray:
        """The number of each text (Q,); NOBODY for one that is null or empty, or has no photo here: (Q,) int64."""
        known = pc.index_in(owners, value_set=self._names, skip_nulls=True)
        known = pc.if_else(pc.equal(owners, ""), NOBODY, known).fill_null(NOBODY)
        return np.asarray(known.to_numpy(zero_copy_only=False)).astype(np.int64)


class OwnedLeaves:
    """Which leaves hold photos of one owner alone, or of a few: without these they hold none."""

    def __init__(self, owner: np.ndarray, leaf: np.ndarray, n_leaves: int) -> None:
        """Of photos that may be looked at, (N,) integers each: whose they are, and the leaves that they count for."""
        self._n_leaves = n_leaves
        self._total = np.bincount(leaf, minlength=n_leaves)
        owned = owner != NOBODY
        keys = owner[owned] * n_leaves + leaf[owned]
        self._keys, self._counts = np.unique(keys, return_counts=True)

    def emptied(self, leaf: np.ndarray, owners: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Whether leaves (M,) hold photos, but only of the owners of their query: (M,) bool.

        owners: (Q, K) int64, of queries, each once, NOBODY for none. query: (M,) int64, which one each leaf is of.
        """
        held = np.zeros(len(leaf), np.int64)
        if len(self._keys):
            for column in owners.T:
                owner = column[query]
                keys = owner * self._n_leaves + leaf
                place = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
                held += np.where((self._keys[place] == keys) & (owner != NOBODY), self._counts[place], 0)
        return np.asarray((held > 0) & (held == self._total[leaf]))


@dataclass(frozen=True, eq=False)  # no slots: cached_property needs a __dict__
class QueryOwners:
    """Whose the photos of an input are."""

    rows: RowTexts
    gallery: GalleryOwners

    @cached_property
    def of_row(self) -> np.ndarray:
        """By number, (rows,) int64; NOBODY also for an owner who has no photo in the gallery. Logs what is amiss."""
        numbers, named = self.gallery.numbers(self.rows.text), pc.not_equal(self.rows.text, "").fill_null(False)
        n_named = pc.sum(named).as_py() or 0
        if not n_named:
            log.warning("%s: no row has an owner in %s: nothing is left out", self.rows.source, self.rows.column)
        elif (numbers == NOBODY).all():
            log.warning(
                "%s: none of the owners in %s has a photo in the gallery: nothing is left out. Are they written alike?",
                *(self.rows.source, self.rows.column),
            )
        return numbers

    def of_photos(self, photos: Sequence[str], first_row: int) -> np.ndarray:
        """Those of photos that stand together in the input from one row on: (N, 1) int64.

        Raises:
            InputError: a photo is not among the rows; or names repeat there, and the photos are not the rows in order.
        """
        return self.of_row[self.rows.places(photos, first_row), None]


def owners_of_albums(of_photo: np.ndarray, album: np.ndarray, n_albums: int) -> np.ndarray:
    """All owners of the photos of each album, (n_albums, K) int64, each once and NOBODY for fewer.

    of_photo: (rows,) int64, by number. album: (rows,) int64, which one each is of.
    """
    known = of_photo != NOBODY
    pairs = np.unique(np.stack([album[known], of_photo[known]], axis=1), axis=0).reshape(-1, 2)
    place = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    owners = np.full((n_albums, int(place.max(initial=0)) + 1), NOBODY)
    owners[pairs[:, 0], place] = pairs[:, 1]
    return owners
