"""The data model of GeoSURGE and its arithmetic: S2 cells, partitions, hierarchies, geocells, bundles, scores.

numpy, DuckDB, FAISS and s2sphere; never torch. Everything on disk is read and written here.
"""

from typing import TYPE_CHECKING

from indexer.doors import lazy

if TYPE_CHECKING:
    from indexer.bundles.build_config import BuildConfig as BuildConfig
    from indexer.bundles.builds import build as build
    from indexer.bundles.bundle import Bundle as Bundle
    from indexer.bundles.bundle import open_bundle as open_bundle
    from indexer.bundles.registry import Registry as Registry
    from indexer.cells.ceiling import ceilings as ceilings
    from indexer.cells.division import partition as partition
    from indexer.cells.division import update as update
    from indexer.cells.export import export_cells as export_cells
    from indexer.cells.hierarchy import Hierarchy as Hierarchy
    from indexer.cells.rule import PartitionRule as PartitionRule
    from indexer.cells.schemes import LabelScheme as LabelScheme
    from indexer.cells.schemes import S2Scheme as S2Scheme
    from indexer.cells.table import load_hierarchy as load_hierarchy
    from indexer.errors import ArtifactError as ArtifactError
    from indexer.errors import BundleMismatch as BundleMismatch
    from indexer.errors import GeoError as GeoError
    from indexer.errors import InputError as InputError
    from indexer.errors import MissingBackend as MissingBackend
    from indexer.errors import WorkError as WorkError
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "ArtifactError": "indexer.errors",
            "BuildConfig": "indexer.bundles.build_config",
            "Bundle": "indexer.bundles.bundle",
            "BundleMismatch": "indexer.errors",
            "GeoError": "indexer.errors",
            "Hierarchy": "indexer.cells.hierarchy",
            "InputError": "indexer.errors",
            "LabelScheme": "indexer.cells.schemes",
            "MissingBackend": "indexer.errors",
            "PartitionRule": "indexer.cells.rule",
            "Registry": "indexer.bundles.registry",
            "S2Scheme": "indexer.cells.schemes",
            "WorkError": "indexer.errors",
            "build": "indexer.bundles.builds",
            "ceilings": "indexer.cells.ceiling",
            "export_cells": "indexer.cells.export",
            "load_hierarchy": "indexer.cells.table",
            "open_bundle": "indexer.bundles.bundle",
            "partition": "indexer.cells.division",
            "update": "indexer.cells.division",
        },
    )
