"""Whitening: the linear transform that photo vectors pass before they meet geocell vectors, and what it is fitted from.

    v' = unit(A (v - mu)),   A = S^(-1/2),   S = (1 - g) S_w + g * trace(S_w) / D * I

mu is the mean of all photos' vectors and S_w their covariance within cells. In: batches of vectors with the finest cell
of each. Out: a `Transform`. Nothing is learned by descent. This is the whitening step of linear discriminant analysis
(Fisher 1936; Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 4.3.2), with the covariance
shrunk towards a multiple of the identity (Friedman, Regularized Discriminant Analysis, JASA 84, 1989).

Why: vectors of image encoders share one common direction and vary most along directions that say little of the place.
There plain mean directions of cells are all alike; after whitening within cells, what differs between cells is left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from indexer.earth import geo
from indexer.errors import ArtifactError, InputError
from indexer.vectors.cell_sums import CellSums, check_cells, check_vectors, unit_rows

# Both ends are needed. Measured on synthetic anisotropic vectors (96 and 384 dims, 1,200 to 20,000 photos in 116 to 362
# cells, noise of 5 to 30 %) the best is at or below 0.01; at 0.05 the median error can be three times the best, at 0.1
# ten times. 0 itself is within 9 % of 0.001, and fails where photos are fewer than dimensions. On isotropic noise with
# 150 photos of 100 dims 1 is best and 0.01 is useless; 800 real photos did best at 0.5.
CANDIDATES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0)

# Measured on 36 draws of such vectors, against the candidate that is best for 3,000 other photos: the median error is
# at most 2.3 times the best with 2 folds, 1.07 with 3 and with 5, 1.03 with 10; time grows with their number.
FOLDS = 5

_BLOCK_ROWS = 8192  # of intermediate arrays: 50 MB in float64 at 768 dims
_ANSWER_ROWS = 1024  # held-out photos answered at a time: 53 MB of similarities against 13,000 cells


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """v' = unit(A (v - mu)). On disk: one safetensors file."""

    mean: np.ndarray  # (D,) float32, mu
    matrix: np.ndarray  # (D, D) float32, A, symmetric
    shrinkage: float  # g, from 0 to 1

    def __post_init__(self) -> None:
        width = self.mean.shape[0] if self.mean.ndim == 1 else 0
        if not width or self.matrix.shape != (width, width):
            raise ArtifactError(
                f"A transform of mean {self.mean.shape} and matrix {self.matrix.shape}: (D,) and (D, D) are needed."
            )
        if not self.mean.dtype == self.matrix.dtype == np.float32:
            raise ArtifactError(f"A transform of {self.mean.dtype} and {self.matrix.dtype}: float32 is needed.")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.matrix).all()):
            raise ArtifactError("A transform with values that are not finite. Restore it from a copy, or fit it again.")
        if not (np.array_equal(self.matrix, self.matrix.T) and 0 <= self.shrinkage <= 1):
            raise ArtifactError(
                f"A transform whose matrix is not symmetric, or whose shrinkage ({self.shrinkage}) is not from 0 to 1: "
                "it is damaged. Restore it from a copy, or fit it again."
            )

    @property
    def width(self) -> int:
        """D, the number of dimensions of a vector, before and after."""
        return len(self.mean)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Transform vectors (N, D) float32 of photos: (N, D) float32, unit rows. Worked in blocks of bounded memory.

        The vectors are taken as they are, not normalised first: give vectors of the kind that the moments were of.

        A vector equal to the mean holds no evidence and comes out as zeros: every cell then has the same similarity
        and, before a prior, the same probability, so the first cells are as good an answer as any.

        Several crops of a photo: apply this to each crop's unit vector and average the results (not renormalised; the
        norm is at most 1, which is the average of the crops' logits). Where only the crops' mean m is at hand, this
        gives unit(A (m - mu)): it ranks cells by the average over crops without their normalisation, and as its norm
        is 1 it is as sure as one crop would be. Raises what `check_vectors` does.
        """
        check_vectors(vectors, width=self.width)
        result = np.empty(vectors.shape, np.float32)
        for block in _blocks(len(vectors)):
            result[block] = unit_rows((vectors[block].astype(np.float32, copy=False) - self.mean) @ self.matrix)
        return result

    def save(self, path: Path) -> None:
        """Write a safetensors file into a folder that is being written, which makes it whole or absent."""
        save_file({"mean": self.mean, "matrix": self.matrix, "shrinkage": np.array([self.shrinkage])}, path)

    @classmethod
    def load(cls, path: Path) -> "Transform":
        """Read a file that `save` wrote; an ArtifactError where there is none, or it is damaged or no transform."""
        try:
            tensors = load_file(path)
            return cls(tensors["mean"], tensors["matrix"], float(tensors["shrinkage"].item()))
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        except (SafetensorError, KeyError, OSError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read as a transform ({error}). Restore it from a copy.") from None


@dataclass(slots=True, eq=False)
class Moments:
    """What whitening needs to know of any number of photos; `add` takes them in batches, in any order.

    Memory is (C + D) * D doubles: 85 MB for 13,000 cells of 768 dims. Speed on one core at 768 dims: 50,000 photos/s,
    nearly all of it the product of the vectors with themselves in float64 (float32 would be twice as fast and lose the
    small eigenvalues, which weigh most after inversion).
    """

    n_rows: int  # all rows, with a cell or without
    total: np.ndarray  # (D,) float64, the sum of all rows
    cells: CellSums  # of the rows that have a cell
    second: np.ndarray  # (D, D) float64, the sum of x x^T over the rows that have a cell

    @classmethod
    def zeros(cls, n_cells: int, width: int) -> "Moments":
        """Moments of no photo yet, for the cells of the finest level."""
        return cls(0, np.zeros(width), CellSums.zeros(n_cells, width), np.zeros((width, width)))

    @property
    def width(self) -> int:
        """D, the number of dimensions of a vector."""
        return len(self.total)

    @property
    def mean(self) -> np.ndarray:
        """The mean of all rows: (D,) float64."""
        if not self.n_rows:
            raise InputError("No photo has a vector: nothing to centre. Check the status column of the features.")
        return self.total / self.n_rows

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the covariance within cells: rows that have a cell, less the cells they are in."""
        return int(self.cells.counts.sum() - np.count_nonzero(self.cells.counts))

    def add(self, vectors: np.ndarray, cells: np.ndarray) -> None:
        """Add photos.

        vectors: (N, D) float. cells: (N,) int64, the cell of the finest level, -1 for none.

        Raises:
            InputError: a row that is zero or not finite, another width, a number of no cell. Nothing is added then.
        """
        check_vectors(vectors, width=self.width)
        check_cells(cells, rows=len(vectors), n_cells=len(self.cells.counts))
        self.n_rows += len(vectors)
        for block in _blocks(len(vectors)):
            wide = vectors[block].astype(np.float64)
            self.total += wide.sum(axis=0)
            self.cells.add(wide, cells[block])
            inside = wide[cells[block] >= 0]
            self.second += inside.T @ inside

    def within_cells(self) -> np.ndarray:
        """S_w, the covariance of photos about the mean of their cell: (D, D) float64, symmetric."""
        if self.freedom <= 0:
            raise InputError(
                f"No cell holds two of the {self.n_rows} photos: nothing to whiten with. "
                "Give more photos, coarser cells (a larger `tau_max`), or take vectors as they are (`transform` none)."
            )
        used = self.cells.counts > 0
        sums = self.cells.sums[used]
        scatter = self.second - sums.T @ (sums / self.cells.counts[used, None])
        return (scatter + scatter.T) / (2 * self.freedom)


