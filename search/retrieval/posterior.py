"""The posterior of a query over places: what radii, entropies, maps and calibrations are read from.

In: scores of leaves and a temperature. Out: for each query the leaves that matter, with their probabilities. Most of
ten thousands of leaves hold next to nothing, so those that hold a thousandth together are left out and only counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from search.retrieval.shares import shares

_TOGETHER = 1 << 17  # scores worked on at once
_LONG, _HALVINGS = 256, 6  # leaves of a query that are listed without a closer look, and how close that is
LEFT_OUT = 1e-3  # share of a posterior that leaves which are not listed may hold together


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """Probabilities over leaves, for Q queries: those of query q stand from begins[q] to begins[q + 1]."""

    begins: np.ndarray  # (Q + 1,) int64
    leaf: np.ndarray  # (M,) int64
    probability: np.ndarray  # (M,) float64, softmax of score / T over the leaves that count; it adds up to 1
    log_total: np.ndarray  # (Q,) float64, log of the sum of exp(score / T) over these
    counted: np.ndarray  # (Q,) int64, how many count

    def __len__(self) -> int:
        return len(self.log_total)

    @property
    def query(self) -> np.ndarray:
        """The query of each listed leaf: (M,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.begins))

    def probabilities(self, score: np.ndarray, temperature: float) -> np.ndarray:
        """What leaves of these scores hold, listed or not: (Q, K) float64, at most 1; score: (Q, K) float64."""
        return np.minimum(np.exp(score / temperature - self.log_total[:, None]), 1.0)

    def with_best(self, best: np.ndarray) -> "Posterior":
        """The same with what its likeliest leaves add to the totals known better: score / T in float64, (Q,)."""
        own = np.maximum.reduceat(self.probability, self.begins[:-1])
        with np.errstate(divide="ignore"):  # where one leaf holds all
            others = self.log_total + np.log1p(-own)
        return replace(self, log_total=np.logaddexp(best, others))

    @property
    def left_out(self) -> np.ndarray:
        """What the leaves that are not listed hold together: (Q,) float64, at most LEFT_OUT."""
        listed = np.bincount(self.query, self.probability, minlength=len(self))
        return np.asarray(np.clip(1 - listed, 0, LEFT_OUT))

    def take(self, queries: np.ndarray) -> "Posterior":
        """Those of some of the queries, by their number, in that order."""
        lengths = np.diff(self.begins)[queries]
        begins = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.begins[queries] - begins[:-1], lengths) + np.arange(begins[-1])
        return Posterior(
            begins, self.leaf[places], self.probability[places], self.log_total[queries], self.counted[queries]
        )

    def likeliest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k likeliest leaves of each query, -1 for none, and what they hold, NaN for none: (Q, k) each.

        Of equals the first leaf.
        """
        query = self.query
        order = np.lexsort((self.leaf, -self.probability, query))
        place = np.arange(len(order)) - self.begins[query]
        kept = place < k
        leaf, probability = np.full((len(self), k), -1), np.full((len(self), k), np.nan)
        leaf[query[kept], place[kept]] = self.leaf[order][kept]
        probability[query[kept], place[kept]] = self.probability[order][kept]
        return leaf, probability

    def entropy(self) -> np.ndarray:
        """Entropy in nats, (Q,) float64: 0 where one leaf holds all, log of the number of leaves where all hold equal.

        Leaves that are not listed are taken as equally likely, which is at most their share times log 1/LEFT_OUT off.
        """
        p = np.maximum(self.probability, np.finfo(np.float64).tiny)
        listed = np.bincount(self.query, -p * np.log(p), minlength=len(self))
        rest, others = self.left_out, np.maximum(self.counted - np.diff(self.begins), 1)
        return np.asarray(listed - rest * np.log(np.maximum(rest, np.finfo(np.float64).tiny) / others))


def posterior_of(
    score: torch.Tensor, temperature: float, leaf: torch.Tensor | None = None, *, left_out: float = LEFT_OUT
) -> Posterior:
    """The posterior of Q queries.

    score: (Q, M) float32, minus infinity where a query has fewer leaves; overwritten. leaf: (Q, M) int64, of which
    leaf each score is; None: of leaf 0, 1, 2, ... left_out: what leaves that are not listed may hold together.
    """
    # A few rows at a time, which stay in a CPU's own cache through all steps.
    step = max(1, _TOGETHER // max(1, score.shape[1])) if score.device.type == "cpu" else max(1, len(score))
    leaves = [None] * -(-len(score) // step) if leaf is None else torch.split(leaf, step)
    blocks = zip(torch.split(score, step), leaves, strict=True) if len(score) else ()
    return joined_posteriors([_block_posterior(block, temperature, own, left_out) for block, own in blocks])


def _block_posterior(score: torch.Tensor, temperature: float, leaf: torch.Tensor | None, left_out: float) -> Posterior:
    best = score.amax(dim=1, keepdim=True)
    counted = (score > -torch.inf).sum(dim=1)
    share = shares(score, best, temperature)
    total = share.sum(dim=1, keepdim=True, dtype=torch.float64)
    kept = (share > 0) & (share >= _least_share(share, total.float(), left_out))
    lengths = kept.sum(dim=1).cpu().numpy()
    # numpy finds and takes them four times faster than torch does on a CPU.
    if share.device.type == "cpu":
        places = np.flatnonzero(kept.numpy().ravel())
    else:
        places = kept.flatten().nonzero()[:, 0].cpu().numpy()
    listed = share.flatten().cpu().numpy().take(places).astype(np.float64)
    log_total = best[:, 0].double() / temperature + total[:, 0].log()
    return Posterior(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        places % share.shape[1] if leaf is None else leaf.flatten().cpu().numpy().take(places),
        listed / np.repeat(total[:, 0].cpu().numpy(), lengths),
        log_total.cpu().numpy(),
        counted.cpu().numpy(),
    )


def _least_share(share: torch.Tensor, total: torch.Tensor, left_out: float) -> torch.Tensor:
    """The share (Q, 1) below which leaves are left out: all of those together hold no more than may be.

    share: (Q, M). total: (Q, 1). A posterior is long where it is flat, and then most of its leaves go.
    """
    least = left_out / share.shape[1] * total
    if not left_out or int((share >= least).sum()) <= _LONG * len(share):
        return least
    most = left_out * total  # a leaf that holds as much cannot go with any other
    fewer = torch.empty_like(share)
    for _ in range(_HALVINGS):
        between = (least * most).sqrt()
        # What smaller ones hold: all, cut off there, less what was cut off. Ten times faster than to mask the others.
        larger = share.shape[1] - torch.lt(share, between, out=fewer).sum(dim=1, keepdim=True)
        held = share.clamp(max=between).sum(dim=1, keepdim=True) - between * larger
        fits = held <= 0.99 * left_out * total  # of sums of float32 numbers
        least, most = torch.where(fits, between, least), torch.where(fits, most, between)
    return least


def posterior_of_shares(counted: Posterior, query: np.ndarray, leaf: np.ndarray, share: np.ndarray) -> Posterior:
    """Shares (M,), each of a query and a leaf, those of the same summed; leaves that have none are not listed.

    counted: a posterior of the same queries, whose totals and numbers of leaves are kept.
    """
    width = int(leaf.max(initial=0)) + 1
    keys, which = np.unique(query * width + leaf, return_inverse=True)
    of, listed = np.divmod(keys, width)
    begins = np.searchsorted(of, np.arange(len(counted) + 1)).astype(np.int64)
    return replace(counted, begins=begins, leaf=listed, probability=np.bincount(which, share, minlength=len(keys)))


def joined_posteriors(parts: Sequence[Posterior]) -> Posterior:
    """The posteriors of one block of queries after another."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Posterior(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, np.int64))
    lengths = np.concatenate([np.diff(part.begins) for part in parts])
    return Posterior(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([part.leaf for part in parts]),
        np.concatenate([part.probability for part in parts]),
        np.concatenate([part.log_total for part in parts]),
        np.concatenate([part.counted for part in parts]),
    )
