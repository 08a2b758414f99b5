"""`python -m benchmarks.geocell_start`: why geocell vectors begin with length 1.

A step of Adam changes a number by about its learning rate, whatever the gradient, and of a geocell vector only the
direction counts. So the longer the vector, the less a step turns it. 768 standard normal numbers, as `nn.Embedding`
begins with, have a length of 28; at the paper's rate of 1e-4, halved after each epoch, the rates of all steps on MP-16
add up to 0.91 for each number (4,567 steps an epoch, twice), a thirtieth of what such a vector needs to be any other.

Here one level of geocells is learned as the recipe has it (Equation 1, negatives of the batch, a learned temperature)
from photo vectors that stay as they are: a random direction for each cell, and noise. As many steps are made at 1e-4 as
add up to the same; each batch holds as small a share of the cells as a batch of 1,024 does of MP-16's finest level
(21,673). What differs is the length that vectors begin with. A third arm makes up for the length by a rate 28 times as
large. Beside the recipe, the encoder moves too, which this cannot show.

In: nothing. Out: a line of `benchmarks/results/geocell-start.jsonl`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jsonargparse import ArgumentParser
from torch.nn.functional import normalize

from benchmarks.harness import Report
from training.cells.heads import INITIAL_TEMPERATURE, SMALLEST_TEMPERATURE
from training.cells.losses import level_loss

RATE = 1e-4  # the paper's, of its first epoch
MP16_STEPS = 4567  # of an epoch: 99 % of 4,723,695 photos, 1,024 at once


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned."""

    cells: int = 212
    batch: int = 10
    width: int = 768
    noise: float = 4.0  # length of what of a photo's vector says nothing of its cell; what does say it has length 1
    steps: int = 2 * MP16_STEPS  # halving after each epoch adds up to twice the first


@dataclass(frozen=True, slots=True)
class Start:
    """How vectors begin, and how fast they are learned."""

    name: str
    length: float
    rate: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of them."""

    turned_deg: float  # the median vector, from where it began
    right: float  # percent of new photos whose own cell is the best of all
    temperature: float


def starts(width: int) -> Sequence[Start]:
    """The arms, the recipe's own first."""
    long = math.sqrt(width)
    return (
        Start("length 1", 1.0, RATE),
        Start(f"length {long:.0f}, as nn.Embedding", long, RATE),
        Start(f"length {long:.0f}, {long:.0f} times the rate", long, long * RATE),
    )


def learn(start: Start, lesson: Lesson, *, seed: int) -> Outcome:
    """Learn geocells from photos that are drawn anew in each step, and judge them by some that are drawn then."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    directions = normalize(randn(lesson.cells, lesson.width), dim=-1)

    def photos(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        cells = torch.randint(lesson.cells, (n,), generator=generator)
        noise = randn(n, lesson.width) * (lesson.noise / math.sqrt(lesson.width))
        return normalize(directions[cells] + noise, dim=-1), cells

    begin = start.length * normalize(randn(lesson.cells, lesson.width), dim=-1)
    geocells = torch.nn.Parameter(begin.clone())
    log_temperature = torch.nn.Parameter(torch.tensor(math.log(INITIAL_TEMPERATURE)))
    groups = [{"params": [geocells], "lr": start.rate}, {"params": [log_temperature], "lr": RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    for _ in range(lesson.steps):
        vectors, cells = photos(lesson.batch)
        optimizer.zero_grad()
        level_loss(vectors, geocells, log_temperature.exp(), cells, negatives="batch").backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            log_temperature.clamp_(min=math.log(SMALLEST_TEMPERATURE))
    with torch.no_grad():
        ended = normalize(geocells, dim=-1)
        cosine = (ended * normalize(begin, dim=-1)).sum(dim=1).clamp(-1, 1)
        vectors, cells = photos(lesson.cells)
        right = ((vectors @ ended.T).argmax(dim=1) == cells).float().mean()
    return Outcome(
        float(torch.rad2deg(cosine.arccos()).median()), 100 * float(right), float(log_temperature.detach().exp())
    )


def compare(lesson: Lesson, *, seed: int = 0) -> int:
    """Learn with each start, print what became of it, and return the exit code: 1 where length 1 is not the better."""
    report = Report("geocell-start")
    outcomes = [(start, learn(start, lesson, seed=seed)) for start in starts(lesson.width)]
    best, worse = outcomes[0][1], outcomes[1][1]
    for start, outcome in outcomes:
        report.row(
            start.name,
            f"turned by {outcome.turned_deg:.0f} degrees, {outcome.right:.1f} % of new photos find their cell, "
            f"temperature {outcome.temperature:.3f}",
            holds=best.right > worse.right if outcome is best else None,
            **asdict(outcome),
        )
    return report.finish(lesson=asdict(lesson), starts=[asdict(start) for start in starts(lesson.width)], seed=seed)


def main() -> int:
    """Run the command line and return its exit code."""
    ArgumentParser(prog="python -m benchmarks.geocell_start", description=__doc__).parse_args()
    return compare(Lesson())


if __name__ == "__main__":
    raise SystemExit(main())
