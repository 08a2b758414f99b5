"""Claims: whether a photo may have been taken where it is said to have been.

In: vectors of photos, a claimed place, a bundle that was calibrated. Out: how much of the posterior lies around the
place, the rank of its cell, and a p-value by split conformal prediction (Vovk, Gammerman and Shafer, Algorithmic
Learning in a Random World, 2005).

The nonconformity of a place is how much of the density of a photo's places lies where it is denser than there
(`search.answers.place_density`). Of held-out photos it is known for their true places, by the calibration; the p-value
is the share of these, the claim among them, whose place fits as badly or worse. So at most one true claim in twenty has
a p-value of 5 % or less, whatever is wrong with the density. A claim with a radius, or a name, has the p-value of the
densest place that is found in it.

A check searches as calibrations do: all leaves, and photos of the best leaves' lists. Under a precision cap a claim is
judged as the whole cell of the cap that holds it, or as all such cells around it, and is told what these hold: what
depended on where in a cell it lies would tell, by a dozen claims, the place that the cap hides.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from encoder.config import DeviceName
from indexer.bundles.bundle import Bundle
from indexer.earth import s2
from indexer.earth.areas import Area, CellArea, Disc, cells_around
from indexer.earth.geo import EARTH_RADIUS_KM, FARTHEST_KM, distance_text, unit_vectors
from indexer.earth.places import city_named
from indexer.errors import InputError
from indexer.jobs.job_folder import OK
from indexer.vectors.calibration import PROTOCOL_TEXTS, Protocol
from indexer.vectors.features import FeatureBatch
from search.answers.answer_maker import Found
from search.answers.engine import Engine
from search.answers.gallery_photos import CELLS, IN_LISTS
from search.answers.options import DEFAULT_OPTIONS, GalleryName, SearchOptions
from search.answers.place_density import PlaceDensity
from search.answers.precision_cap import CoarseCells, NamedCells
from search.answers.radii import LeafDiscs
from search.retrieval.posterior import Posterior

CITY_KM = 25.0  # that a name speaks of, the paper's distance for a city
DOUBTFUL = 0.05  # a p-value up to this is called a reason to doubt
_TOGETHER, _RANKED_TOGETHER = 1024, 64  # queries: as calibrations take them, and with the posterior over all leaves
_SHORT = {"lat_deg": "lat", "lng_deg": "lng"}


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a photo is said to have been taken.

    Raises InputError for a point that is not on Earth, or a distance that is none.
    """

    lat_deg: float
    lng_deg: float
    # How far from there it may have been; None: at that very place, or in a city within CITY_KM of its point.
    within_km: float | None = None
    name: str | None = None  # the city that was named, as `Lyon, FR`

    def __post_init__(self) -> None:
        for name, value, bound in (("latitude", self.lat_deg, 90), ("longitude", self.lng_deg, 180)):
            if not abs(value) <= bound:
                raise InputError(f"`claim`: its {name} is {value:g}; it must be a number from {-bound} to {bound}.")
        if self.within_km is not None and not 0 < self.within_km <= FARTHEST_KM:
            raise InputError(f"`within_km` must be a distance above 0 and up to 20,015 km, not {self.within_km:g}.")


def claim_of(place: str | tuple[float, float], *, within_km: float | None = None) -> Claim:
    """The claim that a photo is from some place: `48.8584,2.2945`, the same as two numbers, or the name of a city.

    Raises InputError where it is no such place, or as `Claim`.
    """
    parts = place.split(",") if isinstance(place, str) else place
    try:
        lat, lng = (float(part) for part in parts)
    except (TypeError, ValueError):
        if not isinstance(place, str):
            raise InputError(f"`claim` must be latitude and longitude, or the name of a city, not {place!r}.") from None
        city = city_named(place)
        return Claim(city.lat_deg, city.lng_deg, within_km, f"{city.name}, {city.country}")
    return Claim(lat, lng, within_km)


