"""Images in, vectors out: decoding, crops, the CLIP vision model, class maps, weights on disk. Knows nothing of cells.

from encoder import EmbedConfig, embed
summary = embed("photos.parquet", "hf:openai/clip-vit-large-patch14-336", "F", config=EmbedConfig(crops="ten"))
"""

from typing import TYPE_CHECKING

from indexer.doors import lazy

if TYPE_CHECKING:
    from encoder.checkpoint import LoadedEncoder as LoadedEncoder
    from encoder.checkpoint import load_encoder as load_encoder
    from encoder.config import FusionConfig as FusionConfig
    from encoder.config import Preprocessing as Preprocessing
    from encoder.embedding import EmbedSummary as EmbedSummary
    from encoder.embedding import embed as embed
    from encoder.encode import PhotoEncoder as PhotoEncoder
    from encoder.options import EmbedConfig as EmbedConfig
    from encoder.options import EncoderOptions as EncoderOptions
    from encoder.options import FeedOptions as FeedOptions
    from encoder.options import ReadOptions as ReadOptions
    from encoder.options import SegmentConfig as SegmentConfig
    from encoder.pickled_weights import convert as convert
    from encoder.segmenting import SegmentSummary as SegmentSummary
    from encoder.segmenting import segment as segment
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "EmbedConfig": "encoder.options",
            "EmbedSummary": "encoder.embedding",
            "EncoderOptions": "encoder.options",
            "FeedOptions": "encoder.options",
            "FusionConfig": "encoder.config",
            "LoadedEncoder": "encoder.checkpoint",
            "PhotoEncoder": "encoder.encode",
            "Preprocessing": "encoder.config",
            "ReadOptions": "encoder.options",
            "SegmentConfig": "encoder.options",
            "SegmentSummary": "encoder.segmenting",
            "convert": "encoder.pickled_weights",
            "embed": "encoder.embedding",
            "load_encoder": "encoder.checkpoint",
            "segment": "encoder.segmenting",
        },
    )
