"""How much each level counts, and how much the number of photos in a cell: fitted to held-out photos.

In: geocells, and photos that they were not fitted to. Out: the exponents lambda_l of the product and beta of the prior
(`indexer.vectors.scoring`) that make the photos' own leaves likeliest under

    p(r | v) = softmax over leaves of  sum over l of lambda_l * v . E_l[anc_l(r)] / tau_l  +  beta * log(n_r / n)

This is a conditional logit model (McFadden 1974) with one feature for each level and one for the prior, so its loss is
convex. The levels say much the same, and with a weight of 1 each the product is too sure of itself; weights below 1
say by how much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from indexer.errors import InputError
from indexer.vectors.geocells import Geocells
from indexer.vectors.scoring import ScoringModel, log_softmax

_BLOCK_SCORES = 1 << 22  # leaves times photos whose scores are held at once
_FEWEST = 25  # photos for each number that is fitted; ten are the least by rule of thumb (Peduzzi et al. 1996)


@dataclass(frozen=True, slots=True, eq=False)
class Unseen:
    """Photos that geocells were not fitted to."""

    model: ScoringModel  # of these geocells
    vectors: np.ndarray  # (H, D) float32, transformed
    leaf: np.ndarray  # (H,) int64, where each was taken, -1 for outside all leaves


def fit_level_weights(model: ScoringModel, vectors: np.ndarray, leaf: np.ndarray) -> Geocells:
    """A model's geocells with fitted level weights, none of them below 0, and a fitted prior exponent.

    vectors, leaf: as in `Unseen`. Raises what `check_enough` does.
    """
    level_weights, prior_exponent = common_weights([Unseen(model, vectors, leaf)])
    return replace(model.geocells, level_weights=level_weights, prior_exponent=prior_exponent)


def common_weights(parts: Sequence[Unseen]) -> tuple[np.ndarray, float]:
    """The level weights (L,), none of them below 0, and the prior exponent that suit all parts together.

    parts: of one hierarchy; each has geocells of its own. Raises what `check_enough` does.
    """
    model = parts[0].model
    check_enough(np.concatenate([part.leaf for part in parts]), levels=len(model.geocells.vectors))
    log_share = np.log(model.n_photos / model.n_photos.sum()).astype(np.float32)
    rows = max(1, _BLOCK_SCORES // len(log_share))
    blocks = [
        (part.model, part.vectors[inside[first : first + rows]], part.leaf[inside[first : first + rows]])
        for part in parts
        for inside in [np.flatnonzero(part.leaf >= 0)]
        for first in range(0, len(inside), rows)
    ]
    n_photos = sum(len(truth) for *_, truth in blocks)

    def loss_and_slope(weights: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = 0.0, np.zeros(len(weights))
        for of, vectors, truth in blocks:
            logits = [_logits(of, vectors, level)[:, ancestors] for level, ancestors in enumerate(of.ancestors.T)]
            part, part_slope = _conditional_logit([*logits, log_share[None]], truth, weights)
            loss += part
            slope += part_slope
        return loss / n_photos, slope / n_photos

    begin = np.append(model.geocells.level_weights, model.geocells.prior_exponent)
    bounds = [(0, None)] * (len(begin) - 1) + [(None, None)]
    found = minimize(loss_and_slope, begin, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:-1], float(found[-1])


def _logits(model: ScoringModel, vectors: np.ndarray, level: int) -> np.ndarray:
    """Of photos (H, D) and the cells of a level: (H, N_l) float32."""
    geocells = model.geocells
    logits = vectors @ geocells.vectors[level].T / np.float32(geocells.temperatures[level])
    return np.asarray(logits if geocells.biases is None else logits + geocells.biases[level])


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
