"""Shares of a softmax, before they are divided by their sum, of scores of which most are far below the best."""

import torch

# exp of less is a number with fewer bits, which processors work out a hundred times slower; there is no share in it.
_LEAST = -87.0
_NONE = 2e-38  # a little more than exp of that


def shares(score: torch.Tensor, best: torch.Tensor, temperature: float) -> torch.Tensor:
    """exp((score - best) / temperature), 0 where that is below 2e-38: (Q, M) float32, in the place of the scores.

    score: (Q, M) float32, minus infinity for none; overwritten. best: (Q, 1), what the highest are.
    """
    scaled = score.sub_(best).div_(temperature).clamp_(min=_LEAST)
    return torch.threshold_(scaled.exp_(), _NONE, 0.0)
