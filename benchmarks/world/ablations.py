"""`python -m benchmarks.world.ablations`: the method without one of its parts, and other methods, beside the paper.

Every arm learns the same photos of the embedded world with the demo's settings, but for the learning rate of its kind
of head, from three seeds, and answers the same test photos. The arms follow Tables VI (a classifier in place of
geocells), VII (fewer levels) and VIII (fewer fusion blocks) of the paper's first arXiv version; VII leaves open which
levels stay: here once the finest does, once the coarsest do. Beside them stand methods that the paper compares itself
with, on this encoder and these photos: the nearest training photos ([L]kNN's idea) and image-to-GPS retrieval
(GeoCLIP's), both of Table II; and what this project answers with: the training photos as a gallery, alone, and together
with the cells of the full method. `--rates` tries learning rates on validation photos, from another seed; what came out
stands beside `RATES`.

Differences from the full method have paired bootstrap intervals, pooled over seeds: a draw takes three of the three
seeds and as many test photos as there are, both with replacement, the same ones of both methods
(`search.evaluation.bootstrap`). So a difference counts that holds over photos and over seeds. By distance it is
"better", "worse" or "not distinguishable", and "as in the paper" where it has the sign of the paper's difference. No
more than signs can be compared, because a tile of this world is no photo of a street. What else limits the comparison
stands below the table (`READING`). All methods are held against cells and gallery together as well: where one of them
is better at a distance by more than chance, the benchmark is missed.

In: nothing but this checkout. Out: a folder with a file for each arm and seed, which a second run does not make again;
a line of `benchmarks/results/ablations.jsonl`, and beside it the table as a page (`.md`) and a picture (`.png`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from torch.nn.functional import normalize

from benchmarks import harness
from benchmarks.harness import Report
from benchmarks.world.ablation_table import (
    ABLATIONS,
    LIMITS,
    Method,
    against_full,
    better_ones,
    compare,
    draw,
    errors_of,
    figures_text,
    markdown,
    table,
    verdict_text,
)
from benchmarks.world.arms import SEEDS, Arm, ComparisonPreset, Run, Stage, errors_km, learnt, make_runs, vectors_of
from benchmarks.world.generator import WorldConfig
from benchmarks.world.location_encoder import SCALES, LocationEncoder, LocationHead
from benchmarks.world.photo_answers import ALONE, NEAREST, TOGETHER, photo_errors_km
from indexer.earth.geo import accuracy
from search.evaluation.options import Resampling
from search.evaluation.published import PUBLISHED_KM, TABLES
from training.cells.heads import ClassifierHead, GeocellHead, Head
from training.config import ModelConfig, Negatives
from training.photos.run_photos import PhotoSet
from training.runs.inputs import build_encoder
from training.runs.module import GeoModule

# The paper's tau_max, divided by 50.
PRESET = ComparisonPreset(WorldConfig(n_train=7_500), (500, 200, 100, 40, 20, 15, 10), 3, epochs=6)
_RATES_SEED = 100  # of the runs that learning rates of heads are chosen by
# Of a location encoder. GeoCLIP's 4,096 and 1,024 would cost several times what this small encoder of photos does.
_QUEUE, _HIDDEN = 1024, 256
WORLD_SCALES = (1.0, 4.0, 16.0)  # of a location encoder: its shortest waves are as long as a tile is wide, some 400 km
_WIDE = 220  # columns of the terminal, or of a log
HEAD = "head"  # one way to answer; the others are of `benchmarks.world.photo_answers`


@dataclass(frozen=True)
class Ablation(Arm):
    """One thing that is trained."""

    head: Literal["geocells", "classes", "places"] = "geocells"
    levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)  # by number, 0 the coarsest
    blocks: int = 3  # of fusion
    negatives: Negatives = "all"
    head_lr: float = 3e-2  # chosen for the full method; see RATES
    scales: tuple[float, ...] = SCALES  # of a location encoder
    photos: tuple[str, ...] = ()  # ways in which the training photos answer with its vectors, too


FULL = Ablation("full method", photos=(NEAREST, ALONE, TOGETHER))
CLASSES = Ablation("classifier", head="classes", head_lr=1e-1, photos=(NEAREST,))
PLACES = Ablation("image-to-GPS retrieval", head="places", head_lr=1e-3, scales=WORLD_SCALES)
ARMS = (
    FULL,
    Ablation("negatives of the batch alone", negatives="batch"),
    Ablation("5 levels, finest kept", levels=(0, 2, 3, 4, 6)),
    Ablation("3 levels, finest kept", levels=(0, 3, 6)),
    Ablation("1 level, the finest", levels=(6,)),
    Ablation("5 levels, the coarsest", levels=(0, 1, 2, 3, 4)),
    Ablation("3 levels, the coarsest", levels=(0, 1, 2)),
    Ablation("1 level, the coarsest", levels=(0,)),
    Ablation("2 fusion blocks", blocks=2),
    Ablation("1 fusion block", blocks=1),
    Ablation("no fusion", blocks=0),
    CLASSES,
    PLACES,
)

# Learning rates to choose from; beside each the mean log error of the answers to validation photos.
RATES = (
    (FULL, (3e-3, 1e-2, 3e-2, 1e-1)),  # 5.876, 5.589, 5.499, 5.544
    # Of vectors before they were scaled to length 1, which were about 11 long at the start where 1 / 0.07 is 14 now.
    (CLASSES, (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)),  # 5.669, 5.597, 5.471, 5.434, 5.655
    (PLACES, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),  # 5.613, 5.363, 5.379, 5.411, 5.640, 5.731
    (replace(PLACES, scales=SCALES), (3e-3, 1e-2, 3e-2, 1e-1)),  # 5.638, 5.633, 5.766, 5.973
)

READING = (
    "The full method here tells a photo from all cells of a level, as the demo does; the paper's tells it from those "
    "of its batch, which is a row of its own.",
    "Learning rates were chosen for each kind of head, with all levels and fusion blocks; arms without some of these "
    "learn at the full method's, which may favour it.",
    "Three seeds are few: a bootstrap of three understates how much seeds differ by about a fifth. Intervals are 95 % "
    "each; of some sixty comparisons a few differ by chance.",
    "Of a single fusion block the map decides nothing: patches of it change the tokens of patches, which only a "
    "further block hands on to the class token. So one block and none are the same but for a few weights.",
)

REFERENCE = Method(FULL.name, FULL.name, HEAD)
BEST = Method(TOGETHER, FULL.name, TOGETHER)


def methods() -> list[Method]:
    """The rows of the table but the full method's, in order."""
    rows = []
    for arm in ARMS:
        if arm.head == "classes":
            rows.append(_ablated(arm, "VI", "No"))
        elif arm.blocks < FULL.blocks:
            rows.append(_ablated(arm, "VIII", str(arm.blocks)))
        elif len(arm.levels) < len(FULL.levels):
            rows.append(_ablated(arm, "VII", str(len(arm.levels))))
        elif arm.negatives != FULL.negatives:  # the paper's own loss; it has no table of it
            rows.append(Method(arm.name, arm.name, HEAD))
    return [
        *rows,
        Method(f"nearest photos by the {FULL.name}", FULL.name, NEAREST),
        Method(f"nearest photos by the {CLASSES.name}", CLASSES.name, NEAREST, "II", _rival("[L]kNN")),
        Method(PLACES.name, PLACES.name, HEAD, "II", _rival("GeoCLIP")),
        Method(ALONE, FULL.name, ALONE),
        BEST,
    ]


