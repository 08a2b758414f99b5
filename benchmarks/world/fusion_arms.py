"""`python -m benchmarks.world.fusion_arms`: does semantic fusion help, is it the maps that help, and in which kind?

Encoders learn the same photos of the embedded world with the same settings, each from three seeds:

    photos alone              no class maps
    each kind                 class maps of the relief, fused as `FusionConfig.kind` says
    each kind, other maps     the same, but every photo has another photo's map: what a larger model alone would gain
    map alone                 `concatenate` with photos that are grey all over: what a map tells by itself

All are judged by the same test photos. Differences have paired bootstrap intervals over photos and seeds
(`search.evaluation.bootstrap`).

In: nothing but this checkout. Out: a folder with one file for each encoder and seed, which a second run does not make
again, and a line of `benchmarks/results/world-fusion.jsonl`.
"""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser

from benchmarks.harness import Report
from benchmarks.world.arms import SEEDS, Arm, ComparisonPreset, Run, Stage, errors_km, learnt, make_runs, missing_runs
from benchmarks.world.fusion_record import RECORD
from benchmarks.world.generator import WorldConfig
from encoder.config import FusionKind
from encoder.models.fusion import KINDS
from encoder.models.model import GeoEncoder
from indexer.earth.geo import Accuracy, accuracy
from search.evaluation.bootstrap import paired_intervals
from search.evaluation.options import Resampling
from training.cells.heads import GeocellHead
from training.config import ModelConfig
from training.photos.run_photos import PhotoSet
from training.runs.inputs import build_encoder

log = logging.getLogger(__name__)

SMALL = ComparisonPreset(WorldConfig(n_train=10_000), (500, 200, 75, 30, 12), 3, epochs=6)
FULL = ComparisonPreset(WorldConfig(), (1000, 400, 150, 60, 25, 12), 3, epochs=8)  # the demo's

ANSWER = "answer"  # the one way in which each arm answers
_GREY = 128
_LIMITS_KM = (200.0, 750.0)
_COMPARED = "200"  # km: within which arms are held against one another


@dataclass(frozen=True)
class FusionArm(Arm):
    """One thing that is trained: a way to fuse, and what it gets to see."""

    kind: FusionKind | None = None  # None: no fusion, and no maps
    maps: Literal["own", "of others"] = "own"
    photos: Literal["own", "grey"] = "own"

    @property
    def controlled(self) -> bool:
        """Whether it is one that others are controls of."""
        return self.kind is not None and (self.maps, self.photos) == ("own", "own")


ALONE = FusionArm("photos alone")
MAP_ALONE = FusionArm("map alone", "concatenate", photos="grey")
_BESIDE = (ALONE, FusionArm("steer", "steer"), FusionArm("concatenate", "concatenate"))  # what all are held against


def other_maps(kind: FusionKind) -> FusionArm:
    """A kind whose photos have the maps of other photos."""
    return FusionArm(f"{kind}, other maps", kind, maps="of others")


ARMS = (ALONE, *(arm for kind in KINDS for arm in (FusionArm(kind, kind), other_maps(kind))), MAP_ALONE)


def compare_arms(
    preset: ComparisonPreset,
    out: Path,
    *,
    arms: Sequence[FusionArm] = ARMS,
    seeds: Sequence[int] = SEEDS,
    at_most: int | None = None,
) -> int:
    """Train what has not been trained, print the table, and return the exit code: 1 where fusion does not help.

    at_most: runs to make; where some are missing then, nothing is reported.
    """
    stage = Stage(preset, out / "world")
    missing = missing_runs(arms, seeds, stage, out / "runs")
    if at_most is not None and len(missing) > at_most:
        for arm, seed in missing[:at_most]:
            make_runs([arm], [seed], stage, out / "runs", train_arm)
        log.info("%d runs are missing: run this again", len(missing) - at_most)
        return 0
    runs = make_runs(arms, seeds, stage, out / "runs", train_arm)
    return report_runs(runs, preset, stage.settings.model, arms=arms)


def train_arm(arm: FusionArm, seed: int, stage: Stage) -> Run:
    """Train one encoder and judge it by the test photos."""
    config = replace(stage.settings, seed_everything=seed)
    sets = {split: seen_by(arm, photos, seed) for split, photos in stage.sets.items()}
    torch.manual_seed(seed)
    encoder = encoder_of(arm, config.model)
    head = GeocellHead(stage.hierarchy(), config.model.width, negatives=config.loss.negatives, seed=seed)
    module, seconds = learnt(encoder, head, sets, config)
    return Run(arm.name, seed, seconds, {ANSWER: errors_km(module, sets["test"])})


def encoder_of(arm: FusionArm, model: ModelConfig) -> GeoEncoder:
    """The demo's encoder with an arm's fusion in place of its own; weights come from torch's global generator."""
    assert model.fusion is not None, "the demo's encoder has one"
    if arm.kind is None:
        return build_encoder(replace(model, fusion=None))
    # What a map is worth is asked of encoders that always have one.
    return build_encoder(replace(model, fusion=replace(model.fusion, kind=arm.kind, leave_out=0.0)))


def seen_by(arm: FusionArm, photos: PhotoSet, seed: int) -> PhotoSet:
    """Photos and maps as an arm gets to see them."""
    if arm.kind is None:
        return replace(photos, class_maps=None)
    if arm.maps == "of others":
        photos = shuffled(photos, seed)
    return replace(photos, pixels=torch.full_like(photos.pixels, _GREY)) if arm.photos == "grey" else photos


