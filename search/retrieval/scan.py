"""The exhaustive first look: every leaf is compared, by products of matrices, and the best ones are kept.

In: queries and the leaf vectors. Out: candidates with a proven bound on what others can score, and on request the sum
of exp(score / T) over all leaves, which makes scores into probabilities.

Two ways to multiply. In float32; or, on processors that multiply bfloat16 several times faster (CPUs with avx512_bf16
or AMX, GPUs), in that: the few leaves within its error of the best are then scored in float32. Both hand their
candidates on to `search.retrieval.proof`, so that neither changes an answer. Probabilities always come from float32
scores.

Scores are kept only as long as a block of them is looked at. Each block is seen as short columns of a few leaves, and
the best leaves are looked for in those columns alone whose largest score is among the largest: one pass over all scores
and a small sort, where a partial sort of every row takes three times as long.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch

from search.retrieval.proof import Candidates, float32_error, pair_blocks
from search.retrieval.shares import shares

_COLUMN = 64  # leaves whose maximum is taken first
_PASS = 1 << 16  # leaves compared before their best are merged with those of others
_PRODUCT = 1 << 10  # leaves in one product of matrices: its scores stay in cache while they are written
_SPARE_LOW = 24  # candidates beyond those wanted when they are found in bfloat16
_SUMMED = 1 << 16  # scores whose exponentials are summed at once


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    """The n best leaves of some, and what the sum over the others needs."""

    leaf: torch.Tensor  # (Q, n) int64
    score: torch.Tensor  # (Q, n) float32, descending
    others: torch.Tensor | None  # (Q,) float64, log of the sum of exp(score / T) over all but the first


class LeafScan:
    """Compares queries with all leaf vectors."""

    def __init__(self, rows: torch.Tensor, *, low_precision: bool) -> None:
        """rows: (leaves, leaf_width) float32, or float16 where they would not fit otherwise.

        low_precision: keep those in float32 in bfloat16 too, and look there first.
        """
        assert rows.dtype == torch.float32 or not low_precision, "float16 is all that there is room for"
        self._rows = rows
        assert torch.get_float32_matmul_precision() == "highest", "the bounds are those of true float32"
        self._buffers: dict[torch.dtype, torch.Tensor] = {}
        # 32 MB of scores on a CPU, about its cache; on a GPU what keeps it busy.
        self._held = 1 << 23 if rows.device.type == "cpu" else 1 << 28
        self._longest = max(float(part.float().norm(dim=1).max()) for part in torch.split(rows, _PASS))
        # What float16 leaves out of a number: half of its last digit, or of its smallest step.
        self._lost = 0.0
        if rows.dtype == torch.float16:
            self._lost = 2.0**-11 * self._longest / (1 - 2.0**-11) + 2.0**-25 * rows.shape[1] ** 0.5
        self._has_low = low_precision

    @cached_property
    def _low(self) -> torch.Tensor:
        """The rows in bfloat16, made when they are first wanted: who wants all scores does without."""
        return self._rows.bfloat16()

    @cached_property
    def _low_lost(self) -> float:
        """What bfloat16 leaves out of a row, at most."""
        # A few at a time: in float64 they take five times the memory of what they are.
        pairs = zip(torch.split(self._rows, _PRODUCT), torch.split(self._low, _PRODUCT), strict=True)
        return max(float((row.double() - low.double()).norm(dim=1).max()) for row, low in pairs)

    def best(self, queries: torch.Tensor, n: int) -> Candidates:
        """The n best leaves of each query, or fewer, and what others can score; queries: (Q, leaf_width) float32."""
        if self._has_low:
            return self._from_low(queries, n)
        return self._candidates(queries, self._best(queries, self._rows, n))

    def best_and_others(self, queries: torch.Tensor, n: int, temperature: float) -> tuple[Candidates, torch.Tensor]:
        """The same, and the log of the sum of exp(score / temperature) over all but the first candidate: (Q,)."""
        found = self._best(queries, self._rows, n, temperature=temperature)
        assert found.others is not None
        return self._candidates(queries, found), found.others

    def scores(self, queries: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """All float32 scores, of some queries at a time, for the caller to overwrite, as the next ones do.

        They are (Q', M), M at least the number of leaves, and minus infinity beyond the last leaf.
        """
        columns = _COLUMN * -(-len(self._rows) // _COLUMN)
        step = max(1, self._held // columns)
        for begin in range(0, len(queries), step):
            block = queries[begin : begin + step]
            yield slice(begin, begin + len(block)), self._products(block, self._rows, columns)

    def best_of(self, queries: torch.Tensor, scores: torch.Tensor, n: int) -> Candidates:
        """As `best`, of queries whose scores are known: those that `scores` gives, before they are overwritten."""
        found = _best_of_scores(scores, min(n, len(self._rows)), scores.shape[1] // _COLUMN, temperature=None)
        return self._candidates(queries, found)

    def _candidates(self, queries: torch.Tensor, found: _Best) -> Candidates:
        error = self._error(queries)
        return Candidates(found.leaf, found.score, error, self._ceiling(found, error))

    def _ceiling(self, found: _Best, error: torch.Tensor) -> torch.Tensor:
        if found.leaf.shape[1] == len(self._rows):
            return torch.full_like(error, -torch.inf)
        return found.score[:, -1].double() + error

    def _error(self, queries: torch.Tensor) -> torch.Tensor:
        """How far float32 scores can be off: (Q,) float64."""
        length = queries.double().norm(dim=1)
        return length * (float32_error(queries.shape[1]) * self._longest + self._lost)

    def _from_low(self, queries: torch.Tensor, n: int) -> Candidates:
        wanted = min(n, len(self._low))
        rounded = queries.bfloat16()
        found = self._best(rounded, self._low, min(n + _SPARE_LOW, len(self._low)))
        low, error = found.score.double(), self._low_error(queries, rounded, found.score)
        leaf, ceiling = found.leaf, self._ceiling(found, error)
        # Those that cannot be among the n best need no second look; the others get one in float32.
        needed = low + error[:, None] >= low[:, wanted - 1 : wanted] - error[:, None]
        row, place = needed.nonzero(as_tuple=True)
        score = torch.full(leaf.shape, -torch.inf, device=queries.device)
        pairs = pair_blocks(row, leaf[row, place], width=queries.shape[1])
        score[row, place] = torch.cat([(queries[query] * self._rows[found]).sum(dim=1) for query, found in pairs])
        score, order = score.sort(dim=1, descending=True)
        leaf = leaf.masked_fill(~needed, -1).gather(1, order)
        return Candidates(leaf, score, self._error(queries), ceiling)

    def _low_error(self, queries: torch.Tensor, rounded: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
        """How far bfloat16 scores can be off: (Q,) float64.

        |v.G - v'.G'| <= |v| |G - G'| + |v - v'| |G'| for what rounding made of v and G; sums in float32, which matrix
        units cut off rather than round (four times the bound); and the result rounded to bfloat16 once more, on CPUs.
        """
        wide = queries.double()
        longest = self._longest + self._low_lost
        inputs = wide.norm(dim=1) * self._low_lost + (wide - rounded.double()).norm(dim=1) * longest
        sums = 4 * float32_error(queries.shape[1]) * rounded.double().norm(dim=1) * longest
        largest = torch.maximum(score[:, 0].abs(), score[:, -1].abs()).double()
        return inputs + sums + 2.0**-8 / (1 - 2.0**-8) * largest

    def _best(self, queries: torch.Tensor, rows: torch.Tensor, n: int, *, temperature: float | None = None) -> _Best:
        """The n best rows of each query, at most as many as there are."""
        parts = []
        for begin, end in pairwise([*range(0, len(rows), _PASS), len(rows)]):
            part = rows[begin:end]
            if part.dtype == torch.float16:
                part = part.float()
            width = -(-len(part) // _COLUMN)
            blocks = []
            for block in torch.split(queries, max(1, self._held // (width * _COLUMN))):
                scores = self._products(block, part, width * _COLUMN)
                blocks.append(_best_of_scores(scores, min(n, len(part)), width, temperature=temperature))
            found = _joined(blocks)
            parts.append(_Best(found.leaf + begin, found.score, found.others))
        return parts[0] if len(parts) == 1 else _merged(parts, n, temperature=temperature)

    def _products(self, queries: torch.Tensor, rows: torch.Tensor, columns: int) -> torch.Tensor:
        """Inner products (Q, columns), minus infinity beyond the last row; overwritten by the next call."""
        on_cpu = rows.device.type == "cpu"
        # CPUs round a product to its factors' type; of GPUs float32 is wanted.
        kind = torch.float32 if rows.dtype == torch.float16 or not on_cpu else rows.dtype
        buffer = self._buffers.get(kind)
        # Kept from call to call: new pages would cost a tenth of the time.
        if buffer is None or len(buffer) < len(queries) * columns:
            buffer = self._buffers[kind] = torch.empty(len(queries) * columns, dtype=kind, device=rows.device)
        scores = buffer[: len(queries) * columns].view(len(queries), columns)
        scores[:, len(rows) :] = -torch.inf
        size = _PRODUCT if on_cpu else _PASS
        for begin in range(0, len(rows), size):
            part = rows[begin : begin + size].T
            if part.dtype == torch.float16:
                part = part.float()
            out = scores[:, begin : begin + part.shape[1]]
            if part.dtype == kind:
                torch.mm(queries, part, out=out)
            else:
                torch.mm(queries, part, out_dtype=kind, out=out)
        return scores


def _joined(parts: list[_Best]) -> _Best:
    """The best of one block of queries after another."""
    others = [part.others for part in parts if part.others is not None]
    return _Best(
        torch.cat([part.leaf for part in parts]),
        torch.cat([part.score for part in parts]),
        torch.cat(others) if others else None,
    )


def _merged(parts: list[_Best], n: int, *, temperature: float | None) -> _Best:
    score, order = torch.cat([part.score for part in parts], dim=1).topk(min(n, sum(p.leaf.shape[1] for p in parts)))
    leaf = torch.cat([part.leaf for part in parts], dim=1).gather(1, order)
    others = None
    if temperature is not None:
        firsts = torch.stack([part.score[:, 0].double() / temperature for part in parts], dim=1)
        firsts.scatter_(1, firsts.argmax(dim=1, keepdim=True), -torch.inf)  # the best of all is not among the others
        rest = torch.stack([part.others for part in parts if part.others is not None], dim=1)
        others = torch.cat([firsts, rest], dim=1).logsumexp(dim=1)
    return _Best(leaf, score, others)


def _best_of_scores(scores: torch.Tensor, n: int, width: int, *, temperature: float | None) -> _Best:
    """The n best of each row of scores (Q, _COLUMN * width), which are overwritten where others are summed."""
    columns = scores.view(len(scores), _COLUMN, width)  # column w holds leaves w, w + width, w + 2 width, ...
    largest = columns.amax(dim=1)
    # The n best leaves are in the n columns with the largest maxima.
    chosen = largest.topk(min(n, width), sorted=False).indices
    held = columns.gather(2, chosen[:, None, :].expand(-1, _COLUMN, -1)).flatten(1)
    score, place = held.topk(n)
    leaf = place // chosen.shape[1] * width + chosen.gather(1, place % chosen.shape[1])
    others = None if temperature is None else _log_sum_of_others(scores, leaf[:, :1], score, temperature)
    return _Best(leaf, score.float(), others)


def _log_sum_of_others(
    scores: torch.Tensor, best: torch.Tensor, score: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Log of the sum of exp(score / temperature) over all leaves but the best: (Q,) float64; overwrites the scores.

    scores: (Q, N). best: (Q, 1), their first. score: (Q, n), the highest. The best is left to its float64 score, so
    that no probability can round to more than 1 and one near 1 is right in what it lacks.
    """
    if score.shape[1] == 1:  # there is no other
        return torch.full((len(score),), -torch.inf, dtype=torch.float64, device=score.device)
    scores.scatter_(1, best, -torch.inf)
    second = score[:, 1:2]
    # A few rows at a time, which stay in a CPU's own cache through all four steps: half the time of all at once.
    step = max(1, _SUMMED // scores.shape[1]) if scores.device.type == "cpu" else len(scores)
    blocks = zip(torch.split(scores, step), torch.split(second, step), strict=True)
    total = torch.cat([shares(block, top, temperature).sum(dim=1) for block, top in blocks])
    return total.double().log() + second[:, 0].double() / temperature
