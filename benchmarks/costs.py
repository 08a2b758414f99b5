"""`python -m benchmarks.costs`: what MP-16 and 100 million photos cost at each step, as arithmetic.

In: slopes that other benchmarks measured (`results/*.jsonl`), products that torch counted here (`--count true` counts
them anew, into `results/costs.jsonl`), and what a GPU is taken to do, which nobody measured: a share of what its data
sheet says. Out: the table of docs/operations.md. It says what to expect within a factor of two, not what was seen.
"""

import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import PAPER, random_oneformer
from benchmarks.harness import Report, recorded
from encoder.config import FusionConfig
from encoder.models.model import VIT_LARGE_336, GeoEncoder, GeoEncoderConfig
from search.evaluation.truth import PUBLISHED_PHOTOS

PHOTOS = {"MP-16": 4_700_000, "100 million": 100_000_000}
GPUS = 8
SHARE_OF_PEAK = 0.4
# Products of bfloat16 matrices a second, dense, by their makers' data sheets.
PEAKS = {"RTX A6000": 155e12, "H100 or H200": 989e12}
EPOCHS = 10  # after which the halved rates change nothing; `trainer.max_epochs` is 40
MAP_BYTES = 10_000  # of the class map of a photo of 512 x 384, as `encoder.class_maps.class_map` has it
WIDTH = 768
CROPS = 10
HELD_OUT = 0.01
BENCHMARKS = sum(PUBLISHED_PHOTOS.values())  # photos of IM2GPS, IM2GPS3k, YFCC4k and YFCC26k


@dataclass(frozen=True, slots=True)
class Slopes:
    """What each photo takes, as it was measured or counted."""

    partition_s: float  # on two cores
    partition_bytes: float  # of memory
    partition_fixed_bytes: float
    gallery_s: float  # to build one, on two cores
    answer_s: float  # from a vector, on two cores
    encode_flops: float  # one crop
    learn_flops: float  # forward and backward
    segment_flops: float
    weights: int  # of the encoder
    learnt: int  # of these that are learned


@dataclass(frozen=True, slots=True)
class Cost:
    """One step for so many photos."""

    step: str
    hours: Mapping[str, float]  # by card, of GPUS of them; one entry under "" where no GPU works
    disk_bytes: float
    memory: str


def costs(photos: int, slopes: Slopes) -> Iterator[Cost]:
    """Each step of the recipe for so many photos to learn from, and for as many to answer."""

    def by_card(flops: float) -> dict[str, float]:
        return {card: photos * flops / (GPUS * SHARE_OF_PEAK * peak) / 3600 for card, peak in PEAKS.items()}

    def on_cores(seconds: float) -> dict[str, float]:
        return {"": photos * seconds / 3600}

    memory = slopes.partition_fixed_bytes + photos * slopes.partition_bytes
    yield Cost("`partition`", on_cores(slopes.partition_s), 8.0 * photos, f"{memory / 1e9:.1f} GB")
    yield Cost("`segment`, 640 pixels", by_card(slopes.segment_flops), photos * MAP_BYTES, "a few GB of each GPU")
    # Weights and the optimiser's two moments of those that are learned, twice while they are replaced; the best epoch's
    # weights likewise; and the result.
    kept = 4 * (2 * (slopes.weights + 2 * slopes.learnt) + 2 * slopes.weights + slopes.weights)
    yield Cost(f"`fit`, {EPOCHS} epochs", by_card(EPOCHS * slopes.learn_flops), kept, "see `fit --check`")
    yield Cost("`fit`, vectors of the gallery", _of_one(by_card(slopes.encode_flops)), 0.0, "")
    yield Cost("`fit`, the gallery itself", on_cores(slopes.gallery_s), photos * WIDTH, "1 byte a number, mapped")
    held_out = by_card(HELD_OUT * (1 + CROPS) * slopes.encode_flops)
    yield Cost("`embed` of the held-out 1 %, both ways", _of_one(held_out), HELD_OUT * photos * 2 * 4 * WIDTH, "")
    # However many photos were learned from. By one process, and maps are made on the way.
    benchmarks = BENCHMARKS * (CROPS * slopes.encode_flops + slopes.segment_flops)
    hours = _of_one({card: benchmarks / (GPUS * SHARE_OF_PEAK * peak) / 3600 for card, peak in PEAKS.items()})
    yield Cost(f"`evaluate --tables`, {BENCHMARKS:,} photos", hours, 0.0, "")
    for crops in (1, CROPS):
        encoded = by_card(crops * slopes.encode_flops)
        yield Cost(f"answer as many, {'one crop' if crops == 1 else 'ten crops'}: encode", encoded, 0.0, "")
    yield Cost("the same: search leaves, on two cores", on_cores(slopes.answer_s), 0.0, "")


