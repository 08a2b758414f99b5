"""Answers as one page to look at: for each photo the picture, what it was told, and a map of its posterior.

The page needs nothing else: pictures are inside it, and nothing is fetched. Names of photos and places are data, and
escaped. Photos are drawn anew from their pixels, small, so that nothing of their metadata comes along.
"""

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import write_file
from indexer.earth import s2
from indexer.earth.geo import lat_lng
from search.answers.precision_cap import CoarseCells, posterior_by_cell
from search.pages.page import data_uri, page, table, table_row
from search.pages.pictures import posterior_map
from search.retrieval.posterior import Posterior

_EDGE_PIECES = 8  # straight lines that an edge of a cell is drawn with
_THUMBNAIL = (320, 320)


def write_answer_page(
    out: Path,
    hierarchy: Hierarchy,
    answers: Sequence[Mapping[str, Any]],
    pictures: Sequence[Image.Image | None],
    posterior: Posterior,
    *,
    level: int,
    coarse: CoarseCells | None,
) -> None:
    """Write the page `out`, whole or not at all.

    answers: of `explain`, one for each photo. pictures: the photos, None where one could not be read. posterior: of the
    answered ones, in their order. level: whose cells the maps show. coarse: of a precision cap.

    Raises:
        InputError: `out` exists or cannot be written.
        WorkError: the disk is full.
    """
    title = f"Where {len(answers):,} photos were taken" if len(answers) != 1 else "Where a photo was taken"
    sections, query = [f"<h1>{title}</h1>"], 0
    for answer, picture in zip(answers, pictures, strict=True):
        if answer["lat"] is None:
            sections.append(f"<h2>{escape(answer['photo'])}</h2>\n<p>{escape(answer['reason'])}</p>")
            continue
        sections.append(_answer(hierarchy, answer, picture, posterior, query, level=level, coarse=coarse))
        query += 1
    write_file(out, page("GeoSURGE: answers", sections).encode())


def _answer(
    hierarchy: Hierarchy,
    answer: Mapping[str, Any],
    picture: Image.Image | None,
    posterior: Posterior,
    query: int,
    *,
    level: int,
    coarse: CoarseCells | None,
) -> str:
    kind = "calibrated" if answer["calibrated"] else "not calibrated: read it as a ranking, not as a chance"
    lines = [
        f"<strong>{answer['lat']:.5f}, {answer['lng']:.5f}</strong>, near {escape(answer['city'])}, "
        f"{escape(answer['country'])}",
        f"probability {answer['probability']:.3f} ({kind}), cell {escape(answer['key'])}",
    ]
    radii = []
    if answer["radius_90_km"] is not None:
        radii = [answer["radius_50_km"], answer["radius_90_km"]]
        lines.append(
            f"Half of such photos were taken within {radii[0]:,.0f} km (line), nine in ten within {radii[1]:,.0f} km "
            "(dashes)."
        )
    if answer["abstain"] is not None:
        lines.append(f"<strong>Abstain</strong>: {escape(answer['abstain'])}.")
    rows = [
        table_row(
            f"{step['level']}",
            [
                f"{step['probability']:.3f}",
                step["key"],
                f"{step['city']}, {step['country']}",
                f"{step['radius_km']:,.0f}",
            ],
        )
        for step in answer["path"]
    ]
    heads = ("level", "probability within it", "cell", "near", "radius, km")
    lists = ""
    if answer["top"]:
        places = [
            table_row(f"{rank}", [f"{each['probability']:.3f}", each["key"], f"{each['lat']:.4f}, {each['lng']:.4f}"])
            for rank, each in enumerate(answer["top"], 1)
        ]
        lists += "\n" + table(("place", "probability", "cell", "at"), places)
    if answer["references"]:
        alike = [
            table_row(each["photo"], [f"{each['cosine']:.3f}", f"{each['lat']:.4f}, {each['lng']:.4f}"])
            for each in answer["references"]
        ]
        lists += "\n" + table(("like the cell's photo", "cosine", "taken at"), alike)
    seen = "" if picture is None else f'<img alt="the photo" src="{data_uri(_thumbnail(picture))}">\n'
    paragraphs = "\n".join(f"<p>{line}</p>" for line in lines)
    return (
        f"<h2>{escape(answer['photo'])}</h2>\n{seen}{paragraphs}\n"
        f"{_map(hierarchy, answer, posterior, query, radii, level=level, coarse=coarse)}\n{table(heads, rows)}{lists}"
    )


def _map(
    hierarchy: Hierarchy,
    answer: Mapping[str, Any],
    posterior: Posterior,
    query: int,
    radii: Sequence[float],
    *,
    level: int,
    coarse: CoarseCells | None,
) -> str:
    cells = hierarchy.levels[level]
    if cells.s2_ids is None:
        return '<p class="quiet">The cells are labels, which have no borders to draw.</p>'
    ids, share = posterior_by_cell(hierarchy, posterior, query, level=level, coarse=coarse)
    outlines = np.stack(lat_lng(s2.outlines(ids, _EDGE_PIECES)), axis=-1)
    drawn = posterior_map(outlines, share, (answer["lat"], answer["lng"]), radii)
    cap = "" if coarse is None else f", none finer than {coarse.km:g} km"
    said = f"level {level} ({cells.name}{cap})"
    return (
        f'<p><img alt="a map of the world, and one of the surroundings of the answer" src="{data_uri(drawn)}"></p>\n'
        f'<p class="quiet">Cells of {escape(said)}, by their share of the probability; grey dots are cities.</p>'
    )


def _thumbnail(picture: Image.Image) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail(_THUMBNAIL)
    clean = Image.new("RGB", small.size)
    clean.paste(small)  # pixels alone: nothing that an image carries beside them
    content = io.BytesIO()
    clean.save(content, "PNG")
    return content.getvalue()
