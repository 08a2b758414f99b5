"""What photos of known places say together with cells: one posterior over leaves, one density over places.

In: of each query the posterior over leaves, and the photos most like it. Out: the photos' weights, a posterior over
leaves that takes the place of the cells' own, a density over places, and the place where it is highest. With q the
query as it is compared, photo j in leaf r(j), and the numbers of `indexer.vectors.calibration.PhotoFit`:

    evidence_j = (gamma (q . G_r(j) + b_r(j)) + q . x_j / tau_x) / n^growth + log m_j + what a reranker adds
    w          = softmax of evidence over the photos;   W(r) = sum of w_j over the photos of list r
    S          = sum of c, the cells' posterior, over leaves whose lists hold photos
    P(r)       = (1 - a) S W(r) + a c(r) where list r holds photos, else c(r)
    density(y) = (1 - a) S sum_j w_j bell_h(y, y_j) + sum_r a_r c(r) bell_s(r)(y, point of r);   a_r = a or 1 as in P

and s(r) is half the radius of leaf r. Photos are one more level below those of the paper, which has
none: the finest.

An answer points at the photo of the highest density, moved once to the mean of the photos around it. For that bells
around photos are as wide as makes errors least, which is wider than h, which makes the true place likeliest: what lies
between several photos that look alike is a better guess than any of them. Nor is a bell around a leaf's point then
narrower than that: what weighs nothing decides nothing, however narrow it is.
"""

from dataclasses import dataclass, replace

import numpy as np

from indexer.bundles.gallery import Gallery
from indexer.earth.geo import bell_density, unit_vectors
from indexer.vectors.calibration import PhotoFit
from search.answers.place_density import PlaceDensity
from search.answers.radii import LeafDiscs
from search.retrieval.gallery_lists import NearPhotos
from search.retrieval.posterior import Posterior, posterior_of_shares


@dataclass(frozen=True, slots=True, eq=False)
class PhotoEvidence:
    """What photos and cells say together of Q queries."""

    near: NearPhotos
    places: np.ndarray  # (Q, near, 3) float64, unit vectors, where the photos were taken
    weight: np.ndarray  # (Q, near) float64, w; those of a query add up to 1, or are 0 where it has no photos
    by_photos: np.ndarray  # (Q,) float64, (1 - a) S: how much of the posterior is by photos
    posterior: Posterior  # P
    density: PlaceDensity  # of each query the bells of its photos first, then those of leaves
    # (Q, near) float64, per km2 at the photos' places, of bells as wide as for pointing; minus infinity for none
    photo_density: np.ndarray
    points: np.ndarray  # (Q, 3) float64, where answers point; NaN where a query has no photos

    @property
    def there(self) -> np.ndarray:
        """Which queries have photos: (Q,) bool."""
        return self.near.row[:, 0] >= 0

    def pointing(self, width_km: float) -> "PhotoEvidence":
        """The same with bells that are so wide for pointing: around photos, and around leaves with narrower ones."""
        known, density = self.near.row >= 0, self.density
        position = np.arange(density.begins[-1]) - np.repeat(density.begins[:-1], np.diff(density.begins))
        is_photo = position < np.repeat(known.sum(axis=1), np.diff(density.begins))
        # All photos of a leaf may have been taken at one spot. Its bell of some metres is a fair share of places there,
        # but for pointing it would outdo bells that are kilometres wide with next to no weight.
        of_leaves = np.maximum(density.width_km, width_km)
        wider = replace(density, width_km=np.where(is_photo, width_km, of_leaves))
        at_photos = np.full(known.shape, -np.inf)
        at_photos[known] = wider.at(self.places[known], np.nonzero(known)[0])
        chosen = self.places[np.arange(len(known)), at_photos.argmax(axis=1)]
        # Moved once to the mean direction of the photos, by how near and how heavy they are.
        apart = np.square(self.places - chosen[:, None]).sum(axis=2)
        mean = np.einsum("qj,qjx->qx", self.weight * bell_density(apart, width_km), self.places)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        # It stays where neither it nor a photo around it weighs anything: then it is dense by cells alone.
        points = np.divide(mean, length, out=chosen, where=length > 0)
        points[~self.there] = np.nan
        return replace(self, photo_density=at_photos, points=points)


def photo_evidence(
    cells: Posterior,
    near: NearPhotos,
    leaf_score: np.ndarray,
    *,
    gallery: Gallery,
    discs: LeafDiscs,
    with_photos: np.ndarray,
    emptied: np.ndarray | None = None,
    fit: PhotoFit,
    n_photos: np.ndarray,
    reranked: np.ndarray | None = None,
) -> PhotoEvidence:
    """Put photos and cells together.

    Args:
        cells: c, of all leaves that count.
        near: the photos; `leaf` is what they count for.
        leaf_score: (Q, near) float64, q . G_r + b_r of the leaves of the photos.
        gallery: whose photos they are.
        discs: of all leaves of the bundle.
        with_photos: (leaves,) bool, whose lists hold photos that may be looked at.
        emptied: of the leaves that `cells` lists, (M,) bool, whose lists hold none that its query may look at; None:
            all queries may look at all of them.
        fit: the numbers above.
        n_photos: (Q,) int64, n, how many photos each query is made of.
        reranked: (Q, near) float64, what a reranker adds to the evidence of the photos; None: nothing.
    """
    n_queries = near.row.shape[0]
    known, row = near.row >= 0, np.maximum(near.row, 0)
    weight = fit.weights(near.similarity, leaf_score, gallery.stands_for[row], n_photos, reranked=reranked)
    query, of_photos = cells.query, with_photos[cells.leaf]
    if emptied is not None:
        of_photos = of_photos & ~emptied
    outside = np.bincount(query, np.where(of_photos, 0.0, cells.probability), minlength=n_queries)
    share = np.where(known[:, 0], np.maximum(1 - outside, 0.0), 0.0)  # S
    own = np.where(of_photos & known[query, 0], fit.cells, 1.0) * cells.probability
    by_photos = (1 - fit.cells) * share
    by_photo = by_photos[:, None] * weight
    photo_query = np.nonzero(known)[0]
    points = unit_vectors(gallery.lat_deg[row], gallery.lng_deg[row])
    posterior = posterior_of_shares(
        cells,
        np.concatenate([query, photo_query]),
        np.concatenate([cells.leaf, near.leaf[known]]),
        np.concatenate([own, by_photo[known]]),
    )
    of = np.concatenate([photo_query, query])
    order = np.argsort(of, kind="stable")
    density = PlaceDensity(
        np.searchsorted(of[order], np.arange(n_queries + 1)),
        np.concatenate([points[known], discs.points[cells.leaf]])[order],
        np.concatenate([np.full(len(photo_query), fit.width_km), discs.bell_width_km[cells.leaf]])[order],
        np.concatenate([by_photo[known], own])[order],
    )
    nowhere = np.full(near.row.shape, -np.inf), np.full((n_queries, 3), np.nan)
    return PhotoEvidence(near, points, weight, by_photos, posterior, density, *nowhere).pointing(fit.point_width_km)