def whiten(moments: Moments, shrinkage: float) -> Transform:
    """The transform under which photos scatter alike in all directions about the mean of their cell.

    shrinkage: g, from 0 (the covariance as found) to 1 (centring alone; the matrix is a multiple of the identity).

    Raises:
        InputError: no cell holds two different photos; or the shrunk covariance is singular, as it is at shrinkage 0
            with fewer photos than dimensions. It is refused rather than floored: a floor is a shrinkage nobody chose.
    """
    axes, scales = _axes_and_scales(moments)
    matrix = (axes * scales(shrinkage)) @ axes.T
    return Transform(moments.mean.astype(np.float32), ((matrix + matrix.T) / 2).astype(np.float32), shrinkage)


def _axes_and_scales(moments: Moments) -> tuple[np.ndarray, Callable[[float], np.ndarray]]:
    """The axes of S, (D, D) float64 with one in each column, and what gives their scales in A, (D,) float64, for any g.

    The identity has the axes of every matrix, so one decomposition serves every shrinkage.
    """
    values, axes = np.linalg.eigh(moments.within_cells())
    # S_w is a difference of sums of the size of `second`; numpy's rank tolerance at that size.
    rounding = moments.width * float(np.finfo(np.float64).eps * np.trace(moments.second)) / moments.freedom
    if values[-1] <= rounding:
        raise InputError(
            "No two photos of a cell have different vectors: nothing to whiten with. "
            "Remove copies of photos, or take vectors as they are (`transform` none)."
        )
    values = np.maximum(values, 0.0)

    def scales(shrinkage: float) -> np.ndarray:
        if not 0 <= shrinkage <= 1:  # written so that NaN is refused too
            raise InputError(f"A shrinkage of {shrinkage}: it must be a number from 0 to 1.")
        shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
        if shrunk[0] <= rounding:
            raise InputError(
                f"At shrinkage {shrinkage:g} the covariance of {len(values)} dimensions within cells is singular "
                f"({moments.freedom} photos beyond one per cell). Give a shrinkage above 0, such as 0.01, or more "
                "photos."
            )
        return np.asarray(1 / np.sqrt(shrunk))

    return axes, scales


@dataclass(frozen=True, slots=True)
class ShrinkageChoice:
    """The shrinkage that places unseen photos best, and how each candidate did."""

    shrinkage: float
    scores: Mapping[float, geo.Accuracy]  # by candidate, ascending, over all photos of the sample, each held out once


