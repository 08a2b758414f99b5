"""`python -m benchmarks.world.augmentation_arms`: is it worth while to learn from random crops, and from mirror images?

Encoders learn the same photos of the embedded world with the demo's settings, but for how each photo is cut: always
its middle, a random crop, the middle or its mirror image, or a random crop or its mirror image; with the demo's other
changes (small shifts, turns, colours), or with `--alone` without them, as `configs/mp16.yaml` has it. Each answers the
same test photos by one crop and by ten, as the paper's tables do. Differences from an encoder that always sees the
middle have paired intervals, pooled over seeds, as those of `benchmarks.world.ablations`.

In: nothing but this checkout. Out: a folder with a file for each encoder and seed, which a second run does not make
again, and a line of `benchmarks/results/world-augmentation.jsonl`.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser

from benchmarks.harness import Report
from benchmarks.world.ablation_table import Method, compare, errors_of, figures_text, verdict_text
from benchmarks.world.arms import SEEDS, Arm, ComparisonPreset, Run, Stage, errors_km, learnt, make_runs
from benchmarks.world.generator import WorldConfig
from encoder.photos.crops import N_CROPS, crop_maps, crop_photos, normalise
from indexer.earth.geo import accuracy, haversine_km
from search.evaluation.options import Resampling
from search.evaluation.published import PUBLISHED_KM
from training.cells.heads import GeocellHead, best_rows
from training.config import Augmentation
from training.photos.run_photos import PhotoSet
from training.photos.uncut_photos import load_uncut
from training.runs.inputs import build_encoder
from training.runs.module import GeoModule

PRESET = ComparisonPreset(WorldConfig(n_train=7_500), (500, 200, 75, 30, 12), 3, epochs=6)
ONE, TEN = "one crop", "ten crops"  # ways to answer
_BLOCK = 50  # photos encoded at once, in ten crops each


@dataclass(frozen=True)
class CutArm(Arm):
    """How training photos are changed."""

    random_crop: bool
    mirror: bool
    others: bool  # the demo's other changes as well


CUTS = {"the middle": (False, False), "random crop": (True, False), "mirror": (False, True), "both": (True, True)}


def arms_of(*, others: bool) -> list[CutArm]:
    """What is compared, the encoder that always sees the middle first."""
    changes = "with the demo's other changes" if others else "no other changes"
    return [CutArm(f"{name}, {changes}", *cut, others) for name, cut in CUTS.items()]


def compare_cuts(preset: ComparisonPreset, out: Path, *, others: bool = True, seeds: Sequence[int] = SEEDS) -> int:
    """Train what has not been trained, print the table, and return the exit code."""
    stage, arms = Stage(preset, out / "world"), arms_of(others=others)
    return report_runs(make_runs(arms, seeds, stage, out / "runs", train_arm), arms, preset)


def train_arm(arm: CutArm, seed: int, stage: Stage) -> Run:
    """Train one encoder, and let it answer the test photos by one crop and by ten."""
    demo = stage.settings.data
    others = demo.augmentation if arm.others else Augmentation()
    augmentation = replace(others, random_crop=arm.random_crop, mirror=arm.mirror)
    config = replace(stage.settings, data=replace(demo, augmentation=augmentation), seed_everything=seed)
    photos = None
    if augmentation.draws_windows:
        photos = load_uncut(stage.stream("train", augmentation), memory_limit_gb=demo.memory_limit_gb)
    torch.manual_seed(seed)
    encoder = build_encoder(config.model)
    head = GeocellHead(stage.hierarchy(), config.model.width, negatives=config.loss.negatives, seed=seed)
    module, seconds = learnt(encoder, head, stage.sets, config, photos=photos)
    test = stage.sets["test"]
    return Run(arm.name, seed, seconds, {ONE: errors_km(module, test), TEN: ten_crop_errors_km(module, test)})


@torch.inference_mode()
def ten_crop_errors_km(module: GeoModule, photos: PhotoSet) -> np.ndarray:
    """Errors of answers by the mean of the vectors of ten crops (`encoder.encode`): (N,) float64.

    photos: as large as a crop, so that their middle crops, which a PhotoSet holds, are all of them.
    """
    encoder, head = module.encoder, module.head
    best = []
    for rows in torch.split(torch.arange(len(photos)), _BLOCK):
        whole = list(photos.pixels[rows].permute(0, 2, 3, 1))
        crops = crop_photos(whole, encoder.preprocessing, crops="ten").flatten(0, 1)
        maps = None
        if photos.class_maps is not None:
            shapes = [(photo.shape[0], photo.shape[1]) for photo in whole]
            maps = crop_maps(list(photos.class_maps[rows]), shapes, encoder.preprocessing, crops="ten").flatten(0, 1)
        vectors = encoder(normalise(crops, encoder.preprocessing), maps)
        best.append(best_rows(head.queries(vectors.unflatten(0, (len(rows), N_CROPS["ten"])).mean(dim=1)), head.rows()))
    row = torch.cat(best).numpy()
    return haversine_km(photos.lat_deg, photos.lng_deg, head.lat_deg[row], head.lng_deg[row])


def report_runs(runs: Sequence[Run], arms: Sequence[CutArm], preset: ComparisonPreset) -> int:
    """Print what each arm came to beside the one that always sees the middle, and append it to the results."""
    report, resampling = Report("world-augmentation"), Resampling()
    for way in (ONE, TEN):
        middle, *methods = (Method(f"{arm.name}, {way}", arm.name, way) for arm in arms)
        reached = accuracy(errors_of(middle, runs).ravel(), PUBLISHED_KM)
        seconds = float(np.mean([run.seconds for run in runs if run.arm == middle.arm]))
        report.row(middle.name, figures_text(reached, seconds), **asdict(reached), seconds=seconds)
        for row in compare(methods, middle, runs, resampling):
            figures = {name: value for name, value in asdict(row).items() if name not in ("method", "accuracy")}
            ends = row.intervals.median_km
            text = f"{figures_text(row.accuracy, row.seconds)}. Median {ends.low:+.1f} to {ends.high:+.1f} km"
            report.row(row.method.name, f"{text}; {verdict_text(row)}", **asdict(row.accuracy), **figures)
    return report.finish(
        seeds=sorted({run.seed for run in runs}),
        made_with=sorted({run.commit for run in runs}),
        preset=asdict(preset),
        resampling=asdict(resampling),
        arms=[asdict(arm) for arm in arms],
    )


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.world.augmentation_arms", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/augmentation"), help="Folder to write; runs are kept.")
    parser.add_argument("--alone", action="store_true", help="Without the demo's other changes.")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="How many of the three seeds.")
    options = parser.parse_args()
    return compare_cuts(PRESET, options.out, others=not options.alone, seeds=SEEDS[: options.seeds])


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    for package in ("indexer", "training", "benchmarks"):
        logging.getLogger(package).setLevel(logging.INFO)
    raise SystemExit(main())
