"""How like the other photos of its list each photo of a gallery is, on the average.

In: rows of a gallery. Out: the mean inner product of each of these photos and all others of its list. It is worked out
for a whole list when one of its photos is first wanted: as much work as comparing the list with two queries. A photo
that is like everything around it is near to many queries without being the right one (a hub: Radovanovic, Nanopoulos
and Ivanovic, JMLR 11, 2010).
"""

import numpy as np

from indexer.bundles.gallery import Gallery


class ListSimilarity:
    """Means of a gallery's lists, as far as they were wanted; one call at a time."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._mean = np.full(len(gallery), np.nan, np.float32)
        self._known = np.diff(gallery.begins) < 2  # lists of one photo have no others

    def __call__(self, rows: np.ndarray, leaf: np.ndarray) -> np.ndarray:
        """Of photos by row (M,) int64, of lists (M,) int64: (M,) float32, NaN for the only photo of its list."""
        for number in np.unique(leaf[~self._known[leaf]]).tolist():
            begin, end = self._gallery.begins[number : number + 2].tolist()
            vectors = self._gallery.vectors(begin, end)
            own = np.einsum("ij,ij->i", vectors, vectors)
            self._mean[begin:end] = (vectors @ vectors.sum(axis=0) - own) / (end - begin - 1)
            self._known[number] = True
        return self._mean[rows]
