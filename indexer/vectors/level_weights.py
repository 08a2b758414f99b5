"""How much each level counts, and how much the number of photos in a cell: fitted to held-out photos.

In: geocells, and photos that they were not fitted to. Out: the exponents lambda_l of the product and beta of the prior
(`indexer.vectors.scoring`) that make the photos' own leaves likeliest under

    p(r | v) = softmax over leaves of  sum over l of lambda_l * v . E_l[anc_l(r)] / tau_l  +  beta * log(n_r / n)

This is a conditional logit model (McFadden 1974) with one feature for each level and one for the prior, so its loss is
convex. The levels say much the same, and with a weight of 1 each the product is too sure of itself; weights below 1
say by how much.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from indexer.errors import InputError
from indexer.vectors.geocells import Geocells
from indexer.vectors.scoring import ScoringModel, log_softmax

_BLOCK_SCORES = 1 << 22  # leaves times photos whose scores are held at once
_FEWEST = 25  # photos for each number that is fitted; ten are the least by rule of thumb (Peduzzi et al. 1996)


def fit_level_weights(model: ScoringModel, vectors: np.ndarray, leaf: np.ndarray) -> Geocells:
    """A model's geocells with fitted level weights, none of them below 0, and a fitted prior exponent.

    vectors: (H, D) float32, of photos that the geocells were not fitted to, transformed. leaf: (H,) int64, where each
    was taken, -1 for outside all leaves. Raises what `check_enough` does.
    """
    geocells, inside = model.geocells, np.flatnonzero(leaf >= 0)
    check_enough(leaf, levels=len(geocells.vectors))
    vectors, truth = vectors[inside], leaf[inside]
    levels = list(zip(geocells.vectors, geocells.temperatures, model.ancestors.T, strict=True))
    log_share = np.log(model.n_photos / model.n_photos.sum()).astype(np.float32)
    rows = max(1, _BLOCK_SCORES // len(log_share))
    blocks = [slice(first, first + rows) for first in range(0, len(vectors), rows)]

    def loss_and_slope(weights: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = 0.0, np.zeros(len(levels) + 1)
        for block in blocks:
            logits = [(vectors[block] @ cells.T / np.float32(tau))[:, ancestors] for cells, tau, ancestors in levels]
            features = [*logits, log_share[None]]
            part, part_slope = _conditional_logit(features, truth[block], weights)
            loss += part
            slope += part_slope
        return loss / len(vectors), slope / len(vectors)

    begin = np.append(geocells.level_weights, geocells.prior_exponent)
    bounds = [(0, None)] * len(levels) + [(None, None)]
    found = minimize(loss_and_slope, begin, jac=True, method="L-BFGS-B", bounds=bounds).x
    return replace(geocells, level_weights=found[:-1], prior_exponent=float(found[-1]))


def check_enough(leaf: np.ndarray, *, levels: int) -> None:
    """Raise InputError where too few photos lie in a leaf for the weights of so many levels; leaf: as above."""
    inside, wanted = int((leaf >= 0).sum()), _FEWEST * (levels + 1)
    if inside < wanted:
        raise InputError(
            f"{inside} held-out photos lie in a finest cell; {levels} level weights and the prior's need {wanted}. "
            "Hold out more photos, or fit no weights."
        )


def _conditional_logit(
    features: Sequence[np.ndarray], truth: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """Sum of the losses of some photos, and its derivative by the weights.

    features: what each weight multiplies: (H, leaves) for each level, (1, leaves) for the prior.
    """
    scores = np.zeros(features[0].shape)
    for weight, feature in zip(weights, features, strict=True):
        scores += weight * feature
    logs = log_softmax(scores)
    every = np.arange(len(truth))
    share = np.exp(logs)
    own = [np.broadcast_to(feature, scores.shape)[every, truth].sum() for feature in features]
    expected = [float((share * feature).sum()) for feature in features]
    return float(-logs[every, truth].sum()), np.array(expected) - np.array(own)