@dataclass(frozen=True, slots=True)
class CheckedClaim:
    """What is thought of one photo's claim. Of a photo that could not be read all after the claim is None."""

    row: int  # number of the photo among those that were given, from 0
    photo: str
    status: str  # 'ok' or a short reason code
    reason: str  # a sentence where status is not 'ok', else empty
    lat_deg: float  # as claimed
    lng_deg: float
    name: str | None  # of the city that was named
    within_km: float | None  # None: the very place; or, under a precision cap, the cell that holds it
    p_value: float | None = None  # of true claims no more than this share have one as small
    approximate: bool | None = None  # whether that is rough, because few photos were held out
    held_out: int | None = None  # photos whose true places it is held against
    mass: float | None = None  # what the density holds within `mass_km`; under a precision cap, what its cells hold
    mass_km: float | None = None  # `within_km`, else half the width of the median finest cell; None: cells of the cap
    key: str | None = None  # the finest cell that holds the place, or that of the cap; None: there is none
    rank: int | None = None  # of that cell by its probability, the best one 1; None where there is none
    cells: int | None = None  # of how many
    evidence: str | None = None  # what decided: cells, or cells and photos of known places
    class_map: bool | None = None  # whether its class map was seen; None of an encoder that takes none
    text: str | None = None  # what may and may not be concluded, in one sentence

    @property
    def ok(self) -> bool:
        """Whether the photo could be read."""
        return self.status == OK

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON: what `python -m search check --json` prints of a photo, nulls included."""
        return {_SHORT.get(name, name): value for name, value in asdict(self).items()}


class ClaimCheck:
    """Checks claims by one bundle, as it was calibrated.

    Args:
        bundle: one that was calibrated.
        device: where the search runs.
        options: of these `gallery` off, for cells alone, and `precision_cap` count; a region, another prior or another
            score is an error.
        protocol: how queries are made of photos.

    Raises:
        InputError: such options, a bundle that was not calibrated, or one that was before claims could be checked.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: DeviceName = "cpu",
        options: SearchOptions = DEFAULT_OPTIONS,
        protocol: Protocol = "one",
    ) -> None:
        if options.constrained or options.score != "softmax":
            raise InputError(
                "Claims are checked on the whole Earth, by the bundle's own prior and by probabilities: leave out "
                "`region`, `not_region`, `prior_exponent` and `score`."
            )
        gallery: GalleryName = "off" if options.gallery == "off" else "lists"
        own = SearchOptions(mode="exact", gallery=gallery, precision_cap=options.precision_cap, radii=False)
        calibration = own.calibration(bundle, protocol)
        if calibration is None or not own.tells_radii(bundle):
            photos = ""
            if calibration is not None:  # it holds no longer, for the gallery has changed
                photos = ", with its gallery as it is now"
            elif protocol in bundle.calibrations:
                photos = ", with photos of a gallery"
            raise InputError(
                f"The bundle {bundle.version[:8]} was not calibrated for {PROTOCOL_TEXTS[protocol]}{photos}. "
                "Claims are held against photos of a calibration. Calibrate it: python -m search calibrate ..."
            )
        calibration.p_value(0.0)  # raises where there is nothing to hold claims against
        self._engine = Engine(bundle, device=device, options=own, protocol=protocol)
        self._calibration, self._discs = calibration, LeafDiscs.of(bundle.hierarchy.leaves)

    def refuse(self, claim: Claim) -> None:
        """Raises InputError where a claim has a radius below the precision cap, or holds too many of its cells."""
        self._areas(claim)

    def p_values(self, queries: np.ndarray, claims: Sequence[Claim]) -> np.ndarray:
        """The p-value of one claim for each query (Q, D) float32, as `Engine.prepared` makes them: (Q,) float64.

        Raises InputError as `refuse`.
        """
        values = np.empty(len(queries))
        areas = {claim: self._areas(claim) for claim in set(claims)}
        for start in range(0, len(queries), _TOGETHER):
            block = slice(start, start + _TOGETHER)
            density = self._density(self._engine.find(queries[block]))
            own = [areas[claim] for claim in claims[block]]
            largest = np.array([density.largest_in(area, number) for number, area in enumerate(own)])
            values[block] = [self._calibration.p_value(each) for each in density.nonconformity(largest).tolist()]
        return values

    def __call__(self, batch: FeatureBatch, claim: Claim) -> list[CheckedClaim]:
        """What is thought of a claim for each photo of a batch, in order. Raises InputError as `refuse`."""
        claim = replace(claim, within_km=self._within_km(claim))
        photos = zip(range(len(batch)), batch.photo, batch.status, batch.reason, strict=True)
        known = (claim.lat_deg, claim.lng_deg, claim.name, claim.within_km)
        maps = batch.class_map or [None] * len(batch)
        result = [CheckedClaim(*photo, *known, class_map=seen) for photo, seen in zip(photos, maps, strict=True)]
        rows = np.flatnonzero(batch.ok)
        queries = self._engine.prepared(batch.embedding[rows])
        values = self.p_values(queries, [claim] * len(rows))
        for start in range(0, len(rows), _RANKED_TOGETHER):
            block = slice(start, start + _RANKED_TOGETHER)
            for row, value, each in zip(
                rows[block].tolist(), values[block].tolist(), self._around(queries[block], claim), strict=True
            ):
                result[row] = replace(
                    result[row],
                    p_value=value,
                    approximate=self._calibration.approximate,
                    held_out=len(self._calibration.nonconformities),
                    text=self._text(claim, value, seen=maps[row]),
                    **each,
                )
        return result

    def _around(self, queries: np.ndarray, claim: Claim) -> list[dict[str, Any]]:
        """What each query has around a claim, by the names of `CheckedClaim`."""
        found = self._engine.find(queries, left_out=0.0)  # a leaf of any rank is listed
        assert found.posterior is not None, "it is always wanted"
        coarse = self._engine.coarse
        named: NamedCells = self._engine.bundle.hierarchy.leaves
        posterior, mass_km = found.posterior, None
        if coarse is None:
            mass_km = self._calibration.mass_km if claim.within_km is None else claim.within_km
            middle = unit_vectors(np.array([claim.lat_deg]), np.array([claim.lng_deg]))
            held = self._density(found).within(np.repeat(middle, len(queries), axis=0), np.full(len(queries), mass_km))
            cell = self._leaf(claim)
        else:
            named, posterior = coarse, coarse.posterior(posterior)
            assert coarse.s2_ids is not None, "a cap has S2 cells"
            inside = np.isin(coarse.s2_ids, self._cap_cells(coarse, claim))
            held = np.bincount(
                posterior.query, np.where(inside[posterior.leaf], posterior.probability, 0), minlength=len(queries)
            )
            cell = int(s2.locate(coarse.s2_ids, _point_id(claim))[0])
        decided = np.full(len(queries), CELLS)
        if found.evidence is not None:
            decided = np.where(found.evidence.there, IN_LISTS, CELLS)
        return [
            {
                "mass": float(min(held[query], 1.0)),
                "mass_km": mass_km,
                "key": None if cell < 0 else str(named.keys[cell]),
                "rank": None if cell < 0 else _rank(posterior, query, cell),
                "cells": len(named),
                "evidence": str(decided[query]),
            }
            for query in range(len(queries))
        ]

    def _density(self, found: Found) -> PlaceDensity:
        """Where the places of queries may be, by bells."""
        if found.evidence is not None:
            return found.evidence.density
        assert found.posterior is not None, "it is always wanted"
        return PlaceDensity.of_cells(found.posterior, self._discs)

    def _leaf(self, claim: Claim) -> int:
        """The leaf that holds a claimed place, -1 for none, or where leaves have no borders."""
        hierarchy = self._engine.bundle.hierarchy
        if not hierarchy.is_s2:
            return -1
        return int(hierarchy.locate(np.array([claim.lat_deg]), np.array([claim.lng_deg]))[0, -1])

    def _within_km(self, claim: Claim) -> float | None:
        """How far a claim reaches."""
        if claim.within_km is not None or claim.name is None:
            return claim.within_km
        return CITY_KM if self._engine.coarse is None else max(CITY_KM, self._engine.coarse.km)

    def _areas(self, claim: Claim) -> list[Area]:
        """Where the photo was taken if a claim is true."""
        if self._engine.coarse is not None:
            return list(CellArea.of(self._cap_cells(self._engine.coarse, claim)))
        return [Disc.around(claim.lat_deg, claim.lng_deg, self._within_km(claim) or 0.0)]

    def _cap_cells(self, coarse: CoarseCells, claim: Claim) -> np.ndarray:
        """The cells of a precision cap that a claim is judged as: (C,) uint64."""
        own, km = coarse.holding(_point_id(claim)), self._within_km(claim)
        if km is None:
            return own
        if km < coarse.km:
            raise InputError(
                f"`within_km`: {km:g} km is less than the precision cap of {coarse.km:g} km, and would tell what that "
                "hides. Give at least as much, or leave it out: then the cell of the cap that holds the place is "
                "judged."
            )
        (area,) = CellArea.of(own)  # all that is so near to any place of the cell, else one place would tell more
        around = cells_around(area.middle, km + area.reach_rad * EARTH_RADIUS_KM, s2_level=coarse.s2_level)
        return np.unique(np.concatenate([own, coarse.holding(around)]))

    def _text(self, claim: Claim, p_value: float, *, seen: bool | None) -> str:
        """What may and may not be concluded. seen: whether the photo's class map was."""
        place = claim.name or f"{claim.lat_deg:.4f}, {claim.lng_deg:.4f}"
        if claim.within_km is not None:
            place = f"within {distance_text(claim.within_km)} of {place}"
            place += "" if self._engine.coarse is None else ", in whole cells of the precision cap"
        else:
            place = f"at {place}" if self._engine.coarse is None else f"in the precision cap's cell around {place}"
        share = f"{math.ceil(1000 * p_value - 1e-9) / 10:g} %"
        rough = " (roughly, for few photos were held out)" if self._calibration.approximate else ""
        without = ""
        if seen is False:
            without = " It has no class map: that holds only if the photos of the calibration had none either."
        if p_value <= DOUBTFUL:
            return (
                f"There is reason to doubt that it was taken {place}: of photos like those of the calibration no more "
                f"than {share}{rough} fit the place they are really from so badly; but such photos exist, so the "
                "claim is not shown to be false." + without
            )
        return (
            f"Nothing here speaks against its being taken {place}: up to {share}{rough} of photos like those of the "
            "calibration fit the place they are really from no better; but it may fit other places as well, so the "
            "claim is not shown to be true." + without
        )


def _point_id(claim: Claim) -> np.ndarray:
    """The S2 id of a claimed place: (1,) uint64."""
    return s2.point_ids(np.array([claim.lat_deg]), np.array([claim.lng_deg]))


def _rank(posterior: Posterior, query: int, cell: int) -> int:
    """How many cells are likelier than one, and 1."""
    own = slice(*posterior.begins[query : query + 2])
    probability = posterior.probability[own]
    return 1 + int((probability > probability[posterior.leaf[own] == cell].sum()).sum())
