"""The most typical photos of each finest cell among those a training run has learned from."""

import pyarrow as pa

from encoder.checkpoint import LoadedEncoder
from encoder.embedding import embed_photos
from encoder.encode import MapSource, PhotoEncoder
from encoder.options import FeedOptions
from encoder.segmentation_cache import SegmentationCache
from indexer.cells.hierarchy import Hierarchy
from indexer.jobs.progress import track_line
from indexer.jobs.stages import Line
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placement
from training.config import DataConfig
from training.photos import source_of
from training.references import typical_photos


def typical_training_photos(
    encoder: LoadedEncoder,
    geocells: Geocells,
    hierarchy: Hierarchy,
    config: DataConfig,
    *,
    k: int,
    cache: SegmentationCache | None = None,
) -> pa.Table:
    """The k most typical photos of each leaf (`training.references`), of those a run has learned from.

    Their vectors are made anew with the encoder it came to.

    They are the vectors that `encoder embed` would make, so that these references are those that `refit` would choose.
    """
    encode = PhotoEncoder(encoder, maps=MapSource(cache))
    source, chosen = source_of(config, "train")
    placement = Placement(hierarchy, chosen=chosen)
    line = Line()
    embedded = embed_photos(encode, source, feed=FeedOptions(workers=config.workers), line=line)
    with line, track_line(line, "choosing references", source.n_photos):
        return typical_photos(map(placement.place, embedded), geocells, k=k)
