"""Where the photos of each cell are: mean directions, radii and medoids, of any number of photos in little memory.

In: point ids of photos and, per level, which range of them each cell holds. A mean direction may lie in the
sea or between two cities; a medoid is where somebody stood. A photo is taken to be at the
middle of its level-30 cell, less than a centimetre from where its table says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.earth import geo, s2

_BLOCK = 1 << 18  # photos worked on at once: what is held for them stays in a processor's cache
EXACT = 16  # photos of a cell up to which all are compared with all; of more, so many stand for all at first
_CANDIDATES = 8


@dataclass(frozen=True, slots=True, eq=False)
class PhotoRanges:
    """Which photos belong to each cell of a level: photos begin[c]:end[c]. Ranges are not empty and do not overlap."""

    begin: np.ndarray  # (C,) int64, ascending
    end: np.ndarray  # (C,) int64

    @property
    def lengths(self) -> np.ndarray:
        """Photos in each cell: (C,) int64."""
        return self.end - self.begin


def extents(ids: np.ndarray, levels: Sequence[PhotoRanges]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each level latitudes, longitudes and radii of its cells, (C,) float64 in degrees, degrees and kilometres.

    A cell's point is the mean direction of its photos, its radius the largest distance of a photo from that point.
    ids: (N,) uint64 point ids in the order the ranges count in, which need not be theirs.
    """
    sums = [np.zeros((3, len(ranges.begin))) for ranges in levels]
    for start, points in _blocks(ids):
        for total, ranges in zip(sums, levels, strict=True):
            cells, begin, end = _inside(ranges, start, points.shape[1])
            # Ranges are summed one by one: a difference of running sums would lose digits over millions of photos.
            total[:, cells] += _reduce(np.add, points, begin, end)
    means = [_mean_directions(total, ids, ranges) for total, ranges in zip(sums, levels, strict=True)]
    # The square of the chord to each photo: exact at the small angles where an arccosine loses its digits.
    chords = [np.zeros(len(ranges.begin)) for ranges in levels]
    for start, points in _blocks(ids):
        for largest, ranges, mean in zip(chords, levels, means, strict=True):
            cells, begin, end = _inside(ranges, start, points.shape[1])
            if not begin.size:
                continue
            # For each photo the number of the range it is in; photos between ranges get a neighbour's.
            mine = np.repeat(np.arange(len(begin)), np.diff(begin[1:], prepend=0, append=points.shape[1]))
            squared = np.zeros(points.shape[1])
            for axis in range(3):
                difference = mean[axis, cells][mine]
                difference -= points[axis]
                difference *= difference
                squared += difference
            largest[cells] = np.maximum(largest[cells], _reduce(np.maximum, squared, begin, end))
    return [
        (*geo.lat_lng(mean.T), geo.chords_to_km(np.sqrt(largest))) for mean, largest in zip(means, chords, strict=True)
    ]


def _mean_directions(sums: np.ndarray, ids: np.ndarray, ranges: PhotoRanges) -> np.ndarray:
    """Mean directions (3, C); of photos that lie opposite each other, and so have none, the first one's place."""
    length = np.linalg.norm(sums, axis=0)
    nowhere = length <= 1e-9 * ranges.lengths  # what rounding leaves of a sum of zero
    return np.where(nowhere, s2.directions(ids[ranges.begin]), sums / np.where(nowhere, 1, length))


def _blocks(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(ids), _BLOCK):
        yield start, s2.directions(ids[start : start + _BLOCK])


def _inside(ranges: PhotoRanges, start: int, length: int) -> tuple[slice, np.ndarray, np.ndarray]:
    """Cells with photos among start:start+length, and the ranges they have there, counted from `start`."""
    cells = slice(
        int(np.searchsorted(ranges.end, start, side="right")),
        int(np.searchsorted(ranges.begin, start + length, side="left")),
    )
    return cells, np.maximum(ranges.begin[cells] - start, 0), np.minimum(ranges.end[cells] - start, length)


def _reduce(operation: np.ufunc, values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Reduce values (..., N) over begin[c]:end[c] of its last axis: (..., C)."""
    if not begin.size:
        return np.empty((*values.shape[:-1], 0), values.dtype)
    edges = np.stack([begin, end], axis=1).ravel()
    # reduceat takes each edge to the next one; every second result is a gap between ranges, and an edge may not be the
    # length of the axis, which the last `end` can be.
    edges = edges[:-1] if end[-1] == values.shape[-1] else edges
    return np.asarray(operation.reduceat(values, edges, axis=-1)[..., ::2])


def medoids(ids: np.ndarray, ranges: PhotoRanges) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude of each cell's medoid, (C,) float64 in degrees each; of equals the first photo.

    The medoid is that photo with the least sum of distances (chords) to the others, which no outlier can pull away. All
    pairs of a cell's photos would take the square of their number. So of a cell with many photos, distances to a few of
    them, spread evenly along the S2 curve, choose the candidates, and distances to all of them choose among these
    (after Newling and Fleuret, A Sub-Quadratic Exact Medoid Algorithm, AISTATS 2017, without its exactness).
    ids: (N,) uint64 point ids in the order that the ranges count in.
    """
    lengths = ranges.lengths
    chosen = np.empty(len(lengths), np.int64)
    # Cells of about as many photos together, so that little of a block is padding.
    sizes = np.ceil(np.log2(lengths)).astype(np.int64)
    for size in np.unique(sizes):
        cells = np.flatnonzero(sizes == size)
        step = max(1, _BLOCK >> int(size))
        for start in range(0, len(cells), step):
            block = cells[start : start + step]
            chosen[block] = ranges.begin[block] + _medoids(ids, ranges.begin[block], lengths[block])
    return geo.lat_lng(s2.directions(ids[chosen]).T)


def _medoids(ids: np.ndarray, begin: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The medoid's place in its range, for cells of similar length: (B,) int64."""
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