def _ablated(arm: Ablation, table: str, row: str) -> Method:
    points = against_full(ABLATIONS[table])[row]
    return Method(arm.name, arm.name, HEAD, table, dict(zip(LIMITS, points, strict=True)))


def _rival(method: str) -> Mapping[str, float]:
    """How many points another method lies above the paper's own on IM2GPS3k."""
    rows = TABLES["im2gps3k"].rows
    points = {}
    for limit, share, full in zip(LIMITS, rows[method].within, rows["GeoSURGE (Ours)"].within, strict=True):
        assert share is not None, f"no figure of {method} within {limit} km"
        assert full is not None, f"nor of the paper's method within {limit} km"
        points[limit] = round(share - full, 1)
    return points


def train_arm(arm: Ablation, seed: int, stage: Stage) -> Run:
    """Train one arm, and let it answer the test photos in every way it is to."""
    module, sets, seconds = _trained(arm, seed, stage)
    errors = {HEAD: errors_km(module, sets["test"])}
    if arm.photos:
        head = module.head
        errors |= photo_errors_km(
            arm.photos,
            sets,
            {split: normalize(vectors_of(module.encoder, photos), dim=-1).numpy() for split, photos in sets.items()},
            hierarchy=stage.hierarchy(arm.levels),
            geocells=head.geocells() if isinstance(head, GeocellHead) else None,
        )
    return Run(arm.name, seed, seconds, errors)


def _trained(arm: Ablation, seed: int, stage: Stage) -> tuple[GeoModule, dict[str, PhotoSet], float]:
    hierarchy = stage.hierarchy(arm.levels)
    sets = {}
    for split, photos in stage.sets.items():
        targets = torch.from_numpy(hierarchy.locate(photos.lat_deg, photos.lng_deg))
        sets[split] = replace(photos, targets=targets, class_maps=photos.class_maps if arm.blocks else None)
    model = _model(arm, stage.settings.model)
    optimizer = replace(stage.settings.optimizer, geocell_lr=arm.head_lr)
    config = replace(stage.settings, model=model, optimizer=optimizer, seed_everything=seed)
    head: Head
    if arm.head == "classes":
        head = ClassifierHead(hierarchy, model.width, seed=seed)
    elif arm.head == "places":
        places, train = LocationEncoder(model.width, scales=arm.scales, hidden=_HIDDEN, seed=seed), sets["train"]
        head = LocationHead(places, train.lat_deg, train.lng_deg, queue=_QUEUE, seed=seed)
    else:
        head = GeocellHead(hierarchy, model.width, negatives=arm.negatives, seed=seed)
    torch.manual_seed(seed)
    module, seconds = learnt(build_encoder(model), head, sets, config)
    return module, sets, seconds


