"""What `benchmarks.search` compares: worlds to search in, and the usual ways to do it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Timing, timed
from benchmarks.partition import photo_places
from benchmarks.place_vectors import STANDS_FOR, PlaceVectors
from encoder.models.device import multiplies_bfloat16
from indexer.bundles.faiss_index import flat_index, search_index
from indexer.bundles.leaf_index import best_of_all, choose_beam, hierarchy_lists, list_index
from indexer.cells.hierarchy import build_hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.earth.geo import EARTH_RADIUS_KM, chords_to_km
from indexer.paper import TAU_MAX
from indexer.photos.sources import read_coordinates
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from search.answers.radii import LeafDiscs, radii_km, share_within
from search.retrieval.adaptive import AdaptiveSearch
from search.retrieval.exact import ExactSearch
from search.retrieval.found import Search, Wanted, queries_at_once
from search.retrieval.lists import BeamSearch, HierarchyLists
from search.retrieval.posterior import LEFT_OUT
from search.retrieval.proof import tensor_of

MP16_PLACES = 110_000  # which give about 24,500 leaves
QUICK = multiplies_bfloat16(torch.device("cpu"))  # whether this processor is one that goals are for
_CHOSEN_WITH = 4000  # photos
_TIE = 1e-3  # scores that float32 cannot tell apart in all ways of adding them up
_BLOCK = 256  # queries of `Levels` at once

_SHARES = (0.5, 0.9)  # that radii hold

# The best leaf of each query, (Q,) int64; its probability, (Q,) float64, NaN if not wanted; and the radii around its
# point that hold _SHARES of the probability, (Q, 2) float64 in km, none if not wanted.
WayAnswers = tuple[np.ndarray, np.ndarray, np.ndarray]
Way = Callable[..., WayAnswers]  # of queries (Q, D), and whether `rows` are wanted, with probabilities and radii


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A hierarchy with vectors, and photos to look for in it."""

    model: ScoringModel
    discs: LeafDiscs
    lat_deg: np.ndarray  # of leaves
    lng_deg: np.ndarray
    rows: np.ndarray  # leaf vectors
    level: int  # of the lists
    probes: int
    queries: np.ndarray


