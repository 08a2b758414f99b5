"""What comparisons by training have in common: the world, each arm from each seed once, and its errors on test photos.

An arm is one way to learn or to answer. A run, an arm from a seed, is one JSON file in a folder; its name ends with a
digest of all that the run depends on (preset, settings, arm) but the code, so a second start goes on where the first
one ended, and no run of other settings is taken for this one. Runs of different code are named.
"""

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from benchmarks.world.generator import SPLITS, WorldConfig, generate
from encoder.models.model import GeoEncoder
from encoder.photos.crops import normalise
from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.disk.artifact import write_file
from indexer.disk.manifest import code_version
from indexer.earth.geo import haversine_km
from indexer.photos.sources import open_photos, read_coordinates
from training.cells.heads import Head, best_rows
from training.config import Augmentation, FitConfig
from training.fitting import train
from training.photos.batches import Photos
from training.photos.run_photos import PhotoSet, load_photos
from training.photos.stream import PhotoStream
from training.runs.folder import plain
from training.runs.inputs import build_encoder
from training.runs.module import GeoModule

log = logging.getLogger(__name__)

SEEDS = (0, 1, 2)
_CONFIG = Path("configs/demo.yaml")
_BLOCK = 500  # photos encoded at once


@dataclass(frozen=True, slots=True)
class ComparisonPreset:
    """How long a comparison takes."""

    world: WorldConfig
    tau_max: tuple[int, ...]
    tau_min: int
    epochs: int


@dataclass(frozen=True)  # no slots: arms of a comparison have fields of their own
class Arm:
    """What is compared."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One arm from one seed."""

    arm: str
    seed: int
    seconds: float  # of training, on all cores together, so that other work beside it does not count
    errors_km: Mapping[str, np.ndarray]  # for each way to answer: (N,) of the test photos, in the world's order
    commit: str = "unknown"  # that it was made with


class Stage:
    """The world of a preset and what the demo trains there. Photos are decoded at their first use."""

    def __init__(self, preset: ComparisonPreset, folder: Path) -> None:
        self.preset = preset
        self._table = generate(preset.world, folder) / "photos.parquet"
        settings = demo_settings(self._table)
        self.settings = replace(settings, trainer=replace(settings.trainer, max_epochs=preset.epochs))
        # `sets` are cut in one way for all epochs; with windows they would not be what the demo learns from.
        assert not settings.data.augmentation.draws_windows, (
            "comparisons need `load_uncut` where the demo draws windows"
        )

    def hierarchy(self, levels: Sequence[int] | None = None) -> Hierarchy:
        """Of the training photos; with all levels of the preset, or with those of these numbers, 0 the coarsest."""
        taus = self.preset.tau_max if levels is None else tuple(self.preset.tau_max[level] for level in levels)
        return build_hierarchy(self._ids, rule=PartitionRule(tau_max=taus, tau_min=self.preset.tau_min))

    @cached_property
    def sets(self) -> dict[str, PhotoSet]:
        """Photos of each split with their maps, and their cells of all levels."""
        limit = self.settings.data.memory_limit_gb
        return {split: load_photos(self.stream(split), memory_limit_gb=limit) for split in SPLITS}

    def stream(self, split: str, windows: Augmentation | None = None) -> PhotoStream:
        """Photos of a split as they are read; `windows` as of PhotoStream."""
        source, encoder = open_photos(self._table, split=split, coordinates=True), build_encoder(self.settings.model)
        return PhotoStream(source, self.hierarchy(), encoder=encoder, config=self.settings.data, windows=windows)

    @cached_property
    def _ids(self) -> np.ndarray:
        return sorted_ids([read_coordinates(self._table, split="train")])


def demo_settings(photos: Path) -> FitConfig:
    """What `configs/demo.yaml` says, for photos elsewhere: comparisons are of what the demo trains."""
    demo = FitConfig.from_yaml(_CONFIG)
    return replace(demo, data=replace(demo.data, photos=str(photos)))


ArmT = TypeVar("ArmT", bound=Arm)


