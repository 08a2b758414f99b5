"""Where the photos of each cell are: mean directions and radii, over any number of photos in little memory.

In: point ids of photos and, per level, which contiguous run of them each cell holds. A photo is taken to be at the
centre of its level-30 cell, less than a centimetre from where its table says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.earth import geo, s2

_CHUNK = 1 << 18  # photos worked on at once: what is held for them stays in a processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Which photos belong to each cell of a level: photos begin[c]:end[c]. Runs are not empty and do not overlap."""

    begin: np.ndarray  # (C,) int64, ascending
    end: np.ndarray  # (C,) int64

    @property
    def lengths(self) -> np.ndarray:
        """Photos in each cell: (C,) int64."""
        return self.end - self.begin


def extents(ids: np.ndarray, levels: Sequence[Runs]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each level latitudes, longitudes and radii of its cells, (C,) float64 in degrees, degrees and kilometres.

    A cell's point is the mean direction of its photos, its radius the largest distance of a photo from that point.
    ids: (N,) uint64 point ids in the order the runs count in, which need not be theirs.
    """
    sums = [np.zeros((3, len(runs.begin))) for runs in levels]
    for start, points in _chunks(ids):
        for total, runs in zip(sums, levels, strict=True):
            cells, begin, end = _inside(runs, start, points.shape[1])
            # Runs are summed one by one: a difference of running sums would lose digits over millions of photos.
            total[:, cells] += _reduce(np.add, points, begin, end)
    centres = [_centres(total, ids, runs) for total, runs in zip(sums, levels, strict=True)]
    # The square of the chord to each photo: exact at the small angles where an arccosine loses its digits.
    chords = [np.zeros(len(runs.begin)) for runs in levels]
    for start, points in _chunks(ids):
        for largest, runs, centre in zip(chords, levels, centres, strict=True):
            cells, begin, end = _inside(runs, start, points.shape[1])
            if not begin.size:
                continue
            mine = _spread(begin, points.shape[1])
            squared = np.zeros(points.shape[1])
            for axis in range(3):
                difference = centre[axis, cells][mine]
                difference -= points[axis]
                difference *= difference
                squared += difference
            largest[cells] = np.maximum(largest[cells], _reduce(np.maximum, squared, begin, end))
    return [
        (*geo.lat_lng(centre.T), geo.chords_to_km(np.sqrt(largest)))
        for centre, largest in zip(centres, chords, strict=True)
    ]


def _centres(sums: np.ndarray, ids: np.ndarray, runs: Runs) -> np.ndarray:
    """Mean directions (3, C); of photos that lie opposite each other, and so have none, the first one's place."""
    length = np.linalg.norm(sums, axis=0)
    nowhere = length <= 1e-9 * runs.lengths  # what rounding leaves of a sum of zero
    return np.where(nowhere, s2.directions(ids[runs.begin]), sums / np.where(nowhere, 1, length))


def _chunks(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(ids), _CHUNK):
        yield start, s2.directions(ids[start : start + _CHUNK])


def _inside(runs: Runs, start: int, length: int) -> tuple[slice, np.ndarray, np.ndarray]:
    """Cells with photos among start:start+length, and the runs they have there, counted from `start`."""
    cells = slice(
        int(np.searchsorted(runs.end, start, side="right")),
        int(np.searchsorted(runs.begin, start + length, side="left")),
    )
    return cells, np.maximum(runs.begin[cells] - start, 0), np.minimum(runs.end[cells] - start, length)


def _spread(begin: np.ndarray, length: int) -> np.ndarray:
    """For each of `length` photos the number of the run it is in; photos between runs get a neighbour's."""
    starts = np.zeros(length, np.int64)
    starts[begin[1:]] = 1
    return np.cumsum(starts, out=starts)


def _reduce(operation: np.ufunc, values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Reduce values (..., N) over begin[c]:end[c] of its last axis: (..., C)."""
    if not begin.size:
        return np.empty((*values.shape[:-1], 0), values.dtype)
    edges = np.stack([begin, end], axis=1).ravel()
    # reduceat takes each edge to the next one; every second result is a gap between runs, and an edge may not be the
    # length of the axis, which the last `end` can be.
    edges = edges[:-1] if end[-1] == values.shape[-1] else edges
    return np.asarray(operation.reduceat(values, edges, axis=-1)[..., ::2])