def _of_one(hours: Mapping[str, float]) -> dict[str, float]:
    """The same on one GPU."""
    return {card: GPUS * each for card, each in hours.items()}


def read_slopes() -> Slopes:
    """From the latest rows of the results."""
    partition, gallery, run, counted = (_latest(name) for name in ("partition", "gallery", "run", "costs"))
    fewer, more = (partition(rf"partition of {n} photos$") for n in ("4,700,000", "47,000,000"))
    built = gallery(r"a gallery of [\d,]+ photos x 768 in 8 bits")
    n_built = int(re.sub(r"\D", "", built["what"].partition("photos")[0]))
    memory = float(partition("memory for one more photo")["bytes"])
    return Slopes(
        partition_s=(more["seconds"] - fewer["seconds"]) / (more["photos"] - fewer["photos"]),
        partition_bytes=memory,
        partition_fixed_bytes=fewer["peak_bytes"] - memory * fewer["photos"],
        gallery_s=built["build_s"] / n_built,
        answer_s=1 / run(r"from vectors, [\d,]+ leaves x 768")["rows_per_second"],
        encode_flops=counted("encode")["flops"],
        learn_flops=counted("learn")["flops"],
        segment_flops=counted("segment")["flops"],
        weights=counted("learn")["weights"],
        learnt=counted("learn")["learnt"],
    )


def _latest(name: str) -> Callable[[str], dict[str, Any]]:
    rows = list(itertools.chain.from_iterable(line["rows"] for line in recorded(name)))

    def find(pattern: str) -> dict[str, Any]:
        return next(row for row in reversed(rows) if re.match(pattern, row["what"]))

    return find


def sheet() -> str:
    """The table, as Markdown."""
    slopes = read_slopes()
    heads = [f"{name}: {what}" for name in PHOTOS for what in (*(f"{GPUS} x {card}" for card in PEAKS), "disk")]
    lines = [f"| | {' | '.join(heads)} | memory |", f"|---|{'---:|' * len(heads)}---|"]
    for of_each in zip(*(costs(n, slopes) for n in PHOTOS.values()), strict=True):
        cells = [of_each[0].step]
        for cost in of_each:
            cells += [_time(cost.hours.get(card, cost.hours.get("", 0.0))) for card in PEAKS]
            cells.append(_size(cost.disk_bytes))
        cells.append("; ".join(dict.fromkeys(cost.memory for cost in of_each)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _time(hours: float) -> str:
    if hours < 1:
        return f"{max(hours * 60, 0.1):.2g} min"
    return f"{hours:.2g} h" if hours < 48 else f"{hours / 24:.2g} days"


def _size(n_bytes: float) -> str:
    if not n_bytes:
        return ""
    return f"{n_bytes / 1e12:.2g} TB" if n_bytes >= 1e12 else f"{n_bytes / 1e9:.2g} GB"


def count(report: Report) -> None:
    """Count the products of each pass, of one photo."""
    with torch.device("meta"):
        model = GeoEncoder(GeoEncoderConfig(vision_config=dict(VIT_LARGE_336)))
        model.add_fusion(FusionConfig())
    model.freeze(trainable_blocks=1)
    model.train()
    pixels = torch.zeros((1, 3, 336, 336), device="meta")
    maps = torch.zeros((1, 336, 336), dtype=torch.uint8, device="meta")
    weights = sum(weight.numel() for weight in model.parameters())
    learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    with torch.no_grad():
        encode = flops_of(lambda: model(pixels, maps))
    learn = flops_of(lambda: torch.autograd.backward(model(pixels, maps).sum()))
    report.row("encode", f"{encode / 1e9:.0f} GFLOP a crop", flops=encode)
    report.row("learn", f"{learn / 1e9:.0f} GFLOP a photo", flops=learn, weights=weights, learnt=learnt)
    segmenter = random_oneformer(PAPER.swin, PAPER.oneformer).eval().requires_grad_(False)
    photo, task = torch.zeros((1, 3, 640, 853)), torch.zeros((1, 77))
    with torch.no_grad():
        segment = flops_of(lambda: segmenter(pixel_values=photo, task_inputs=task))
    report.row("segment", f"{segment / 1e9:.0f} GFLOP a photo of 4:3", flops=segment)


def flops_of(work: Callable[[], object]) -> float:
    """Multiplications and additions of the matrices alone, counted by torch; attention is made of plain products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return float(counter.get_total_flops())


def main() -> int:
    """Print the sheet, or count first."""
    parser = ArgumentParser(prog="python -m benchmarks.costs", description="What MP-16 and 100 million photos cost.")
    parser.add_argument("--count", type=bool, default=False, help="Count products anew, and keep them in the results.")
    options = parser.parse_args()
    if options.count:
        report = Report("costs")
        count(report)
        report.finish()
    sys.stdout.write(f"{sheet()}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
