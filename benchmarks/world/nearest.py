"""The nearest training photos answer: where their places crowd most, the photo is taken to be.

The retrieval half of [L]kNN (Vo, Jacobs and Hays, "Revisiting IM2GPS in the Deep Learning Era", ICCV 2017): the k
photos with the most similar vectors each spread a bell around their place, and the answer is the place of that one of
them where the sum of the bells is highest. With k = 1 it is the most similar photo's place. There the vectors are those
of a network that learned to classify; any will do here.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.earth.geo import haversine_km

_BLOCK = 256  # photos answered at once: bounds memory at _BLOCK x N similarities

K = (1, 5, 10, 25, 50, 100)
BELL_KM = (50.0, 200.0, 800.0)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Photos whose places are known."""

    vectors: np.ndarray  # (N, D) float32, unit rows
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray


@dataclass(frozen=True, slots=True)
class Vote:
    """How neighbours decide."""

    k: int
    bell_km: float  # standard deviation of the bell around a neighbour's place


def nearest_photos(known: Known, vectors: np.ndarray, *, k: int) -> np.ndarray:
    """The k known photos most similar to each of others, the most similar first: (Q, k) int64.

    vectors: (Q, D) float32, unit rows. k: at most N.
    """
    found = [np.empty((0, k), np.int64)]
    for first in range(0, len(vectors), _BLOCK):
        similarity = vectors[first : first + _BLOCK] @ known.vectors.T
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similarity, best, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(found)


def elect(known: Known, neighbours: np.ndarray, vote: Vote) -> np.ndarray:
    """Of each row of neighbours (Q, >= k), nearest first, the one whose place is the answer: (Q,) int64.

    Of equals the most similar.
    """
    near = neighbours[:, : vote.k]
    lat, lng = known.lat_deg[near], known.lng_deg[near]
    km = haversine_km(lat[:, :, None], lng[:, :, None], lat[:, None, :], lng[:, None, :])
    crowd = np.exp(-((km / vote.bell_km) ** 2) / 2).sum(axis=2)
    return np.take_along_axis(near, crowd.argmax(axis=1)[:, None], axis=1)[:, 0]


def choose_vote(
    known: Known,
    vectors: np.ndarray,
    lat_deg: np.ndarray,
    lng_deg: np.ndarray,
    *,
    ks: Sequence[int] = K,
    bells_km: Sequence[float] = BELL_KM,
) -> Vote:
    """The vote with the smallest mean of log(1 + km) on photos (V,) that were not learned from."""
    possible = [k for k in ks if k <= len(known.vectors)]
    neighbours = nearest_photos(known, vectors, k=max(possible))

    def loss(vote: Vote) -> float:
        best = elect(known, neighbours, vote)
        return float(np.log1p(haversine_km(lat_deg, lng_deg, known.lat_deg[best], known.lng_deg[best])).mean())

    return min((Vote(k, bell) for k, bell in itertools.product(possible, bells_km)), key=loss)
