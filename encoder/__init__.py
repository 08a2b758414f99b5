"""Images in, vectors out: decoding, crops, the vision model, class maps, weights on disk. Knows nothing of cells.

from encoder import EmbedConfig, embed
summary = embed("photos.parquet", "hf:openai/clip-vit-large-patch14-336", "F", config=EmbedConfig(crops="ten"))
"""

import lazy_loader

# The names are those of the stub beside this file, each loaded when somebody asks for it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
