"""The posterior of answers on a map: S2 polygons of any level, each with the share of the posterior it holds.

In: posteriors over leaves, none of them left out. Out: a frame for GeoJSON or GeoParquet, one row for each photo and
cell with a share; the shares of a photo add up to 1. They say where the place is if it lies in a cell at all.
"""

from collections.abc import Sequence

import geopandas
import numpy as np
import pandas

from indexer.cells.export import CRS, check_drawable
from indexer.cells.hierarchy import Hierarchy
from indexer.earth import s2
from indexer.earth.places import nearest_cities
from indexer.earth.polygons import cell_polygons
from indexer.errors import InputError
from search.answers.precision_cap import CoarseCells, posterior_by_cell
from search.retrieval.posterior import Posterior


def posterior_frame(
    hierarchy: Hierarchy,
    photos: Sequence[str],
    posterior: Posterior,
    *,
    level: int,
    coarse: CoarseCells | None = None,
) -> geopandas.GeoDataFrame:
    """The posterior of each photo over the cells of a level, the likeliest first.

    photos: names, in the order of the posterior's queries. level: 0 is the coarsest. coarse: of a precision cap, which
    finer cells are drawn as.

    Raises:
        InputError: no such level, cells that are labels, or no photo.
    """
    check_drawable(hierarchy, level)
    if not len(photos):
        raise InputError("No photo was answered, so there is nothing to draw.")
    parts = []
    for query, photo in enumerate(photos):
        ids, share = posterior_by_cell(hierarchy, posterior, query, level=level, coarse=coarse)
        order = np.argsort(-share, kind="stable")
        parts.append(pandas.DataFrame({"photo": photo, "level": level, "s2_id": ids[order], "share": share[order]}))
    frame = pandas.concat(parts, ignore_index=True)
    drawn, which = np.unique(frame["s2_id"].to_numpy(), return_inverse=True)
    city, country = nearest_cities(*s2.centres(drawn))
    for name, column in (("key", np.array(s2.tokens(drawn))), ("city", city), ("country", country)):
        frame[name] = column[which]
    return geopandas.GeoDataFrame(frame, geometry=cell_polygons(drawn)[which], crs=CRS)