def _model(arm: Ablation, model: ModelConfig) -> ModelConfig:
    assert model.fusion is not None, "the demo's encoder has one"
    # Of the reading that follows the paper's text most closely, whichever one the demo takes.
    return replace(model, fusion=replace(model.fusion, kind="steer", blocks=arm.blocks) if arm.blocks else None)


def ablate(preset: ComparisonPreset, out: Path, *, seeds: Sequence[int] = SEEDS) -> int:
    """Train what has not been trained, compare, and report; returns the exit code."""
    stage, resampling = Stage(preset, out / "world"), Resampling()
    runs = make_runs(ARMS, seeds, stage, out / "runs", train_arm)
    return report_rows(runs, preset, resampling)


def report_rows(runs: Sequence[Run], preset: ComparisonPreset, resampling: Resampling) -> int:
    """Print the tables, draw the picture, and append everything to the results."""
    rows = compare(methods(), REFERENCE, runs, resampling)
    others = [replace(method, paper=None, points=None) for method in (REFERENCE, *methods()) if method != BEST]
    beside_best = compare(others, BEST, runs, resampling)
    report = Report("ablations")
    full = accuracy(errors_of(REFERENCE, runs).ravel(), PUBLISHED_KM)
    of_full = [run for run in runs if run.arm == FULL.name]
    took = float(np.mean([run.seconds for run in of_full]))
    by_seed = [accuracy(run.errors_km[HEAD], PUBLISHED_KM).within for run in of_full]
    report.row(FULL.name, figures_text(full, took), **asdict(full), seconds=took, by_seed=by_seed)
    for row in rows:
        figures = {name: value for name, value in asdict(row).items() if name not in ("method", "accuracy")}
        text = f"{figures_text(row.accuracy, row.seconds)}. {verdict_text(row)}"
        report.row(row.method.name, text, **asdict(row.accuracy), **figures, paper=asdict(row.method))
    best = accuracy(errors_of(BEST, runs).ravel(), PUBLISHED_KM)
    against = [
        {"method": row.method.name, "points": row.points, **asdict(row.intervals), "verdicts": row.verdicts}
        for row in beside_best
    ]
    better = better_ones(beside_best)
    text = f"better than {BEST.name}: {', '.join(better) or 'no method at any distance'}"
    report.row(f"against {BEST.name}", text, holds=not better, against=against)
    console = Console(width=_WIDE, highlight=False)
    console.print(table(REFERENCE.name, full, rows))
    console.print(table(BEST.name, best, beside_best))
    console.print(*READING, sep="\n", markup=False)
    code = report.finish(
        seeds=sorted({run.seed for run in runs}),
        made_with=sorted({run.commit for run in runs}),
        preset=asdict(preset),
        resampling=asdict(resampling),
        arms=[asdict(arm) for arm in ARMS],
    )
    parts = markdown(REFERENCE.name, full, rows), "".join(f"- {note}\n" for note in READING)
    page = "\n".join([*parts, markdown(BEST.name, best, beside_best)])
    (harness.RESULTS / "ablations.md").write_text(page)
    (harness.RESULTS / "ablations.png").write_bytes(draw(rows))
    return code


def try_rates(preset: ComparisonPreset, out: Path) -> int:
    """Train each kind of head with some rates, and say how far its answers to the validation photos are off."""
    tried = [replace(arm, head_lr=rate, photos=()) for arm, rates in RATES for rate in rates]
    tried = [replace(arm, name=f"{arm.name}, rate {arm.head_lr:g}, scales {arm.scales}") for arm in tried]
    runs = make_runs(tried, (_RATES_SEED,), Stage(preset, out / "world"), out / "rates", _on_validation)
    report = Report("ablation-rates")
    for arm, run in zip(tried, runs, strict=True):
        errors = run.errors_km[HEAD]
        reached, loss = accuracy(errors, PUBLISHED_KM), float(np.log1p(errors).mean())
        report.row(arm.name, f"{figures_text(reached, run.seconds)}; mean log error {loss:.3f}", log_error=loss)
    return report.finish(preset=asdict(preset), seed=_RATES_SEED, arms=[asdict(arm) for arm in tried])


def _on_validation(arm: Ablation, seed: int, stage: Stage) -> Run:
    module, sets, seconds = _trained(arm, seed, stage)
    return Run(arm.name, seed, seconds, {HEAD: errors_km(module, sets["validation"])})


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.world.ablations", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/ablations"), help="Folder to write; runs in it are kept.")
    parser.add_argument("--rates", action="store_true", help="Try learning rates of the heads instead.")
    options = parser.parse_args()
    return (try_rates if options.rates else ablate)(PRESET, options.out)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    for package in ("indexer", "training", "benchmarks"):
        logging.getLogger(package).setLevel(logging.INFO)
    raise SystemExit(main())