def shuffled(photos: PhotoSet, seed: int) -> PhotoSet:
    """Every photo with the map of another one."""
    assert photos.class_maps is not None
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed))
    return replace(photos, class_maps=photos.class_maps[order])


def judged(run: Run) -> Accuracy:
    """Accuracy of a run on the test photos."""
    return accuracy(run.errors_km[ANSWER])


def report_runs(runs: Sequence[Run], preset: ComparisonPreset, model: ModelConfig, *, arms: Sequence[FusionArm]) -> int:
    """Print means, spreads and differences, and append them to the results."""
    report = Report(RECORD)
    for arm in arms:
        mine = [run for run in runs if run.arm == arm.name]
        reached = [judged(run) for run in mine]
        figures = {
            "median_km": [each.median_km for each in reached],
            **{f"within_{limit:g}": [each.within[f"{limit:g}"] for each in reached] for limit in _LIMITS_KM},
            "seconds": [run.seconds for run in mine],
        }
        spread = {name: _mean_and_spread(values) for name, values in figures.items()}
        others = [other for other in arms if other in _BESIDE and other != arm]
        if arm.controlled and arm.kind is not None and other_maps(arm.kind) in arms:
            others.append(other_maps(arm.kind))
        against = {other.name: difference(runs, arm, other) for other in others}
        weights = 0 if arm.kind is None else fusion_weights(arm, model)
        report.row(
            arm.name,
            f"median {spread['median_km']} km; 200 km {spread['within_200']} %, 750 km {spread['within_750']} %, "
            f"{spread['seconds']} s of training on one core, {len(mine)} seeds, {weights:,} weights of fusion"
            + "".join(f"; against {name} {_text(each)}" for name, each in against.items()),
            holds=_holds(arm, runs, against),
            **figures,
            weights=weights,
            against=against,
        )
    return report.finish(
        seeds=sorted({run.seed for run in runs}),
        photos=preset.world.n_train,
        test_photos=preset.world.n_test,
        epochs=preset.epochs,
        model=asdict(model),
    )


def difference(runs: Sequence[Run], arm: FusionArm, other: FusionArm) -> dict[str, tuple[float, float, float]]:
    """An arm's figures minus another's, each with the ends of its interval, over photos and seeds."""
    ours, theirs = errors_of(runs, arm), errors_of(runs, other)
    ends = paired_intervals(ours, theirs, _LIMITS_KM, Resampling())
    here, there = accuracy(ours.ravel(), _LIMITS_KM), accuracy(theirs.ravel(), _LIMITS_KM)
    middle, low, high = here.median_km - there.median_km, ends.median_km.low, ends.median_km.high
    return {
        "median_km": (middle, low, high),
        **{
            limit: (here.within[limit] - there.within[limit], ends.within[limit].low, ends.within[limit].high)
            for limit in here.within
        },
    }


def errors_of(runs: Sequence[Run], arm: FusionArm) -> np.ndarray:
    """An arm's errors, one row for each seed in rising order: (S, N) km."""
    mine = sorted((run for run in runs if run.arm == arm.name), key=lambda run: run.seed)
    return np.array([run.errors_km[ANSWER] for run in mine])


def fusion_weights(arm: FusionArm, model: ModelConfig) -> int:
    """How many numbers a fusion learns, at the demo's sizes."""
    fusion = encoder_of(arm, model).fusion
    assert fusion is not None, "only photos alone have none"
    return sum(weight.numel() for weight in fusion.parameters())


def _holds(
    arm: FusionArm, runs: Sequence[Run], against: dict[str, dict[str, tuple[float, float, float]]]
) -> bool | None:
    """Of a kind: every run is better than every one of photos alone and of other maps, and by more than chance.

    Of other maps: they are no better than photos alone, by more than chance. None where there is nothing to hold.
    """
    lows = {name: each[_COMPARED][1] for name, each in against.items()}
    if arm.maps == "of others":
        return lows[ALONE.name] <= 0 if ALONE.name in lows else None
    if arm.kind is None or not arm.controlled:
        return None
    controls = [name for name in lows if name in (ALONE.name, other_maps(arm.kind).name)]
    if not controls:
        return None
    worst = min(judged(run).within[_COMPARED] for run in runs if run.arm == arm.name)
    best = max(judged(run).within[_COMPARED] for run in runs if run.arm in controls)
    return worst > best and all(lows[name] > 0 for name in controls)


def _text(each: dict[str, tuple[float, float, float]]) -> str:
    median, share = each["median_km"], each[_COMPARED]
    return (
        f"{median[0]:+.0f} km ({median[1]:+.0f} to {median[2]:+.0f}), "
        f"200 km {share[0]:+.1f} ({share[1]:+.1f} to {share[2]:+.1f})"
    )


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.world.fusion_arms", description=__doc__)
    parser.add_argument("--full", action="store_true", help="As many photos and epochs as the demo.")
    parser.add_argument("--at-most", type=int, help="Make so many runs and end; what is missing is named.")
    parser.add_argument("--out", type=Path, default=Path("out/fusion"), help="Folder to write; finished runs are kept.")
    options = parser.parse_args()
    out = options.out / ("full" if options.full else "small")
    return compare_arms(FULL if options.full else SMALL, out, at_most=options.at_most)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    for package in ("indexer", "training", "benchmarks"):
        logging.getLogger(package).setLevel(logging.INFO)
    raise SystemExit(main())
