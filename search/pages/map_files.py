"""The files that `query` writes its maps to: polygons for other programs, a page for people."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from encoder.config import ReadOptions
from encoder.images import BadImage, decode
from encoder.reading import read_bytes
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import check_file
from indexer.errors import InputError
from indexer.photos.photo import Photo
from search.answers.answer import Answer
from search.answers.precision_cap import CoarseCells
from search.retrieval.posterior import Posterior

_EDGE = 320  # of the photos on a page, in pixels


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
        coarse: CoarseCells | None,
        read: ReadOptions,
    ) -> None:
        """Write the files, each whole or not at all.

        answers: one for each of the photos. posterior: of those that were answered, nothing left out.
        coarse: of a precision cap. read: how photos are read that a page shows.

        Raises:
            InputError: a file cannot be written.
            WorkError: the disk is full.
        """
        if self._geojson is not None:
            from indexer.cells.export import write_frame
            from search.answers.posterior_map import posterior_frame

            names = [answer.photo for answer in answers if answer.ok]
            frame = posterior_frame(self._hierarchy, names, posterior, level=self._level, coarse=coarse)
            write_frame(frame, self._geojson)
        if self._html is not None:
            from search.pages.answer_page import write_answer_page

            pictures = [_picture(photo, read) for photo in photos]
            write_answer_page(
                self._html, self._hierarchy, answers, pictures, posterior, level=self._level, coarse=coarse
            )


def _picture(photo: Photo, read: ReadOptions) -> Image.Image | None:
    """A photo to look at; None where it cannot be read."""
    try:
        return decode(read_bytes(photo.data, schemes=read.schemes), shorter_edge=_EDGE, max_pixels=read.max_pixels)
    except BadImage:
        return None