def make_runs(
    arms: Sequence[ArmT],
    seeds: Sequence[int],
    stage: Stage,
    folder: Path,
    learn: Callable[[ArmT, int, Stage], Run],
) -> list[Run]:
    """All runs, of which those that are there already are read; says after each how long the rest will take."""
    wanted = _wanted(arms, seeds)
    files = [_file(folder, arm, seed, stage) for arm, seed in wanted]
    missing = sum(not file.exists() for file in files)
    log.info("%d of %d runs are there already", len(files) - missing, len(files))
    folder.mkdir(parents=True, exist_ok=True)
    took: list[float] = []
    for (arm, seed), file in zip(wanted, files, strict=True):
        if file.exists():
            continue
        started = time.perf_counter()
        log.info("run %d of %d: %s, seed %d", len(files) - missing + len(took) + 1, len(files), arm.name, seed)
        run = learn(arm, seed, stage)
        commit = code_version().get("commit", "unknown")
        raw = asdict(run) | {"commit": commit, "errors_km": {way: km.tolist() for way, km in run.errors_km.items()}}
        write_file(file, json.dumps(raw).encode())
        took.append(time.perf_counter() - started)
        left = (missing - len(took)) * statistics.mean(took)
        log.info("%s, seed %d: %.0f s; about %.0f minutes left for the others", arm.name, seed, took[-1], left / 60)
    runs = [_read(file) for file in files]
    if len(made_with := {run.commit for run in runs}) > 1:
        log.warning("runs of different code are compared: %s. To make all anew, remove %s.", sorted(made_with), folder)
    return runs


def missing_runs(arms: Sequence[ArmT], seeds: Sequence[int], stage: Stage, folder: Path) -> list[tuple[ArmT, int]]:
    """Which of them `make_runs` would make, in its order."""
    return [(arm, seed) for arm, seed in _wanted(arms, seeds) if not _file(folder, arm, seed, stage).exists()]


def learnt(
    encoder: GeoEncoder, head: Head, sets: Mapping[str, PhotoSet], config: FitConfig, *, photos: Photos | None = None
) -> tuple[GeoModule, float]:
    """Train an encoder and a head on the CPU; returns them, and the seconds of processor time it took.

    photos: to learn from, in place of those of `sets`.
    """
    started = time.process_time()
    module = train(encoder, head, photos or sets["train"], sets["validation"], config=config, device="cpu")
    module.eval()
    return module, time.process_time() - started


@torch.inference_mode()
def vectors_of(encoder: GeoEncoder, photos: PhotoSet) -> torch.Tensor:
    """The encoder's vectors before they are scaled to length 1: (N, D) float32."""
    vectors = []
    for rows in torch.split(torch.arange(len(photos)), _BLOCK):
        maps = None if photos.class_maps is None else photos.class_maps[rows]
        vectors.append(encoder.unscaled(normalise(photos.pixels[rows], encoder.preprocessing), maps))
    return torch.cat(vectors)


@torch.inference_mode()
def errors_km(module: GeoModule, photos: PhotoSet) -> np.ndarray:
    """How far the answers of the head are from the truth: (N,) float64."""
    head = module.head
    best = best_rows(head.queries(vectors_of(module.encoder, photos)), head.rows()).numpy()
    return haversine_km(photos.lat_deg, photos.lng_deg, head.lat_deg[best], head.lng_deg[best])


def _wanted(arms: Sequence[ArmT], seeds: Sequence[int]) -> list[tuple[ArmT, int]]:
    return [(arm, seed) for seed in seeds for arm in arms]  # whole tables first, in case of an early end


def _file(folder: Path, arm: Arm, seed: int, stage: Stage) -> Path:
    return folder / f"{_slug(arm.name)}-{seed}-{_digest(stage, arm)}.json"


def _slug(name: str) -> str:
    return "-".join("".join(sign if sign.isalnum() else " " for sign in name).split())


def _digest(stage: Stage, arm: Arm) -> str:
    learning = replace(stage.settings, data=replace(stage.settings.data, photos="photos"))
    settings = [plain(asdict(part)) for part in (stage.preset, learning, arm)]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]


def _read(file: Path) -> Run:
    raw = json.loads(file.read_text())
    return Run(**raw | {"errors_km": {way: np.array(km) for way, km in raw["errors_km"].items()}})
