"""The data model of GeoSURGE and its arithmetic: S2 cells, partitions, hierarchies, geocells, bundles, scores.

numpy, DuckDB, FAISS and s2sphere; never torch. Everything on disk is read and written here.
"""
