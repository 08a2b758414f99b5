"""`python -m benchmarks.world.fusion_arms`: does semantic fusion help, and is it the maps that help?

Four encoders learn the same photos of the embedded world with the same settings, each from three seeds:

    photos alone    no class maps
    fused           class maps of the relief, fused as we read the paper
    shuffled maps   fused, but every photo has another photo's map: what a larger model alone would gain
    concatenated    the maps' own small network, its vector added to the photo's before the projection's result is
                    normalised, which is what projecting both, one behind the other, comes to

All are judged by the same test photos. In: nothing but this checkout. Out: a folder with one file for each encoder and
seed, which a second run does not make again, and a line of `benchmarks/results/world-fusion.jsonl`.
"""

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.nn.functional import gelu

from benchmarks.harness import Report
from benchmarks.world.arms import SEEDS, Arm, ComparisonPreset, Run, Stage, errors_km, learnt, make_runs
from benchmarks.world.generator import WorldConfig
from encoder.config import FusionConfig
from encoder.fusion import SegmentationTokens
from encoder.model import GeoEncoder, GeoEncoderConfig
from indexer.earth.geo import Accuracy, accuracy
from training.config import ModelConfig
from training.heads import GeocellHead
from training.photos import PhotoSet
from training.run_inputs import build_encoder

SMALL = ComparisonPreset(WorldConfig(n_train=10_000), (500, 200, 75, 30, 12), 3, epochs=6)
FULL = ComparisonPreset(WorldConfig(), (1000, 400, 150, 60, 25, 12), 3, epochs=8)  # the demo's


class ConcatenatingEncoder(GeoEncoder):
    """Photo and map each become a vector by themselves; a linear map of both is the result."""

    def __init__(self, config: GeoEncoderConfig, maps: FusionConfig) -> None:
        super().__init__(config)
        vision = config.vision_config
        self.fusion = MapNetwork(maps, vision.image_size, vision.patch_size, config.projection_dim)  # type: ignore[assignment]

    def unscaled(self, pixels: torch.Tensor, class_maps: torch.Tensor | None = None) -> torch.Tensor:
        """As GeoEncoder."""
        photo = self.projection(self.vision(pixel_values=pixels).pooler_output)
        return (photo + self.fusion(class_maps)).float()  # type: ignore[misc]


class MapNetwork(nn.Module):
    """A map's tokens, one behind the other, through a layer of the fusion's own MLP size."""

    def __init__(self, config: FusionConfig, image_size: int, patch_size: int, out: int) -> None:
        super().__init__()
        self.tokens = SegmentationTokens(config, image_size=image_size, patch_size=patch_size)
        self.tokens.initialise()
        self.norm = nn.LayerNorm(config.width)
        self.hidden = nn.Linear(self.tokens.positions.numel(), config.mlp_size)
        self.out = nn.Linear(config.mlp_size, out)

    def forward(self, class_maps: torch.Tensor) -> torch.Tensor:
        """(B, H, W) uint8 to (B, out)."""
        tokens = self.norm(self.tokens(class_maps)).flatten(1)
        return self.out(gelu(self.hidden(tokens)))


def photos_alone(model: ModelConfig) -> GeoEncoder:
    """No class maps."""
    return build_encoder(replace(model, fusion=None))


def fused(model: ModelConfig) -> GeoEncoder:
    """The fusion of `encoder.fusion`."""
    return build_encoder(model)


def concatenated(model: ModelConfig) -> GeoEncoder:
    """Photo and map side by side."""
    plain = photos_alone(model)
    assert model.fusion is not None, "the demo's encoder has one"
    encoder = ConcatenatingEncoder(plain.config, model.fusion)
    encoder.vision, encoder.projection = plain.vision, plain.projection
    return encoder


ALONE, FUSED, SHUFFLED = "photos alone", "fused", "shuffled maps"
ANSWER = "answer"  # the one way in which each arm answers
ARMS: dict[str, Callable[[ModelConfig], GeoEncoder]] = {
    ALONE: photos_alone,
    FUSED: fused,
    SHUFFLED: fused,
    "concatenated": concatenated,
}


