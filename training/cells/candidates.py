"""Which of several sets of geocells a refit keeps, by photos that were held out.

    start      as the refit began
    tempered   the start's vectors, with the temperatures that make the held-out photos likeliest
    fitted     fitted vectors and temperatures (`training.cells.cell_fit`)
    weighted   these with fitted level weights and prior exponent (`indexer.vectors.level_weights`), if wanted

Each is held against the one kept so far, photo by photo: it is taken where the mean of the differences of log(1 + km)
is above 1.645 times its standard error, which a difference of 0 passes one time in twenty. So a refit is no worse than
its start but for chance, and what cannot be told from the start is the start. What makes the judges lenient: a level's
temperature and its number of epochs are chosen by them, a few numbers for all of them together. Level weights are not:
each half of the photos is answered with weights that were fitted to the other one. And photos of one scene count as if
they were strangers. Photos may come in folds, each with geocells that were made without it. Vectors of held-out photos
are transformed already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km
from indexer.vectors.geocells import Geocells
from indexer.vectors.level_weights import Unseen, check_enough, common_weights
from indexer.vectors.prototypes import Placed
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from training.cells.cell_fit import Fold, LevelFit
from training.cells.heads import best_rows

START, TEMPERED, FITTED, WEIGHTED = "start", "tempered", "fitted", "weighted"
_BEYOND_CHANCE = 1.645  # standard errors: 5 % of the normal distribution lie above

Weights = tuple[np.ndarray, float]  # of levels (L,), and the prior exponent


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What the held-out photos say."""

    kept: str
    errors_km: Mapping[str, np.ndarray]  # of each candidate: (H,), all folds together
    weights: Weights | None  # if wanted


def judge(
    folds: Sequence[Fold], fitted: Sequence[Geocells], levels: Sequence[LevelFit], hierarchy: Hierarchy, *, weigh: bool
) -> Choice:
    """Answer held-out photos with every candidate. fitted: of each fold; levels: what came of the fit."""
    held_out, start = [fold.held_out for fold in folds], [fold.start for fold in folds]
    temperatures = np.array([level.start_temperature for level in levels])
    tempered = [replace(geocells, temperatures=temperatures) for geocells in start]
    candidates = {START: start, TEMPERED: tempered, FITTED: fitted}
    errors = {name: errors_km(geocells, hierarchy, held_out) for name, geocells in candidates.items()}
    weights = None
    if weigh:
        weights, errors[WEIGHTED] = weighted(fitted, hierarchy, held_out)
    return Choice(choose(errors), errors, weights)


def errors_km(geocells: Sequence[Geocells], hierarchy: Hierarchy, held_out: Sequence[Placed]) -> np.ndarray:
    """Great-circle errors of the best leaves of each fold's held-out photos: (H,) float64, all folds together."""
    errors = []
    for each, photos in zip(geocells, held_out, strict=True):
        model = ScoringModel(each, hierarchy.ancestors, hierarchy.leaves.n_photos)
        rows, queries = leaf_vectors(model), model.extended(photos.vectors)
        best = best_rows(torch.from_numpy(queries), torch.from_numpy(rows)).numpy()
        points = hierarchy.leaves.lat_deg[best], hierarchy.leaves.lng_deg[best]
        errors.append(haversine_km(photos.lat_deg, photos.lng_deg, *points))
    return np.concatenate(errors)


def check_enough_to_weigh(held_out: Sequence[Placed]) -> None:
    """Raise InputError where the halves of the held-out photos are too small for level weights."""
    for half in _halves(held_out):
        leaf = [photos.cells[rows, -1] for photos, rows in zip(held_out, half, strict=True)]
        check_enough(np.concatenate(leaf), levels=held_out[0].cells.shape[1])


def weighted(
    geocells: Sequence[Geocells], hierarchy: Hierarchy, held_out: Sequence[Placed]
) -> tuple[Weights, np.ndarray]:
    """Level weights that are fitted to all held-out photos, and errors (H,) as the module says."""
    models = [ScoringModel(each, hierarchy.ancestors, hierarchy.leaves.n_photos) for each in geocells]

    def fit(rows: Sequence[np.ndarray]) -> Weights:
        parts = zip(models, held_out, rows, strict=True)
        return common_weights([Unseen(of, photos.vectors[rows], photos.cells[rows, -1]) for of, photos, rows in parts])

    errors = [np.empty(len(photos.cells)) for photos in held_out]
    halves = _halves(held_out)
    for half, other in (halves, halves[::-1]):
        of_other = fit(other)
        for each, photos, rows, km in zip(geocells, held_out, half, errors, strict=True):
            km[rows] = errors_km([with_weights(each, of_other)], hierarchy, [photos.take(rows)])
    return fit([np.arange(len(photos.cells)) for photos in held_out]), np.concatenate(errors)


def with_weights(geocells: Geocells, weights: Weights) -> Geocells:
    """The same vectors and temperatures, weighted."""
    level_weights, prior_exponent = weights
    return replace(geocells, level_weights=level_weights, prior_exponent=prior_exponent)


def choose(errors: Mapping[str, np.ndarray]) -> str:
    """The candidate to keep, of errors (H,) in km in the order of the module."""
    kept = START
    for name, km in errors.items():
        gain = np.log1p(errors[kept]) - np.log1p(km)
        if gain.mean() > _BEYOND_CHANCE * gain.std(ddof=1) / np.sqrt(len(gain)):
            kept = name
    return kept


def _halves(held_out: Sequence[Placed]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each fold the numbers of every other photo, and of the rest, with as many in a leaf in each."""
    in_order = [np.argsort(photos.cells[:, -1] < 0, kind="stable") for photos in held_out]
    return [np.sort(rows[::2]) for rows in in_order], [np.sort(rows[1::2]) for rows in in_order]
