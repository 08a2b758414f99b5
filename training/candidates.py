"""Which of several sets of geocells a refit keeps, by the photos that were held out.

    start      as the refit began
    tempered   the start's vectors, with the temperatures that make the held-out photos likeliest
    fitted     fitted vectors and temperatures (`training.cell_fit`)
    weighted   these with fitted level weights and prior exponent (`indexer.vectors.level_weights`), if wanted

Each is held against the one kept so far, photo by photo, by the difference of log(1 + km). `tempered` is likelier than
`start` by the way it was made, so it is taken unless its errors are larger by more than the standard error of that
difference; the others are taken only where theirs are smaller by more than it. So a refit is no worse than its start
but for chance. Two things make the judges lenient: temperatures, of which there are few, are fitted to them, and a
level's best epoch is chosen by them. Level weights are not: each half of the photos is answered with weights that were
fitted to the other one. Vectors of held-out photos are transformed already.
"""

from collections.abc import Mapping

import numpy as np
import torch

from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km
from indexer.vectors.geocells import Geocells
from indexer.vectors.level_weights import check_enough, fit_level_weights
from indexer.vectors.prototypes import Placed
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from training.heads import best_rows

START, TEMPERED, FITTED, WEIGHTED = "start", "tempered", "fitted", "weighted"


def errors_km(geocells: Geocells, hierarchy: Hierarchy, held_out: Placed) -> np.ndarray:
    """Great-circle errors of the held-out photos' best leaves: (H,) float64."""
    model = ScoringModel(geocells, hierarchy.ancestors, hierarchy.leaves.n_photos)
    rows, queries = leaf_vectors(model), model.extended(held_out.vectors)
    best = best_rows(torch.from_numpy(queries), torch.from_numpy(rows)).numpy()
    leaves = hierarchy.leaves
    return haversine_km(held_out.lat_deg, held_out.lng_deg, leaves.lat_deg[best], leaves.lng_deg[best])


def check_enough_to_weigh(held_out: Placed) -> None:
    """Raise InputError where the halves of the held-out photos are too small for level weights."""
    for half in _halves(held_out):
        check_enough(held_out.cells[half, -1], levels=held_out.cells.shape[1])


def weighted(geocells: Geocells, hierarchy: Hierarchy, held_out: Placed) -> tuple[Geocells, np.ndarray]:
    """Geocells with level weights that are fitted to all held-out photos, and errors (H,) as the module says."""
    model = ScoringModel(geocells, hierarchy.ancestors, hierarchy.leaves.n_photos)
    errors = np.empty(len(held_out.cells))
    halves = _halves(held_out)
    for half, other in (halves, halves[::-1]):
        of_other = fit_level_weights(model, held_out.vectors[other], held_out.cells[other, -1])
        errors[half] = errors_km(of_other, hierarchy, held_out.take(half))
    return fit_level_weights(model, held_out.vectors, held_out.cells[:, -1]), errors


def choose(errors: Mapping[str, np.ndarray]) -> str:
    """The candidate to keep, of errors (H,) in km in the order of the module."""
    kept = START
    for name, km in errors.items():
        gain = np.log1p(errors[kept]) - np.log1p(km)
        mean, chance = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
        if mean >= -chance if name == TEMPERED else mean > chance:
            kept = name
    return kept


def _halves(held_out: Placed) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of every other photo, and of the rest, with as many in a leaf in each."""
    in_order = np.argsort(held_out.cells[:, -1] < 0, kind="stable")
    return np.sort(in_order[::2]), np.sort(in_order[1::2])
