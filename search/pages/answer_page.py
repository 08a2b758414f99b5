"""Answers as one page to look at: for each photo the picture, what was answered, and a map of its posterior.

The page needs nothing else: pictures are inside it, and nothing is fetched. Photos are drawn anew from their pixels,
small, so that nothing of their metadata comes along.
"""

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import write_file
from indexer.earth import s2
from indexer.earth.geo import lat_lng
from search.answers.answer import Answer
from search.answers.precision_cap import CoarseCells, posterior_by_cell
from search.evaluation.report_table import Row, Table
from search.pages.page import render
from search.pages.pictures import posterior_map
from search.retrieval.posterior import Posterior

_EDGE_PIECES = 8  # straight lines that an edge of a cell is drawn with
_THUMBNAIL = (320, 320)


def write_answer_page(
    out: Path,
    hierarchy: Hierarchy,
    answers: Sequence[Answer],
    pictures: Sequence[Image.Image | None],
    posterior: Posterior,
    *,
    level: int,
    coarse: CoarseCells | None,
) -> None:
    """Write the page `out`, whole or not at all.

    answers: one for each photo. pictures: the photos, None where one could not be read. posterior: of the
    answered ones, in their order. level: whose cells the maps show. coarse: of a precision cap.

    Raises:
        InputError: `out` exists or cannot be written.
        WorkError: the disk is full.
    """
    cells, cap = hierarchy.levels[level], "" if coarse is None else f", none finer than {coarse.km:g} km"
    query = itertools.count()  # position among the answered
    sections = [
        (answer, None, None, [])
        if answer.lat_deg is None
        else (
            answer,
            None if picture is None else _thumbnail(picture),
            _map(hierarchy, answer, posterior, next(query), level=level, coarse=coarse),
            _tables(answer),
        )
        for answer, picture in zip(answers, pictures, strict=True)
    ]
    title = f"Where {len(answers):,} photos were taken" if len(answers) != 1 else "Where a photo was taken"
    page = render("answers.html", title=title, sections=sections, cells=f"level {level} ({cells.name}{cap})")
    write_file(out, page.encode())


def _tables(answer: Answer) -> list[Table]:
    path, places, alike = [], [], []
    for step in answer.path:
        near = f"{step.city}, {step.country}"
        path.append(Row([f"{step.level}", f"{step.probability:.3f}", step.key, near, f"{step.radius_km:,.0f}"]))
    for rank, place in enumerate(answer.top, 1):
        at = f"{place.lat_deg:.4f}, {place.lng_deg:.4f}"
        places.append(Row([f"{rank}", f"{place.probability:.3f}", place.key, at]))
    for each in answer.gallery:
        at = f"{each.lat_deg:.4f}, {each.lng_deg:.4f}"
        alike.append(Row([each.photo, f"{each.weight:.0%}", f"{each.cosine:.3f}", at]))
    tables = [
        Table(["level", "probability within it", "cell", "near", "radius, km"], path),
        Table(["place", "probability", "cell", "at"], places),
        Table(["photo of a known place", "weight", "cosine", "taken at"], alike),
    ]
    return [table for table in tables if table.rows]


def _map(
    hierarchy: Hierarchy,
    answer: Answer,
    posterior: Posterior,
    query: int,
    *,
    level: int,
    coarse: CoarseCells | None,
) -> bytes | None:
    """None where the cells are labels."""
    if hierarchy.levels[level].s2_ids is None:
        return None
    ids, share = posterior_by_cell(hierarchy, posterior, query, level=level, coarse=coarse)
    outlines = np.stack(lat_lng(s2.outlines(ids, _EDGE_PIECES)), axis=-1)
    radii = [km for km in (answer.radius_50_km, answer.radius_90_km) if km is not None]
    assert answer.lat_deg is not None
    assert answer.lng_deg is not None
    return posterior_map(outlines, share, (answer.lat_deg, answer.lng_deg), radii)


def _thumbnail(picture: Image.Image) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail(_THUMBNAIL)
    clean = Image.new("RGB", small.size)
    clean.paste(small)  # pixels alone: nothing that an image carries beside them
    content = io.BytesIO()
    clean.save(content, "PNG")
    return content.getvalue()
