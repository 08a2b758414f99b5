"""Ways to search: their names, the options that choose among them, and which one a bundle is searched by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from indexer.errors import InputError

if TYPE_CHECKING:
    import torch

    from search.retrieval.found import Search
    from search.retrieval.searched import Searched

ModeName = Literal["auto", "exact", "beam", "adaptive"]
ScoreName = Literal["softmax", "cosine-clamped", "cosine-affine"]
PointName = Literal["cell", "medoid", "mass", "reference"]
WITHIN_KM = 25.0


@dataclass(frozen=True)
class SearchOptions:
    """How a bundle is searched.

    Args:
        mode: exact compares all leaves; beam those below the best cells of one level; adaptive widens a beam until a
            bound proves the answer or --max-probes is reached, and says which. auto: exact, or beam where the bundle
            was built for that. Beams run on the CPU, also with --device cuda.
        probes: cells whose leaves a beam visits, and an adaptive search visits first; by default what was measured at
            the build to find the best leaf of 0.999 of photos.
        max_probes: cells after which an adaptive search gives up, where they hold as many leaves as are asked for; by
            default 4 times those it visits first.
        score: the product of softmax probabilities, or for comparison that of raw cosines, clamped at 0 or mapped by
            (1 + c) / 2, by brute force.
        point: where an answer points: at the point of the best cell, the mean of its photos' places; at its medoid, the
            place of the photo that is nearest to all others; at the point of the cell around which, within --within-km,
            most of the probability lies; or at the best cell's reference photo that is most similar.
        within_km: distance that --point mass looks at.
        references: most similar reference photos of the best cell to tell with each answer.
        region: search only there: country codes such as FR,DE, a box as south,west,north,east, or a .geojson file. With
            a minus in front: --region=-35,16,-22,33.
        not_region: do not search there; as for --region.
        prior_exponent: how much the number of photos in a cell counts, in place of what the bundle says; 0: nothing.
        precision_cap: tell no place finer than so many kilometres; a bundle's own cap can be made coarser, not finer.
        radii: also say how near the place is for half and for nine in ten of such photos, the entropy, and whether to
            abstain: by default where the bundle was calibrated for such photos, without which it is an error.
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
        for name, value in (("--probes", self.probes), ("--max-probes", self.max_probes)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}.")
        if self.probes is not None and self.mode not in ("beam", "adaptive"):
            raise InputError("--probes goes with --mode beam or adaptive: other searches visit no lists.")
        if self.max_probes is not None and self.mode != "adaptive":
            raise InputError("--max-probes goes with --mode adaptive.")
        if self.max_probes is not None and self.probes is not None and self.max_probes < self.probes:
            raise InputError(f"--max-probes ({self.max_probes}) must not be below --probes ({self.probes}).")
        if self.score != "softmax" and self.mode not in ("auto", "exact"):
            raise InputError(f"--score {self.score} compares all cells of all levels: leave --mode out.")
        if self.score != "softmax" and (self.point != "cell" or self.radii):
            raise InputError(f"--score {self.score}: products of cosines are no probabilities to take areas from.")
        if self.score != "softmax" and self.precision_cap is not None:
            raise InputError(f"--score {self.score} is for comparison: a precision cap needs probabilities.")
        if self.score != "softmax" and self.constrained:
            raise InputError(f"--score {self.score} is for comparison, with no region and no other prior.")
        if self.constrained and self.radii:
            raise InputError("--radii: they are calibrated for the whole Earth and the bundle's own prior only.")
        if self.precision_cap is not None and not 0 < self.precision_cap < float("inf"):
            raise InputError(f"--precision-cap must be a distance above 0 km, not {self.precision_cap}.")
        if self.references < 0:
            raise InputError(f"--references must be at least 0, not {self.references}.")
        if self.prior_exponent is not None and not abs(self.prior_exponent) < float("inf"):
            raise InputError(f"--prior-exponent must be a finite number, not {self.prior_exponent}.")
        if not 0 < self.within_km < float("inf"):
            raise InputError(f"--within-km must be a distance above 0, not {self.within_km}.")
        if self.within_km != WITHIN_KM and self.point != "mass":
            raise InputError("--within-km goes with --point mass.")

    @property
    def given(self) -> dict[str, str]:
        """Those that differ from their defaults, as text."""
        return {name: str(value) for name, value in vars(self).items() if value != getattr(DEFAULT_OPTIONS, name)}

    @property
    def constrained(self) -> bool:
        """Whether something else is searched than the whole bundle as it is."""
        return (self.region, self.not_region, self.prior_exponent) != (None, None, None)


DEFAULT_OPTIONS = SearchOptions()


def open_search(searched: "Searched", options: SearchOptions, *, device: "torch.device") -> "Search":
    """The search of these options, on this device where it can run there."""
    from indexer.bundles.faiss_index import list_count
    from search.retrieval.adaptive import AdaptiveSearch
    from search.retrieval.beam import BeamSearch
    from search.retrieval.cosine import CosineSearch
    from search.retrieval.exact import ExactSearch
    from search.retrieval.lists import TreeLists

    if options.score != "softmax":
        return CosineSearch(searched.model, "clamped" if options.score == "cosine-clamped" else "affine")
    mode = options.mode
    if mode == "auto":
        mode = "beam" if list_count(searched.leaf_index) else "exact"
    if mode == "exact":
        return ExactSearch.of(searched, device)
    lists = TreeLists.of(searched)
    if mode == "beam":
        return BeamSearch(searched.model, lists, probes=options.probes)
    rows = searched.leaf_vectors
    return AdaptiveSearch(searched.model, lists, rows, probes=options.probes, max_probes=options.max_probes)
