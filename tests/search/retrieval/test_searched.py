"""What a search is opened from: the leaf vectors that the scores are made of, whatever the index keeps."""

import numpy as np

from indexer.bundles.bundle import Bundle
from indexer.vectors.scoring import leaf_vectors
from search.retrieval.searched import Searched


def test_leaf_vectors_are_whole_though_the_index_keeps_fewer_bits(bundle: Bundle) -> None:
    searched = Searched.of(bundle)
    np.testing.assert_array_equal(searched.leaf_vectors, leaf_vectors(bundle.model))
    assert (searched.beam, searched.precision) == (bundle.beam, bundle.index_facts.precision)
