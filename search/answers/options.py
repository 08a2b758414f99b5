"""Ways to search: their names, and the options that choose among them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from indexer.choices import check_choices
from indexer.errors import InputError

if TYPE_CHECKING:
    from indexer.bundles.bundle import Bundle
    from indexer.vectors.calibration import Calibration
    from indexer.vectors.calibration import Protocol as QueryProtocol

ModeName = Literal["auto", "exact", "beam", "adaptive"]
ScoreName = Literal["softmax", "cosine-clamped", "cosine-affine"]
PointName = Literal["cell", "medoid", "mass", "reference"]
WITHIN_KM = 25.0


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a bundle is searched.

    Args:
        mode: exact compares all leaves; beam those below the best cells of one level; adaptive widens a beam until a
            bound proves the answer or `max_probes` is reached, and says which. auto: exact, or beam where the bundle
            was built for that. Beams run on the CPU, also with `device` cuda.
        probes: cells whose leaves a beam visits, and an adaptive search visits first; by default what was measured at
            the build to find the best leaf of 0.999 of photos.
        max_probes: cells after which an adaptive search gives up, where they hold as many leaves as are wanted; by
            default 4 times those it visits first.
        score: the product of softmax probabilities, or for comparison that of raw cosines, clamped at 0 or mapped by
            (1 + c) / 2, by brute force.
        point: where an answer points: at the point of the best cell, the mean of its photos' places; at its medoid, the
            place of the photo that is nearest to all others; at the point of the cell around which, within `within_km`,
            most of the probability lies; or at the best cell's reference photo that is most similar.
        within_km: distance that `point` mass looks at.
        references: most similar reference photos of the best cell to tell with each answer.
        region: search only there: country codes such as FR,DE, a box as south,west,north,east, or a .geojson file. With
            a minus in front: --region=-35,16,-22,33.
        not_region: do not search there; as for `region`.
        prior_exponent: how much the number of photos in a cell counts, in place of what the bundle says; 0: nothing.
        precision_cap: tell no place finer than so many kilometres; a bundle's own cap can be made coarser, not finer.
        radii: whether answers also say within how many km half and nine in ten of such photos were taken, the entropy,
            and whether to abstain. By default they do where the bundle was calibrated for such photos; true is an error
            where it was not.
    """

    mode: ModeName = "auto"
    probes: int | None = None
    max_probes: int | None = None
    score: ScoreName = "softmax"
    point: PointName = "cell"
    within_km: float = WITHIN_KM
    references: int = 0
    region: str | None = None
    not_region: str | None = None
    prior_exponent: float | None = None
    precision_cap: float | None = None
    radii: bool | None = None

    def __post_init__(self) -> None:
        """Raises InputError where fields do not go together, or have no such value."""
        check_choices(self)
        for name, value in (("probes", self.probes), ("max_probes", self.max_probes)):
            if value is not None and value < 1:
                raise InputError(f"`{name}` must be at least 1, not {value}.")
        if self.probes is not None and self.mode not in ("beam", "adaptive"):
            raise InputError("`probes` goes with `mode` beam or adaptive: other searches visit no lists.")
        if self.max_probes is not None and self.mode != "adaptive":
            raise InputError("`max_probes` goes with `mode` adaptive.")
        if self.max_probes is not None and self.probes is not None and self.max_probes < self.probes:
            raise InputError(f"`max_probes` ({self.max_probes}) must not be below `probes` ({self.probes}).")
        if self.score != "softmax" and self.mode not in ("auto", "exact"):
            raise InputError(f"`score` {self.score} compares all cells of all levels: leave `mode` out.")
        if self.score != "softmax" and (self.point != "cell" or self.radii):
            raise InputError(f"`score` {self.score}: products of cosines are no probabilities to take areas from.")
        if self.score != "softmax" and self.precision_cap is not None:
            raise InputError(f"`score` {self.score} is for comparison: a precision cap needs probabilities.")
        if self.score != "softmax" and self.constrained:
            raise InputError(f"`score` {self.score} is for comparison, with no region and no other prior.")
        if self.constrained and self.radii:
            raise InputError("`radii`: they are calibrated for the whole Earth and the bundle's own prior only.")
        if self.precision_cap is not None and not 0 < self.precision_cap < float("inf"):
            raise InputError(f"`precision_cap` must be a distance above 0 km, not {self.precision_cap}.")
        if self.references < 0:
            raise InputError(f"`references` must be at least 0, not {self.references}.")
        if self.prior_exponent is not None and not abs(self.prior_exponent) < float("inf"):
            raise InputError(f"`prior_exponent` must be a finite number, not {self.prior_exponent}.")
        if not 0 < self.within_km < float("inf"):
            raise InputError(f"`within_km` must be a distance above 0, not {self.within_km}.")
        if self.within_km != WITHIN_KM and self.point != "mass":
            raise InputError("`within_km` goes with `point` mass.")

    def check(self, bundle: "Bundle", *, protocol: "QueryProtocol") -> None:
        """Refuse what a bundle cannot give. protocol: how queries are made of photos.

        Raises:
            InputError: its precision cap forbids it, it was not calibrated for it, or it has no reference photos.
        """
        cap_km = self.cap_km(bundle)
        if cap_km is not None and self.prior_exponent is not None:
            raise InputError(
                "`prior_exponent`: what another prior changes tells cells apart that the precision cap of "
                f"{cap_km:g} km hides. Leave it out."
            )
        if cap_km is not None and (self.references or self.point in ("medoid", "reference")):
            raise InputError(
                "`references` and `point` medoid and reference tell where photos were taken to the metre, which the "
                f"precision cap of {cap_km:g} km forbids. Leave them out."
            )
        if self.wants_references and bundle.references is None:
            raise InputError(
                f"The bundle {bundle.version[:8]} has no reference photos. Keep some when its cells are fitted "
                "(python -m training refit --references 5, or `references` of fit), and build it from that."
            )
        if not self.radii:
            return
        from indexer.vectors.calibration import PROTOCOL_TEXTS

        if protocol not in bundle.calibrations:
            raise InputError(
                f"`radii`: the bundle {bundle.version[:8]} was not calibrated for {PROTOCOL_TEXTS[protocol]}. "
                "Calibrate it with vectors of such photos: python -m search calibrate ..."
            )
        if not self.searches_as_calibrated(bundle):
            raise InputError(
                "`radii`: they were calibrated for no fewer `probes` than the bundle was built with, and for no "
                "precision cap. Leave them out, or what they do not hold for."
            )
        if self.masses(bundle.calibrations[protocol]) is None:
            raise InputError(
                f"`radii`: they were not calibrated around `point` {self.point} with this `within_km`. Leave that at "
                f"{WITHIN_KM:g}, or calibrate the bundle for such points: python -m search calibrate ..."
            )

    def cap_km(self, bundle: "Bundle") -> float | None:
        """The precision cap of answers: the coarser of the bundle's own and the one given here; None: there is none."""
        return max((cap for cap in (bundle.precision_cap_km, self.precision_cap) if cap is not None), default=None)

    def searches_as_calibrated(self, bundle: "Bundle") -> bool:
        """Whether a bundle's calibrations hold for answers: places of leaves, searched as the bundle is."""
        probes = bundle.beam.probes
        fewer = min(self.probes or probes, self.max_probes or probes) < probes
        return not (self.score != "softmax" or self.constrained or fewer or self.cap_km(bundle) is not None)

    def masses(self, calibration: "Calibration") -> tuple[float, float] | None:
        """What discs around the points of answers must hold to be true; None where that was not calibrated."""
        known = self.point != "mass" or self.within_km == WITHIN_KM
        return calibration.masses.get(self.point) if known else None

    @property
    def wants_references(self) -> bool:
        """Whether reference photos are looked at."""
        return self.references > 0 or self.point == "reference"

    @property
    def given(self) -> dict[str, str]:
        """Those that differ from their defaults, as text."""
        return {name: str(value) for name, value in vars(self).items() if value != getattr(DEFAULT_OPTIONS, name)}

    @property
    def constrained(self) -> bool:
        """Whether something else is searched than the whole bundle as it is."""
        return (self.region, self.not_region, self.prior_exponent) != (None, None, None)


DEFAULT_OPTIONS = SearchOptions()
