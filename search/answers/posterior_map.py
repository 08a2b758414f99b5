"""The posterior of answers on a map: S2 polygons of any level with their shares, and the photos that decided as points.

In: posteriors over leaves, none of them left out, and photos of the gallery with their weights. Out: a frame for
GeoJSON or GeoParquet, one row for each photo that was asked for and cell with a share (`kind` cell), or photo that
decided (`kind` photo). The shares of a photo add up to 1; they say where the place is if it lies in a cell at all.
"""

from collections.abc import Sequence

import geopandas
import numpy as np
import pandas
import pyarrow as pa
import shapely

from indexer.cells.export import CRS, check_drawable
from indexer.cells.hierarchy import Hierarchy
from indexer.earth import s2
from indexer.earth.places import nearest_cities
from indexer.earth.polygons import cell_polygons
from indexer.errors import InputError
from search.answers.answer import GalleryPhoto
from search.answers.precision_cap import CoarseCells, posterior_by_cell
from search.retrieval.posterior import Posterior

CELL, PHOTO = "cell", "photo"
_INTEGERS = {"level": pandas.ArrowDtype(pa.int64()), "s2_id": pandas.ArrowDtype(pa.uint64())}  # null of photos


def posterior_frame(
    hierarchy: Hierarchy,
    photos: Sequence[str],
    posterior: Posterior,
    *,
    level: int,
    coarse: CoarseCells | None = None,
    gallery: Sequence[Sequence[GalleryPhoto]] | None = None,
) -> geopandas.GeoDataFrame:
    """The posterior of each photo over the cells of a level, the likeliest first; then the photos that decided.

    photos: names, in the order of the posterior's queries. level: 0 is the coarsest. coarse: of a precision cap, which
    finer cells are drawn as. gallery: of each photo those that decided, the heaviest first; None: there are none.

    Raises:
        InputError: no such level, cells that are labels, or no photo.
    """
    check_drawable(hierarchy, level)
    if not len(photos):
        raise InputError("No photo was answered, so there is nothing to draw.")
    parts = []
    decided = [()] * len(photos) if gallery is None else gallery
    for query, (photo, own) in enumerate(zip(photos, decided, strict=True)):
        ids, share = posterior_by_cell(hierarchy, posterior, query, level=level, coarse=coarse)
        order = np.argsort(-share, kind="stable")
        cells = {"photo": photo, "kind": CELL, "level": level, "s2_id": ids[order], "share": share[order]}
        parts += [pandas.DataFrame(cells).astype(_INTEGERS), _photo_rows(photo, own)]
    frame = pandas.concat([part for part in parts if len(part)], ignore_index=True)
    is_cell = (frame["kind"] == CELL).to_numpy()
    drawn, which = np.unique(frame["s2_id"][is_cell].to_numpy(np.uint64), return_inverse=True)
    geometry, lat, lng = np.empty(len(frame), object), *np.empty((2, len(frame)))
    geometry[is_cell] = cell_polygons(drawn)[which]
    lat[is_cell], lng[is_cell] = (deg[which] for deg in s2.centres(drawn))
    places = [(each.lat_deg, each.lng_deg) for own in decided for each in own]
    lat[~is_cell], lng[~is_cell] = np.array(places, np.float64).reshape(-1, 2).T
    geometry[~is_cell] = shapely.points(lng[~is_cell], lat[~is_cell])
    frame["key"] = None
    frame.loc[is_cell, "key"] = np.array(s2.tokens(drawn), object)[which]
    frame["city"], frame["country"] = nearest_cities(lat, lng)
    for name, kind in (("gallery_photo", object), ("cosine", np.float64), ("weight", np.float64)):
        if name not in frame:  # nobody's answer has any
            frame[name] = pandas.Series(None, frame.index, kind)
    return geopandas.GeoDataFrame(frame, geometry=geometry, crs=CRS)


def _photo_rows(photo: str, decided: Sequence[GalleryPhoto]) -> pandas.DataFrame:
    """A row for each photo that decided."""
    columns = {
        "photo": photo,
        "kind": PHOTO,
        "gallery_photo": [each.photo for each in decided],
        "cosine": [each.cosine for each in decided],
        "weight": [each.weight for each in decided],
    }
    return pandas.DataFrame(columns)