def choose_shrinkage(
    vectors: np.ndarray,
    cells: np.ndarray,
    *,
    lat_deg: np.ndarray,
    lng_deg: np.ndarray,
    cell_lat_deg: np.ndarray,
    cell_lng_deg: np.ndarray,
    candidates: Sequence[float] = CANDIDATES,
    folds: int = FOLDS,
    seed: int,
) -> ShrinkageChoice:
    """Choose the shrinkage by cross-validation: the smallest median error in km; of equals the largest shrinkage.

    For each fold the transform and the mean directions of cells are fitted on the other folds; a held-out photo is
    answered with the point of the cell whose mean direction is nearest.

    vectors: (N, D) float32, a sample: few photos of many cells estimate neither means nor covariance, so sample cells
    and keep their photos. cells: (N,) int64, finest cell or -1. lat_deg, lng_deg: (N,) float64. cell_lat_deg,
    cell_lng_deg: (C,) float64, the cells' points. seed: of the division into folds.

    Cost: about 2 N D (folds * D + candidates * C') operations for the C' cells of the sample; 14 s on one core for
    20,000 photos of 768 dims in 2,000 cells. Memory: three copies of the sample.

    What it cannot see: copies and sequences of one scene fall into several folds and are answered too well; and a
    sample smaller than the whole favours a larger shrinkage than the whole needs.

    Raises:
        InputError: vectors, cells or coordinates that cannot be right, fewer than two cells, too few photos for the
            folds, or a candidate that `whiten` refuses.
    """
    check_vectors(vectors, width=vectors.shape[-1])
    check_cells(cells, rows=len(vectors), n_cells=len(cell_lat_deg))
    if not lat_deg.shape == lng_deg.shape == cells.shape or cell_lat_deg.shape != cell_lng_deg.shape:
        raise InputError(f"{len(cells)} photos, {len(lat_deg)} latitudes and {len(lng_deg)} longitudes: one of each.")
    places = {"photos of the sample": (lat_deg, lng_deg), "points of the cells": (cell_lat_deg, cell_lng_deg)}
    for source, (lat, lng) in places.items():
        geo.check_coordinates(lat, lng, rows=np.arange(len(lat)), source=source)
    if not candidates or not 2 <= folds <= len(vectors):
        raise InputError(f"{len(candidates)} candidates, {folds} folds, {len(vectors)} photos: 1, 2 and 2 at least.")
    present, slot = _cells_of_sample(cells)
    fold = np.random.default_rng(seed).permutation(len(vectors)) % folds
    shrinkages = sorted(set(candidates))
    km = np.empty((len(shrinkages), len(vectors)))
    for number in range(folds):
        held = fold == number
        answers = present[_answers(vectors[~held], slot[~held], vectors[held], shrinkages, n_cells=len(present))]
        km[:, held] = geo.haversine_km(lat_deg[held], lng_deg[held], cell_lat_deg[answers], cell_lng_deg[answers])
    scores = {shrinkage: geo.accuracy(row) for shrinkage, row in zip(shrinkages, km, strict=True)}
    return ShrinkageChoice(min(scores, key=lambda shrinkage: (scores[shrinkage].median_km, -shrinkage)), scores)


def _cells_of_sample(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells that photos of the sample lie in, and for each photo which of these, or -1: (C',) and (N,) int64.

    Arrays per cell then have the size of the sample, not of the world.
    """
    present, slot = np.unique(cells, return_inverse=True)
    slot = slot - int(present[0] == -1)
    present = present[present >= 0]
    if len(present) < 2:
        raise InputError(
            f"The sample's photos lie in {len(present)} cell: there is nothing to tell apart, so no shrinkage is "
            "better than another. Give photos of several cells, finer cells, or a shrinkage."
        )
    return present, slot


def _answers(
    known: np.ndarray, cells: np.ndarray, unseen: np.ndarray, shrinkages: Sequence[float], *, n_cells: int
) -> np.ndarray:
    """The cell nearest to each unseen photo under each shrinkage, learnt from known photos: (G, U) int64."""
    moments = Moments.zeros(n_cells, known.shape[1])
    moments.add(known, cells)
    axes, scales_at = _axes_and_scales(moments)
    # The last turn of A = axes diag(scales) axes^T changes no norm and no similarity: it is left out.
    axes, mean = axes.astype(np.float32), moments.mean.astype(np.float32)
    known, unseen = (known - mean) @ axes, (unseen - mean) @ axes
    result = np.empty((len(shrinkages), len(unseen)), np.int64)
    for row, shrinkage in enumerate(shrinkages):
        scales = scales_at(shrinkage).astype(np.float32)
        sums = CellSums.zeros(n_cells, known.shape[1])
        sums.add(unit_rows(known * scales), cells)
        filled = np.flatnonzero(sums.counts)  # a cell whose photos are all held out has no direction to compare with
        directions = unit_rows(sums.sums[filled])
        for block in _blocks(len(unseen), _ANSWER_ROWS):
            # The length of an unseen vector does not change which cell is nearest.
            result[row, block] = filled[((unseen[block] * scales) @ directions.T).argmax(axis=1)]
    return result


def _blocks(rows: int, size: int = _BLOCK_ROWS) -> Iterator[slice]:
    return (slice(begin, begin + size) for begin in range(0, rows, size))
