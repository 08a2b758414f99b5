"""Where an answer may lie: regions that are given or ruled out, and priors other than the bundle's.

In: countries, a box or a GeoJSON file. Out: the leaves that are allowed, and a search of these alone. It compares them
with the same vectors, in every mode, so that it is exact where the mode is, and no allowed leaf is missed because the
lists around it are full of others. Probabilities are then those of a photo that was taken in the region.

A leaf is allowed if some place in it is: it overlaps what is given, and does not lie wholly in what is ruled out.
Countries are those of the cells' names, that of the city nearest to a cell's point, and have no other borders here.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from indexer.bundles.bundle import Bundle
from indexer.bundles.faiss_index import flat_index
from indexer.disk.manifest import file_digest
from indexer.earth.places import countries
from indexer.errors import InputError
from indexer.vectors.scoring import leaf_vectors
from search.answers.precision_cap import NamedCells
from search.retrieval.found import Hits, Search, Searched

ALLOWED_LEAVES = "allowed leaves"
JSON_SUFFIXES = (".geojson", ".json")
_BOX = re.compile(r"\s*[-+.\d]+\s*(,\s*[-+.\d]+\s*){3}")


def narrowed(bundle: Bundle, leaves: np.ndarray | None, *, prior_exponent: float | None) -> Searched:
    """What is searched of a bundle where only some leaves, (R,) int64, are allowed, or another prior counts."""
    model = bundle.model
    if prior_exponent is not None:
        model = replace(model, geocells=replace(model.geocells, prior_exponent=prior_exponent))
    if leaves is not None:
        model = model.only(leaves)
    # The beam that was chosen for all leaves, and for the bundle's prior, says nothing of these.
    return Searched(model, flat_index(leaf_vectors(model)), None, bundle.index_facts.precision)


class RestrictedSearch:
    """A search of some leaves of a bundle, which are numbered as in the bundle."""

    def __init__(self, search: Search, leaves: np.ndarray) -> None:
        """search: of a model of these leaves alone. leaves: (R,) int64, ascending."""
        self.name = search.name
        self.counts = f"visited {ALLOWED_LEAVES}" if search.counts.startswith("visited") else ALLOWED_LEAVES
        self.facts: Mapping[str, int] = {**search.facts, "allowed_leaves": len(leaves)}
        self._search, self._leaves = search, leaves

    def __call__(
        self, queries: np.ndarray, k: int, *, temperature: float | None, left_out: float | None = None
    ) -> Hits:
        """As `Search`."""
        hits = self._search(queries, k, temperature=temperature, left_out=left_out)
        posterior = hits.posterior
        if posterior is not None:
            posterior = replace(posterior, leaf=self._leaves[posterior.leaf])
        return replace(hits, leaf=np.where(hits.leaf < 0, -1, self._leaves[hits.leaf]), posterior=posterior)


def allowed_cells(cells: NamedCells, *, region: str | None, not_region: str | None) -> np.ndarray:
    """The cells in which a place may lie, leaves or those of a precision cap: (R,) int64, ascending.

    region, not_region: ISO 3166 country codes with commas between; a box as south,west,north,east in degrees, which
    passes the 180th meridian where west is above east; or the name of a GeoJSON file of polygons. None: anywhere.

    Raises:
        InputError: a region that says nothing or holds no leaf, or borders where cells are labels.
        MissingBackend: borders need the extra `export`.
    """
    allowed = np.ones(len(cells.keys), bool)
    if region is not None:
        allowed &= _in_region(cells, region, "`region`", wholly=False)
        if not allowed.any():
            raise InputError(f"`region` {region}: no cell of this bundle overlaps it. Ask for a larger one.")
    if not_region is not None:
        allowed &= ~_in_region(cells, not_region, "`not_region`", wholly=True)
        if not allowed.any():
            raise InputError(f"`not_region` {not_region}: it leaves no cell of this bundle. Rule out less.")
    return np.flatnonzero(allowed)


def region_digests(region: str | None, not_region: str | None) -> dict[str, str]:
    """Digests of the files among these."""
    named = {"region": region, "not_region": not_region}
    return {name: file_digest(Path(text)) for name, text in named.items() if text is not None and _is_file_name(text)}


def _is_file_name(text: str) -> bool:
    return Path(text).suffix.lower() in JSON_SUFFIXES


def _in_region(cells: NamedCells, text: str, option: str, *, wholly: bool) -> np.ndarray:
    """Which cells lie in a region, wholly or with some part: (C,) bool."""
    if _is_file_name(text) or _BOX.fullmatch(text):
        import indexer.earth.polygons  # noqa: F401 (it says what to install where shapely is missing)
        from search.answers.region_shapes import box, in_shape, polygons  # the extra is needed by those who use it

        shape = polygons(Path(text), option) if _is_file_name(text) else box(text, option)
        return in_shape(cells, shape, option, wholly=wholly)
    codes = [code.strip().upper() for code in text.split(",")]
    unknown = sorted(set(codes) - set(countries()))
    if unknown:
        raise InputError(
            f"{option} {text}: {unknown[0]!r} is no ISO 3166 country code. Give codes such as FR,DE, a box as "
            "south,west,north,east, or a .geojson file."
        )
    return np.isin(cells.country, codes)
