"""What tests of regions are compared with."""

import numpy as np
import shapely

from indexer.cells.hierarchy import Hierarchy
from indexer.earth.polygons import cell_polygons


def overlapping(hierarchy: Hierarchy, shape: shapely.Geometry) -> np.ndarray:
    assert hierarchy.leaves.s2_ids is not None
    return np.flatnonzero([shape.intersects(cell) for cell in cell_polygons(hierarchy.leaves.s2_ids)])
