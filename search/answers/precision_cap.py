"""A precision cap: answers name cells no smaller than so many kilometres, and nothing finer comes with them.

In: the leaves of a bundle and the cap. Out: the cells that answers name, S2 cells of the finest level whose cells are
on average at least so wide, or leaves that are larger than these. Points are centres of such cells, places are the
cities nearest to these centres, and a cell's probability is that of all leaves in it; radii and maps are made of these
probabilities alone. Photos that decided, which were taken at a point, do not come with answers.
"""

from dataclasses import replace

import numpy as np

from indexer.cells.hierarchy import Hierarchy, Level, s2_ids_of
from indexer.earth import s2
from indexer.earth.places import nearest_cities
from indexer.errors import InputError
from search.retrieval.found import Hits
from search.retrieval.posterior import Posterior, posterior_of_shares


class CoarseCells:
    """The cells that answers name under a cap. InputError where cells are labels, or none can be as large."""

    def __init__(self, leaves: Level, km: float) -> None:
        if leaves.s2_ids is None:
            raise InputError(f"A precision cap needs S2 cells; those of this bundle are labels ({leaves.label}).")
        self.km, self.s2_level = km, s2.level_of_width(km)
        ids, first, self.of_leaf = np.unique(self.coarsened(leaves.s2_ids), return_index=True, return_inverse=True)
        self.s2_ids: np.ndarray | None = ids
        self.first_leaf = first  # (C,) int64, the first of the leaves in each cell
        self.keys = np.array(s2.tokens(ids))
        self.lat_deg, self.lng_deg = s2.centres(ids)
        self.city, self.country = nearest_cities(self.lat_deg, self.lng_deg)

    def __len__(self) -> int:
        return len(self.keys)

    def coarsened(self, ids: np.ndarray) -> np.ndarray:
        """Cells (N,) uint64, those that are finer than the cap allows by the cell that holds them."""
        result = ids.copy()
        finer = np.flatnonzero(s2.levels(ids) > self.s2_level)
        result[finer] = s2.parents(ids[finer], self.s2_level)
        return result

    def holding(self, ids: np.ndarray) -> np.ndarray:
        """The cells that hold those of S2's level 30, or of the cap's own: (N,) uint64, also where no leaf lies."""
        assert self.s2_ids is not None, "a cap has S2 cells"
        cell = s2.locate(self.s2_ids, ids)
        return np.where(cell >= 0, self.s2_ids[cell], s2.parents(ids, self.s2_level))

    def is_finer(self, level: Level, cell: int) -> bool:
        """Whether a cell of a level is finer than the cap allows."""
        return level.s2_ids is None or bool(s2.levels(level.s2_ids[cell : cell + 1])[0] > self.s2_level)

    def posterior(self, posterior: Posterior) -> Posterior:
        """One over leaves as one over these cells, by what all leaves in them hold."""
        own = self.of_leaf[posterior.leaf]
        summed = posterior_of_shares(posterior, posterior.query, own, posterior.probability)
        return replace(summed, counted=np.minimum(summed.counted, len(self)))

    def hits(self, posterior: Posterior, k: int, *, mode: np.ndarray, inside: np.ndarray) -> Hits:
        """The k likeliest cells of each query, by what all leaves in them hold; -1 where fewer hold anything.

        inside: (Q,) float64, what probabilities add up to. A score is the logarithm of what the cell holds: that of a
        leaf would tell which leaf it is. mode: (Q,) str, how the leaves were found.
        """
        answer, share = self.posterior(posterior).likeliest(k)
        return Hits(answer, np.log(share), inside[:, None] * share, mode)


# Cells that answers name: a hierarchy's leaves, or those of a cap. Both have keys, s2_ids (None where cells are labels)
# and the latitude, longitude, city and country of each cell's point.
NamedCells = Level | CoarseCells


def posterior_by_cell(
    hierarchy: Hierarchy, posterior: Posterior, query: int, *, level: int, coarse: CoarseCells | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What S2 cells of a level hold of one query's posterior: ids (C,) uint64, ascending, and shares (C,) float64.

    coarse: of a cap, whose cells take the place of finer ones.
    """
    own = slice(*posterior.begins[query : query + 2])
    ids = s2_ids_of(hierarchy.levels[level])[hierarchy.ancestors[posterior.leaf[own], level]]
    cells, which = np.unique(ids if coarse is None else coarse.coarsened(ids), return_inverse=True)
    return cells, np.bincount(which, posterior.probability[own], minlength=len(cells))
