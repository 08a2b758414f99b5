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
PointName = Literal["density", "cell", "medoid", "mass"]
GalleryName = Literal["lists", "all", "off"]
CAP = "cap"  # among the kinds of points that are calibrated, those of a precision cap, which nobody asks for by name


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
        gallery: photos of known places that count beside cells, where the bundle has some: those in the lists of the
            best cells; all, which is exact and slow; or none, for cells alone as the paper has it.
        gallery_photos: how many of the photos that decided to tell with each answer, the heaviest.
        point: where an answer points: density, at the densest place that photos and cells make likely; cell, at the
            point of the best cell, the mean of its photos' places; medoid, at the place of its photo that is nearest to
            all others; mass, at the point of the cell around which, within `mass_km`, most of the probability lies.
            By default density where photos count, else cell.
        mass_km: distance that `point` mass looks at; by default half the width of the median leaf.
        region: search only there: country codes such as FR,DE, a box as south,west,north,east, a .geojson file, or
            GeoJSON itself. With a minus in front: --region=-35,16,-22,33.
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
    gallery: GalleryName = "lists"
    gallery_photos: int = 5
    point: PointName | None = None
    mass_km: float | None = None
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
        if self.score != "softmax" and (self.point not in (None, "cell") or self.radii):
            raise InputError(f"`score` {self.score}: products of cosines are no probabilities to take areas from.")
        if self.score != "softmax" and self.gallery == "all":
            raise InputError(f"`score` {self.score} is for comparison, of cells alone: leave `gallery` out.")
        if self.point == "density" and self.gallery == "off":
            raise InputError("`point` density is where photos and cells together point: leave `gallery` off out.")
        if self.score != "softmax" and self.precision_cap is not None:
            raise InputError(f"`score` {self.score} is for comparison: a precision cap needs probabilities.")
        if self.score != "softmax" and self.constrained:
            raise InputError(f"`score` {self.score} is for comparison, with no region and no other prior.")
        if self.constrained and self.radii:
            raise InputError("`radii`: they are calibrated for the whole Earth and the bundle's own prior only.")
        if self.precision_cap is not None and not 0 < self.precision_cap < float("inf"):
            raise InputError(f"`precision_cap` must be a distance above 0 km, not {self.precision_cap}.")
        if self.gallery_photos < 0:
            raise InputError(f"`gallery_photos` must be at least 0, not {self.gallery_photos}.")
        if self.prior_exponent is not None and not abs(self.prior_exponent) < float("inf"):
            raise InputError(f"`prior_exponent` must be a finite number, not {self.prior_exponent}.")
        if self.mass_km is not None and not 0 < self.mass_km < float("inf"):
            raise InputError(f"`mass_km` must be a distance above 0, not {self.mass_km}.")
        if self.mass_km is not None and self.point != "mass":
            raise InputError("`mass_km` goes with `point` mass.")

    def check(self, bundle: "Bundle", *, protocol: "QueryProtocol") -> None:
        """Refuse what a bundle cannot give. protocol: how queries are made of photos.

        Raises:
            InputError: its precision cap forbids it, it was not calibrated for it, or it has no gallery.
        """
        cap_km = self.cap_km(bundle)
        if cap_km is not None and self.prior_exponent is not None:
            raise InputError(
                "`prior_exponent`: what another prior changes tells cells apart that the precision cap of "
                f"{cap_km:g} km hides. Leave it out."
            )
        if cap_km is not None and self.point in ("density", "medoid"):
            raise InputError(
                "`point` density and medoid tell where photos were taken to the metre, which the precision cap of "
                f"{cap_km:g} km forbids. Leave `point` out."
            )
        if not _has_photos(bundle) and (self.gallery == "all" or self.point == "density"):
            raise InputError(
                f"The bundle {bundle.version[:8]} has no gallery, so no photos of known places: build it from vectors "
                "of photos (python -m indexer build with `features`), or from a checkpoint that was fitted to them."
            )
        if not self.radii:
            return
        from indexer.vectors.calibration import PROTOCOL_TEXTS

        if self.calibration(bundle, protocol) is None:
            photos = ", with a gallery" if self.uses_gallery(bundle) else ""
            raise InputError(
                f"`radii`: the bundle {bundle.version[:8]} was not calibrated for {PROTOCOL_TEXTS[protocol]}{photos}. "
                "Calibrate it with vectors of such photos: python -m search calibrate ..."
            )
        if not self.tells_radii(bundle):
            raise InputError(
                "`radii`: they were calibrated for no fewer `probes` than the bundle was built with, and for the "
                "gallery as it was. Leave them out, or what they do not hold for, or calibrate again: "
                "python -m search calibrate ..."
            )
        if cap_km is not None and self.masses(bundle, protocol) is None:
            raise InputError(
                f"`radii`: under a precision cap they are those that a bundle built with it was calibrated for, and "
                f"{cap_km:g} km is not the cap of such a calibration. Leave `precision_cap` out, or calibrate a bundle "
                "that was built with it: python -m search calibrate ..."
            )
        if self.masses(bundle, protocol) is None:
            raise InputError(
                f"`radii`: they were not calibrated around `point` {self.point_of(bundle)} with this `mass_km`. Leave "
                "that out, or calibrate the bundle for such points: python -m search calibrate ..."
            )

    def cap_km(self, bundle: "Bundle") -> float | None:
        """The precision cap of answers: the coarser of the bundle's own and the one given here; None: there is none."""
        return max((cap for cap in (bundle.precision_cap_km, self.precision_cap) if cap is not None), default=None)

    def searches_as_calibrated(self, bundle: "Bundle") -> bool:
        """Whether a bundle's calibrations hold for answers: places of leaves, searched as the bundle is."""
        return self.tells_radii(bundle) and self.cap_km(bundle) is None

    def tells_radii(self, bundle: "Bundle") -> bool:
        """Whether it is searched as it was for calibrations. Under a cap radii may be true, and probabilities not.

        A temperature is fitted to the event that the place lies in the answered leaf. What a disc around the answer
        holds, of the posterior that is told, is fitted as it is.
        """
        probes, gallery = bundle.beam.probes, bundle.gallery
        fewer = min(self.probes or probes, self.max_probes or probes) < probes
        changed = gallery is not None and self.uses_gallery(bundle) and not gallery.facts.keeps_calibrations
        return not (self.score != "softmax" or self.constrained or fewer or changed)

    def calibration(self, bundle: "Bundle", protocol: "QueryProtocol") -> "Calibration | None":
        """What answers from a bundle are calibrated by, of cells alone or with photos; None where there is nothing."""
        of_cells = bundle.calibrations.get(protocol) if self.score == "softmax" else None
        return of_cells.with_photos if of_cells is not None and self.uses_gallery(bundle) else of_cells

    def masses(self, bundle: "Bundle", protocol: "QueryProtocol") -> tuple[float, float] | None:
        """What discs around the points of answers must hold to be true; None where that was not calibrated."""
        calibration, point, cap_km = self.calibration(bundle, protocol), self.point_of(bundle), self.cap_km(bundle)
        if calibration is not None and cap_km is not None:
            return calibration.masses.get(CAP) if point == "cell" and calibration.cap_km == cap_km else None
        if calibration is None or (point == "mass" and self.mass_km not in (None, calibration.mass_km)):
            return None
        return calibration.masses.get(point)

    def uses_gallery(self, bundle: "Bundle") -> bool:
        """Whether photos count beside the cells of a bundle."""
        return _has_photos(bundle) and self.gallery != "off" and self.score == "softmax"

    def point_of(self, bundle: "Bundle") -> PointName:
        """Where answers from a bundle point."""
        usual: PointName = "density" if self.uses_gallery(bundle) and self.cap_km(bundle) is None else "cell"
        return self.point or usual

    @property
    def given(self) -> dict[str, str]:
        """Those that differ from their defaults, as text."""
        return {name: str(value) for name, value in vars(self).items() if value != getattr(DEFAULT_OPTIONS, name)}

    @property
    def within_region(self) -> bool:
        """Whether answers are held to a region."""
        return (self.region, self.not_region) != (None, None)

    @property
    def constrained(self) -> bool:
        """Whether something else is searched than the whole bundle as it is."""
        return self.within_region or self.prior_exponent is not None


def _has_photos(bundle: "Bundle") -> bool:
    """Whether a bundle has photos of known places: all of a gallery's may have been removed."""
    return bundle.gallery is not None and len(bundle.gallery) > 0


DEFAULT_OPTIONS = SearchOptions()
