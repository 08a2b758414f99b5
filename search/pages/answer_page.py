"""Where answers may lie, as the files that `query` writes: polygons for other programs, a page for people.

The page needs nothing else: pictures are inside it, and nothing is fetched. Photos are drawn anew from their pixels,
small, so that nothing of their metadata comes along.
"""

import io
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from encoder.config import ReadOptions
from encoder.photos.images import decode
from encoder.photos.reading import read_bytes
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import check_file, write_file
from indexer.disk.manifest import code_version
from indexer.earth import s2
from indexer.earth.geo import distance_text, lat_lng
from indexer.errors import BadImage, InputError
from indexer.photos.photo import Photo
from indexer.vectors.calibration import PROTOCOL_TEXTS, Calibration
from search.answers.answer import Answer
from search.answers.engine import Engine
from search.answers.precision_cap import CoarseCells, posterior_by_cell
from search.evaluation.report_table import Cell, Row, Table
from search.pages.page import render
from search.retrieval.posterior import Posterior

_EDGE_PIECES = 8  # straight lines that an edge of a cell is drawn with
_THUMBNAIL = 320  # pixels of a photo's longer edge


class MapFiles:
    """What is wanted, checked before any photo is encoded.

    Raises:
        InputError: a file is there already, is of no known format, or cannot be written; or there is no such level, or
            its cells have no borders.
        MissingBackend: polygons need the extra `export`.
    """

    def __init__(self, hierarchy: Hierarchy, *, geojson: Path | None, html: Path | None, level: int | None) -> None:
        if level is not None and geojson is None and html is None:
            raise InputError("`level` goes with `geojson` or `html`: it says whose cells the maps have.")
        self._hierarchy, self._geojson, self._html = hierarchy, geojson, html
        self._level = len(hierarchy.levels) - 1 if level is None else level
        if not 0 <= self._level < len(hierarchy.levels):
            raise InputError(
                f"There is no level {level}: levels are 0 (coarsest) to {len(hierarchy.levels) - 1} (finest)."
            )
        if geojson is not None:
            from indexer.cells.export import check_drawable, file_format  # the extra is for those who use it

            file_format(geojson)
            check_drawable(hierarchy, self._level)
        for file in (geojson, html):
            if file is not None:
                check_file(file)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to write."""
        return self._geojson is not None or self._html is not None

    def write(
        self,
        answers: Sequence[Answer],
        photos: Sequence[Photo],
        posterior: Posterior,
        *,
        engine: Engine,
        read: ReadOptions,
    ) -> None:
        """Write the files, each whole or not at all.

        answers: one for each of the photos. posterior: of those that were answered, in their order, nothing left out.
        engine: that answered. read: how photos are read that the page shows. Raises as `write_file`.
        """
        coarse = engine.coarse
        if self._geojson is not None:
            from indexer.cells.export import write_frame
            from search.answers.posterior_map import posterior_frame

            answered = [answer for answer in answers if answer.ok]
            names, gallery = [answer.photo for answer in answered], [answer.gallery for answer in answered]
            frame = posterior_frame(
                self._hierarchy, names, posterior, level=self._level, coarse=coarse, gallery=gallery
            )
            write_frame(frame, self._geojson)
        if self._html is not None:
            pictures = [thumbnail(photo, read) for photo in photos]
            page = answers_page(
                self._hierarchy, answers, pictures, posterior, level=self._level, coarse=coarse, made=made_by(engine)
            )
            write_file(self._html, page.encode())


def answers_page(
    hierarchy: Hierarchy,
    answers: Sequence[Answer],
    pictures: Sequence[bytes | None],
    posterior: Posterior | None,
    *,
    level: int,
    coarse: CoarseCells | None,
    made: Table,
) -> str:
    """The page. pictures: PNG of each photo, None where one could not be read. coarse: of a precision cap.

    posterior: None where no photo was answered. made: by what, as `made_by` tells it; all else as for `MapFiles.write`.
    """
    cells, cap = hierarchy.levels[level], "" if coarse is None else f", none finer than {coarse.km:g} km"
    query = itertools.count()  # position among the answered
    sections = []
    for answer, picture in zip(answers, pictures, strict=True):
        drawn = None
        if answer.ok and posterior is not None and cells.s2_ids is not None:  # labels have no borders
            held = posterior_by_cell(hierarchy, posterior, next(query), level=level, coarse=coarse)
            drawn = _map(answer, *held)
        sections.append((answer, picture, drawn, _tables(answer)))
    title = f"Where {len(answers):,} photos were taken" if len(answers) != 1 else "Where a photo was taken"
    named = f"level {level} ({cells.name}{cap})"
    return render(
        "answers.html",
        title=title,
        sections=sections,
        cells=named,
        made=made,
        distance_text=distance_text,
        file_name=_file_name,
    )


def made_by(engine: Engine) -> Table:
    """What answers were made by, for who has to judge them: versions, how it was searched, what was calibrated."""
    bundle, calibration = engine.bundle, engine.calibration
    given = ", ".join(f"{name} {value}" for name, value in engine.options.given.items())
    lines = [
        ("at", datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")),
        ("bundle", bundle.version),
        ("encoder", bundle.encoder or "not recorded"),
        ("cells", f"{len(bundle.hierarchy.leaves):,} finest ones in {len(bundle.hierarchy.levels)} levels"),
        ("photos of known places", f"{len(bundle.gallery):,}" if bundle.gallery is not None else "none"),
        ("options", given or "none"),
        ("calibrated", _calibrated(calibration, engine)),
        ("software", ", ".join(f"{name} {value}" for name, value in code_version().items())),
    ]
    return Table([], [Row(line) for line in lines], "Made by", words=True)


def _calibrated(calibration: Calibration | None, engine: Engine) -> str:
    if calibration is None:
        return "no: probabilities are a ranking, not chances"
    rough = ", which is few: radii are rough" if calibration.approximate else ""
    held = f"with {calibration.queries:,} photos whose places are known, {PROTOCOL_TEXTS[engine.protocol]} each{rough}"
    return held if engine.calibrated else f"{held}; not for a search with these options"


def _file_name(photo: str) -> str:
    """What people call a photo: its path is theirs."""
    return photo.replace("\\", "/").rstrip("/").rpartition("/")[2] or photo


def _tables(answer: Answer) -> list[Table]:
    path, places, alike = [], [], []
    for step in answer.path:
        near = Cell(f"{step.city}, {step.country}", "words")
        path.append(Row([f"{step.level}", f"{step.probability:.3f}", step.key, near, distance_text(step.radius_km)]))
    for rank, place in enumerate(answer.top, 1):
        at = f"{place.lat_deg:.4f}, {place.lng_deg:.4f}"
        places.append(Row([f"{rank}", f"{place.probability:.3f}", place.key, at]))
    for each in answer.gallery:
        at = f"{each.lat_deg:.4f}, {each.lng_deg:.4f}"
        alike.append(Row([each.photo, f"{each.weight:.0%}", f"{each.cosine:.3f}", at]))
    tables = [
        Table(["level", "probability", "cell", "near", "radius"], path),
        Table(["place", "probability", "cell", "at"], places),
        Table(["photo of a known place", "weight", "cosine", "taken at"], alike),
    ]
    return [table for table in tables if table.rows]


def _map(answer: Answer, ids: np.ndarray, shares: np.ndarray) -> bytes:
    """PNG of what cells hold of a posterior. ids: (C,) uint64, S2 cells. shares: (C,)."""
    from search.pages.pictures import posterior_map  # matplotlib takes a second

    outlines = np.stack(lat_lng(s2.outlines(ids, _EDGE_PIECES)), axis=-1)
    radii = [km for km in (answer.radius_50_km, answer.radius_90_km) if km is not None]
    assert answer.lat_deg is not None
    assert answer.lng_deg is not None
    photos = [(each.lat_deg, each.lng_deg, each.weight) for each in answer.gallery]
    return posterior_map(outlines, shares, (answer.lat_deg, answer.lng_deg), radii, photos=photos)


def thumbnail(photo: Photo, read: ReadOptions) -> bytes | None:
    """PNG of a photo to look at; None where it cannot be read."""
    try:
        data = read_bytes(photo.data, schemes=read.schemes)
        small = decode(data, shorter_edge=_THUMBNAIL, max_pixels=read.max_pixels)
    except BadImage:
        return None
    return small_picture(small)


def small_picture(photo: Image.Image) -> bytes:
    """PNG of an upright RGB photo, small: its pixels alone, and nothing that an image carries beside them."""
    small = photo.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    clean = Image.new("RGB", small.size)
    clean.paste(small)
    content = io.BytesIO()
    clean.save(content, "PNG")
    return content.getvalue()
