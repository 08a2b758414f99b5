"""What a search is opened from: a whole bundle, or some of its leaves."""

from dataclasses import dataclass

import numpy as np

from indexer.bundles.bundle import Bundle
from indexer.bundles.faiss_index import Index, Precision, is_exact, rows_of
from indexer.bundles.leaf_index import Beam
from indexer.vectors.scoring import ScoringModel, leaf_vectors


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """The leaves that a search compares, and their index."""

    model: ScoringModel
    leaf_index: Index  # of this model's leaf vectors
    beam: Beam | None  # None: it is chosen when it is searched from coarse to fine
    precision: Precision  # of the bundle's own leaf index: fewer bits were chosen where memory is short

    @classmethod
    def of(cls, bundle: Bundle) -> "Searched":
        """A whole bundle."""
        return cls(bundle.model, bundle.leaf_index, bundle.beam, bundle.index_facts.precision)

    @property
    def leaf_vectors(self) -> np.ndarray:
        """(leaves, leaf_width) float32: the rows of the leaf index, or made anew where it keeps them in fewer bits."""
        return rows_of(self.leaf_index) if is_exact(self.leaf_index) else leaf_vectors(self.model)
