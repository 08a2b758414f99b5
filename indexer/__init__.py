"""The data model of GeoSURGE and its arithmetic: S2 cells, partitions, hierarchies, geocells, bundles, scores.

numpy, DuckDB, FAISS and s2sphere; never torch. Everything on disk is read and written here.
"""

import lazy_loader

# The names are those of the stub beside this file, each loaded when somebody asks for it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