def compare_arms(
    preset: ComparisonPreset, out: Path, *, seeds: Sequence[int] = SEEDS, arms: Sequence[str] = tuple(ARMS)
) -> int:
    """Train what has not been trained, print the table, and return the exit code: 1 where fusion does not help."""
    stage = Stage(preset, out / "world")
    runs = make_runs([Arm(name) for name in arms], seeds, stage, out / "runs", train_arm)
    return report_runs(runs, preset, stage.settings.model)


def train_arm(arm: Arm, seed: int, stage: Stage) -> Run:
    """Train one encoder and judge it by the test photos."""
    sets, config = stage.sets, replace(stage.settings, seed_everything=seed)
    assert config.model.fusion is not None, "the demo's encoder has one"
    # What a map is worth is asked of encoders that always have one.
    config = replace(config, model=replace(config.model, fusion=replace(config.model.fusion, leave_out=0.0)))
    if arm.name == ALONE:
        sets = {split: replace(photos, class_maps=None) for split, photos in sets.items()}
    elif arm.name == SHUFFLED:
        sets = {split: shuffled(photos, seed) for split, photos in sets.items()}
    torch.manual_seed(seed)
    encoder = ARMS[arm.name](config.model)
    head = GeocellHead(stage.hierarchy(), config.model.width, negatives=config.loss.negatives, seed=seed)
    module, seconds = learnt(encoder, head, sets, config)
    return Run(arm.name, seed, seconds, {ANSWER: errors_km(module, sets["test"])})


def shuffled(photos: PhotoSet, seed: int) -> PhotoSet:
    """Every photo with the map of another one."""
    assert photos.class_maps is not None
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed))
    return replace(photos, class_maps=photos.class_maps[order])


def judged(run: Run) -> Accuracy:
    """Accuracy of a run on the test photos."""
    return accuracy(run.errors_km[ANSWER])


def report_runs(runs: Sequence[Run], preset: ComparisonPreset, model: ModelConfig) -> int:
    """Print means and spreads, and append them to the results."""
    report = Report("world-fusion")
    for arm in dict.fromkeys(run.arm for run in runs):
        mine = [run for run in runs if run.arm == arm]
        reached = [judged(run) for run in mine]
        figures = {
            "median_km": [each.median_km for each in reached],
            **{f"within_{limit}": [each.within[limit] for each in reached] for limit in ("200", "750")},
            "seconds": [run.seconds for run in mine],
        }
        spread = {name: _mean_and_spread(values) for name, values in figures.items()}
        holds = _beats(mine, [run for run in runs if run.arm in (ALONE, SHUFFLED)]) if arm == FUSED else None
        report.row(
            arm,
            f"median {spread['median_km']} km; 200 km {spread['within_200']} %, 750 km {spread['within_750']} %, "
            f"{spread['seconds']} s of training on one core, {len(mine)} seeds",
            holds=holds,
            **figures,
        )
    return report.finish(
        seeds=sorted({run.seed for run in runs}),
        photos=preset.world.n_train,
        test_photos=preset.world.n_test,
        epochs=preset.epochs,
        model=asdict(model),
    )


def _beats(ours: Sequence[Run], others: Sequence[Run]) -> bool | None:
    """Whether every run of ours has more photos within 200 km than every other; None where there is none to beat."""
    if not others:
        return None
    return min(judged(run).within["200"] for run in ours) > max(judged(run).within["200"] for run in others)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.world.fusion_arms", description=__doc__)
    parser.add_argument("--full", action="store_true", help="As many photos and epochs as the demo.")
    parser.add_argument("--out", type=Path, default=Path("out/fusion"), help="Folder to write; finished runs are kept.")
    options = parser.parse_args()
    out = options.out / ("full" if options.full else "small")
    return compare_arms(FULL if options.full else SMALL, out)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    for package in ("indexer", "training", "benchmarks"):
        logging.getLogger(package).setLevel(logging.INFO)
    raise SystemExit(main())