def make_world(places: tuple[np.ndarray, np.ndarray], *, queries: int, width: int, seed: int) -> World:
    """A world of these places, (N,) latitudes and longitudes, and photos of others like them."""
    rule = PartitionRule(tau_max=tuple(tau // STANDS_FOR for tau in TAU_MAX), tau_min=0)
    hierarchy = build_hierarchy(sorted_ids([places]), rule=rule)
    vectors = PlaceVectors(width, seed=seed)
    model = ScoringModel(vectors.geocells(hierarchy), hierarchy.ancestors, hierarchy.leaves.n_photos)
    photos = vectors.photos(*_near(places, queries, seed=seed + 1))
    known = vectors.photos(*_near(places, _CHOSEN_WITH, seed=seed + 2))
    rows = leaf_vectors(model)
    level, probes = choose_beam(model, known, best_of_all(model, rows, known)[:, 0])
    leaves = hierarchy.leaves
    return World(model, LeafDiscs.of(leaves), leaves.lat_deg, leaves.lng_deg, rows, level, probes, photos)


def _near(places: tuple[np.ndarray, np.ndarray], n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """New photos within a kilometre or so of some of the places."""
    rng = np.random.default_rng(seed)
    near = rng.integers(0, len(places[0]), n)
    lat, lng = (each[near] + rng.normal(0, 0.01, n) for each in places)
    return np.clip(lat, -90, 90), (lng + 180) % 360 - 180


class Plain:
    """(a): for each query the lists with the best list vectors, their leaves gathered and scored, the best one taken.

    Radii are the plain ones, here and in `Levels`: all of a leaf's probability stands at its point, leaves are sorted
    by how far away that is, and added up until there is enough.
    """

    def __init__(self, world: World) -> None:
        lists, self._list_vectors = hierarchy_lists(world.model, world.level)
        self._begins = np.flatnonzero(np.diff(lists, prepend=-1, append=lists[-1] + 1))
        self._rows, self._probes = world.rows, world.probes
        self._points = world.discs.points

    def __call__(self, queries: np.ndarray, *, rows: bool) -> WayAnswers:
        """As `WayAnswers`; probabilities and radii are among the leaves looked at."""
        best, share = np.empty(len(queries), np.int64), np.full(len(queries), np.nan)
        radii = np.empty((len(queries) if rows else 0, len(_SHARES)))
        for number, query in enumerate(queries):
            scores = self._list_vectors @ query
            first = len(scores) - self._probes
            chosen = np.argpartition(scores, min(first, len(scores) - 1))[first:]
            leaves = np.concatenate([np.arange(self._begins[each], self._begins[each + 1]) for each in chosen])
            scores = self._rows[leaves] @ query
            best[number] = leaves[scores.argmax()]
            if rows:
                each = np.exp(scores - scores.max())
                share[number] = 1 / each.sum()
                chord = np.linalg.norm(self._points[leaves] - self._points[best[number]], axis=1)
                order = chord.argsort()
                enough = np.searchsorted(np.cumsum(each[order] * share[number]), _SHARES)
                radii[number] = chords_to_km(chord[order[np.minimum(enough, len(order) - 1)]])
        return best, share, radii


class Levels:
    """(b): the log-probabilities of all cells of all levels, added up for every leaf, in torch."""

    def __init__(self, world: World) -> None:
        geocells = world.model.geocells
        self._levels = [tensor_of(vectors) for vectors in geocells.vectors]
        self._ancestors = [tensor_of(np.ascontiguousarray(column)) for column in world.model.ancestors.T]
        self._temperatures = geocells.temperatures.tolist()
        self._points = tensor_of(world.discs.points).float()

    def __call__(self, queries: np.ndarray, *, rows: bool) -> WayAnswers:
        """As `WayAnswers`."""
        parts = [self._answer_block(block, rows=rows) for block in torch.split(tensor_of(queries), _BLOCK)]
        best, share, radii = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
        return best, share, radii

    def _answer_block(self, queries: torch.Tensor, *, rows: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        total = torch.zeros(len(queries), len(self._ancestors[0]))
        for vectors, ancestors, tau in zip(self._levels, self._ancestors, self._temperatures, strict=True):
            total += torch.log_softmax(queries @ vectors.T / tau, dim=1)[:, ancestors]
        score, best = total.max(dim=1)
        if not rows:
            return best, torch.full_like(score, torch.nan), torch.empty(0, len(_SHARES))
        each = total.softmax(dim=1)
        nearness, order = (self._points[best] @ self._points.T).sort(dim=1, descending=True)
        held = each.gather(1, order).cumsum(dim=1)
        wanted = torch.tensor(_SHARES).expand(len(held), -1).contiguous()
        enough = torch.searchsorted(held, wanted).clamp_max(held.shape[1] - 1)
        angle = nearness.gather(1, enough).clamp(-1, 1).acos()
        return best, each.gather(1, best[:, None])[:, 0], EARTH_RADIUS_KM * angle


def faiss_levels(world: World, *, runs: int) -> Timing:
    """(c): the best cell of each level through a flat index of it; the time of all levels together.

    Raises:
        SystemExit: an index does not find the best cell.
    """
    timings = []
    for vectors in world.model.geocells.vectors:
        index = flat_index(vectors)
        few = world.queries[:64]
        cosines = few @ vectors.T
        found = search_index(index, few, 1)[1]
        if not np.allclose(np.take_along_axis(cosines, found, axis=1)[:, 0], cosines.max(axis=1), atol=1e-5):
            raise SystemExit("A flat index does not find the best cell of its level; nothing was timed.")
        timings.append(timed(partial(search_index, index, world.queries, 1), runs=runs))
    return Timing(sum(each.median_s for each in timings), sum(each.p95_s for each in timings), runs)


def hierarchy_lists_of(world: World) -> HierarchyLists:
    """Lists of the world's chosen level."""
    index = list_index(world.model, world.rows, world.level)
    return HierarchyLists(world.model, index, level=world.level, probes=world.probes)


def city_places(n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of n photos."""
    lat, lng = zip(*photo_places(n, seed=seed), strict=True)
    return np.concatenate(lat), np.concatenate(lng)


def mp16_world(
    *, queries: int, seed: int, width: int = 768, places: int = MP16_PLACES, photos: Path | None = None
) -> World:
    """A world of MP-16's size, or of so many places, or of a table's."""
    where = city_places(places, seed=seed) if photos is None else read_coordinates(photos)
    return make_world(where, queries=queries, width=width, seed=seed)


def exact_search(world: World) -> ExactSearch:
    """(d): ours, over all leaves."""
    return ExactSearch(world.model, tensor_of(world.rows), low_precision=QUICK)


def beam_search(world: World) -> BeamSearch:
    """(e): ours, over the lists of the world's chosen level."""
    return BeamSearch(world.model, hierarchy_lists_of(world))


def adaptive_search(world: World) -> AdaptiveSearch:
    """(e): ours, over as many lists as it takes."""
    return AdaptiveSearch(world.model, hierarchy_lists_of(world), world.rows)


def way_of(search: Search, world: World) -> Way:
    """One of our searches, as the others are called."""
    return partial(answers, search, world)


def answers(search: Search, world: World, queries: np.ndarray, *, rows: bool) -> WayAnswers:
    """What one of our searches answers."""
    if not rows:
        hits = search(queries, 1)
        return hits.leaf[:, 0], hits.probability[:, 0], np.empty((0, len(_SHARES)))
    parts = []
    step = queries_at_once(search.counts, world.model.n_leaves)
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        hits = search(block, 1, Wanted(temperature=1.0, left_out=LEFT_OUT))
        assert hits.posterior is not None, "it is wanted"
        leaf = hits.leaf[:, 0]
        radii = radii_km(hits.posterior, world.discs, world.lat_deg[leaf], world.lng_deg[leaf], _SHARES)
        parts.append((leaf, hits.probability[:, 0], radii))
    best, share, radii = (np.concatenate(each) for each in zip(*parts, strict=True))
    return best, share, radii


def check_radii(search: Search, world: World, *, n: int = 256) -> None:
    """Make sure that radii hold as much of the probability of all leaves that count as they say.

    Raises:
        SystemExit: they do not.
    """
    queries = world.queries[:n]
    leaf, _, radii = answers(search, world, queries, rows=True)
    posterior = search(queries, 1, Wanted(temperature=1.0, left_out=0.0)).posterior
    assert posterior is not None, "it is wanted"
    for share, km in zip(_SHARES, radii.T, strict=True):
        held = share_within(posterior, world.discs, world.lat_deg[leaf], world.lng_deg[leaf], km)
        if np.abs(held - share).max() > 2 * LEFT_OUT:
            raise SystemExit(f"Radii of {search.name} search do not hold {share:.0%}; nothing was timed.")


def same(found: np.ndarray, best: np.ndarray, world: World, what: str, *, rows: np.ndarray | None = None) -> None:
    """Make sure that leaves are the same, but for ties within float32.

    Raises:
        SystemExit: they are not.
    """
    queries = world.queries if rows is None else world.queries[rows]
    differ = np.flatnonzero(found != best)
    apart = [float((world.rows[best[each]] - world.rows[found[each]]) @ queries[each]) for each in differ]
    if max(apart, default=0.0) > _TIE:
        raise SystemExit(f"The answers of {what} differ for {len(differ)} queries; nothing was timed.")
