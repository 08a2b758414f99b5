"""The medoid of each cell: of its photos the one that is nearest to all others, which no outlier can pull away.

In: point ids of photos and which contiguous run of them each cell holds. Out: one photo for each cell, that with the
least sum of distances to the others; distances are chords. A mean direction may lie in the sea or between two cities; a
medoid is where somebody stood.

All pairs of a cell's photos would take the square of their number. So of a cell with many photos, distances to a few
of them, spread evenly along the S2 curve, choose the candidates, and distances to all of them choose among these
(after Newling and Fleuret, A Sub-Quadratic Exact Medoid Algorithm, AISTATS 2017, without its exactness).
"""

import numpy as np

from indexer.cells.extent import Runs
from indexer.earth import geo, s2

EXACT = 16  # photos up to which all are compared with all; of more, so many stand for all at first
_CANDIDATES = 8
_HELD = 1 << 18  # photos worked on at once


def medoids(ids: np.ndarray, runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude of each cell's medoid, (C,) float64 in degrees each; of equals the first photo.

    ids: (N,) uint64 point ids in the order that the runs count in.
    """
    lengths = runs.lengths
    chosen = np.empty(len(lengths), np.int64)
    # Cells of about as many photos together, so that little of a block is padding.
    sizes = np.ceil(np.log2(lengths)).astype(np.int64)
    for size in np.unique(sizes):
        cells = np.flatnonzero(sizes == size)
        step = max(1, _HELD >> int(size))
        for start in range(0, len(cells), step):
            block = cells[start : start + step]
            chosen[block] = runs.begin[block] + _medoids(ids, runs.begin[block], lengths[block])
    return geo.lat_lng(s2.directions(ids[chosen]).T)


def _medoids(ids: np.ndarray, begin: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The medoid's place in its run, for cells of similar length: (B,) int64."""
    places = np.arange(lengths.max())
    there = places < lengths[:, None]
    rows = begin[:, None] + np.minimum(places, lengths[:, None] - 1)  # the last photo pads
    points = s2.directions(ids[rows.ravel()]).reshape(3, *rows.shape)
    if len(places) <= EXACT:
        standing = np.broadcast_to(places[:, None], (len(places), len(lengths)))
    else:
        standing = ((2 * np.arange(EXACT) + 1) * lengths[:, None] // (2 * EXACT)).T
    sums = np.zeros(rows.shape)
    for place in standing:
        sums += _chords(points, np.minimum(place, lengths - 1)) * (place < lengths)[:, None]
    sums[~there] = np.inf
    if len(places) <= EXACT:
        return sums.argmin(axis=1)
    candidates = np.sort(np.argpartition(sums, _CANDIDATES, axis=1)[:, :_CANDIDATES], axis=1)
    exact = np.stack([np.where(there, _chords(points, place), 0.0).sum(axis=1) for place in candidates.T], axis=1)
    return np.take_along_axis(candidates, exact.argmin(axis=1)[:, None], axis=1)[:, 0]


def _chords(points: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Distances of each cell's photos, points (3, B, P), from that at `place` (B,) of them: (B, P)."""
    squared = np.zeros(points.shape[1:])
    for axis in points:
        difference = axis - np.take_along_axis(axis, place[:, None], axis=1)
        difference *= difference
        squared += difference
    return np.sqrt(squared, out=squared)
