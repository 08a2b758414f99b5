"""A run looked at before it begins: all that it lacks, named together, and what it will take.

In: what `fit` is given. Out: a report. Everything is opened as `fit` opens it (`training.runs.inputs`), every photo's
name, place and file is looked at, some photos are decoded, and one batch goes forward and backward. Nothing is learned
and nothing is written.
"""

import shutil
import time
from collections.abc import Generator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from encoder.class_maps.cache import SegmentationCache
from encoder.encode import MapSource, check_maps
from encoder.models.device import free_bytes
from encoder.models.model import GeoEncoder
from encoder.photos.photo_reader import NO_MAP
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import BadImage, ShardsMissing
from indexer.photos.photo import Photo
from indexer.photos.tar_shards import is_pattern
from training.cells.heads import Head
from training.config import FitConfig
from training.fitting import check_shares
from training.photos.batches import BatchPart, Share
from training.photos.run_photos import open_half, source_of
from training.photos.stream import CPU, PhotoStream
from training.photos.uncut_photos import check_least_memory
from training.runs.check_report import CheckReport, Estimate, gigabytes
from training.runs.folder import RunFolder
from training.runs.inputs import RunInputs
from training.runs.photo_survey import PhotoSurvey, survey
from training.runs.trial import Trial, made_up_part, try_part

_Half = Literal["train", "validation"]
_HALVES: Sequence[_Half] = ("train", "validation")
_MAY_BE_ABSENT = 0.01  # share of the photos whose absence is a remark: of large collections some always are
_DECODED = 64  # photos that are decoded to see how long that takes, and whether they have maps
_SPARE = 0.9  # of a device's memory; libraries and fragments take the rest
_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}


def check(hierarchy: str | Path, out: str | Path, *, config: FitConfig) -> CheckReport:
    """Look at everything that `fit` would be made from; what is wrong is in the report, and raised by nothing here."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # as `fit`, it leaves torch's generators alone
        return _check(Path(hierarchy), Path(out), config)


def _check(hierarchy: Path, out: Path, config: FitConfig) -> CheckReport:
    report, run = CheckReport(), RunFolder(out)
    with report.of("out"):
        run.check()
    whole, config = config, _of_shards_there(report, config)
    inputs = RunInputs(hierarchy, config)
    device = _device(report, inputs)
    have_bytes = None if device is None else _least_free(device, config)  # before anything of ours is on it
    cells = encoder = head = cache = None
    with report.of("hierarchy"):
        cells = inputs.hierarchy
    with report.of("data.segmentation_cache"):
        cache = inputs.cache
    with report.of("model"):
        encoder = inputs.encoder_beside(cache)
    if encoder is not None:
        with report.of("data.segmentation_cache"):
            check_maps(encoder, MapSource(cache))
        if cells is not None:
            head = inputs.head_beside(encoder)
    halves = _halves(report, inputs, cells)
    if encoder is not None:
        with report.of("data.photos"):
            inputs.check_maps_come(encoder)
    if cells is not None:
        with report.of("out"):  # what its inputs lack is told already
            run.check_same(run.facts(hierarchy, whole, inputs.digests()))
    if cells is not None and "train" in halves:
        _check_levels(report, cells, halves["train"])
        with report.of("gallery"):
            _ = inputs.gallery
    if encoder is not None and cells is not None and not config.data.stream:
        _check_memory(report, config, cells, encoder, cache, halves)
    if encoder is not None and head is not None and cells is not None:
        learnt = halves.get("train", PhotoSurvey())
        part, read_s = _real_part(report, config, cells, encoder, cache, learnt)
        _try(report, config, encoder, head, part=part, read_s=read_s, halves=halves, device=device, have=have_bytes)
        _check_disk(report, out)
    return report


def _of_shards_there(report: CheckReport, config: FitConfig) -> FitConfig:
    """The same run of those shards that are there, so that one that is not hides nothing that is wrong with others."""
    with report.of("data.photos"):
        try:
            if is_pattern(config.data.photos):
                source_of(config.data, "train")
        except ShardsMissing as error:
            report.add("data.photos", str(error))
            if error.there and not any(set("{},*?[") & set(shard) for shard in error.there):
                there = ",".join(error.there)
                photos = there if len(error.there) == 1 else f"{{{there}}}"
                return replace(config, data=replace(config.data, photos=photos))
    return config


def _device(report: CheckReport, inputs: RunInputs) -> torch.device | None:
    """Where a process trains; None where that is not here."""
    with report.of("trainer"):
        return inputs.device
    return None


def _least_free(device: torch.device, config: FitConfig) -> int:
    """What the fullest of the devices can still give to a process."""
    if device.type == "cpu":
        return free_bytes(device) // config.trainer.devices
    return min(free_bytes(torch.device(device.type, number)) for number in range(config.trainer.devices))


def _halves(report: CheckReport, inputs: RunInputs, cells: Hierarchy | None) -> dict[_Half, PhotoSurvey]:
    """What the names of the photos say, for each half that can be opened. cells: None where they cannot be had."""
    found = dict[_Half, PhotoSurvey]()
    for name in _HALVES:
        with report.of("data.photos"):
            source, chosen = source_of(inputs.config.data, name)
            found[name] = survey(report, source, cells, chosen, needs_cell=name == "train")
    for named, half in found.items():
        subject = f"data.photos ({named})"
        if not half.photos:
            report.add(subject, "none of them can be used: there are none, or none lies in a cell")
        elif half.absent:
            text = f"{half.absent:,} of {half.looked_for:,} are not there, the first {half.first_absent}"
            few = half.absent <= _MAY_BE_ABSENT * half.looked_for
            (report.remark if few else report.add)(subject, text)
        if half.looked_for < half.photos:
            report.remark(subject, f"only {half.looked_for:,} of {half.photos:,} were looked for, for want of time")
    if "train" in found:
        with report.of("data.batch_size"):
            check_shares(found["train"].photos, inputs.config)
    return found


def _check_levels(report: CheckReport, cells: Hierarchy, learnt: PhotoSurvey) -> None:
    """Name each level whose cells have too few photos to be learned."""
    for number, (level, counts) in enumerate(zip(cells.levels, learnt.per_cell, strict=True)):
        photos, empty = int(counts.sum()), int((counts == 0).sum())
        if photos < len(level):
            report.add(
                "hierarchy",
                f"Level {number} (tau_max {level.tau_max}) has {len(level):,} cells, and {photos:,} photos to learn "
                "from lie in them: too few. Was it made from these photos? Make it anew (python -m indexer partition).",
            )
        elif empty:
            report.remark("hierarchy", f"level {number}: {empty:,} of {len(level):,} cells have no photo to learn from")


def _streamed(
    config: FitConfig, half: _Half, cells: Hierarchy, encoder: GeoEncoder, cache: SegmentationCache | None
) -> PhotoStream:
    """The photos of a half, none of which is to be held in memory here; an InputError where there is none."""
    data = replace(config.data, stream=True)
    return cast(PhotoStream, open_half(data, half, hierarchy=cells, encoder=encoder, cache=cache))


def _check_memory(
    report: CheckReport,
    config: FitConfig,
    cells: Hierarchy,
    encoder: GeoEncoder,
    cache: SegmentationCache | None,
    halves: Mapping[_Half, PhotoSurvey],
) -> None:
    """Say of each half of photos that are kept in memory whether it is too large for that."""
    for name, half in halves.items():
        if half.photos:
            with report.of("data.memory_limit_gb"):
                stream = _streamed(config, name, cells, encoder, cache)
                check_least_memory(stream, half.photos, memory_limit_gb=config.data.memory_limit_gb)


def _real_part(
    report: CheckReport,
    config: FitConfig,
    cells: Hierarchy,
    encoder: GeoEncoder,
    cache: SegmentationCache | None,
    learnt: PhotoSurvey,
) -> tuple[BatchPart, float | None]:
    """The part of a batch that one process works on at once, and how long a photo takes to decode, in seconds.

    Of noise, and None, where photos cannot be read.
    """
    options, data = config.trainer, config.data
    share = Share(0, options.devices * options.num_nodes, options.accumulate_grad_batches)
    sizes = [len(level) for level in cells.levels]
    noise = made_up_part(
        encoder,
        sizes,
        photos=share.photos_at_once(data.batch_size),
        batch_size=data.batch_size,
        seed=config.seed_everything,
    )
    if not learnt.sample:
        return noise, None
    with report.of("data.photos"):
        whole = _streamed(config, "train", cells, encoder, cache)
        rng = np.random.default_rng(config.seed_everything)
        order = rng.permutation(len(learnt.sample))[: max(data.batch_size, _DECODED)]
        chosen = [learnt.sample[row] for row in order]
        # Maps that cannot be opened are told already, and not that every photo lacks one.
        shut = cache is None and data.segmentation_cache is not None
        read_s = _decode(
            report, whole, chosen[:_DECODED], needs_maps=encoder.fusion is not None, passed={NO_MAP} if shut else set()
        )
        if read_s is None:
            return noise, None
        # A run of fewer photos than a batch has smaller batches, if nobody shares them. A smaller sample says nothing.
        shared = share.processes * share.parts > 1
        if shut or (len(chosen) < data.batch_size and (shared or len(chosen) < learnt.photos)):
            return noise, read_s / max(1, data.workers)
        parts = whole.only(chosen).parts(data.batch_size, share, epoch=0, seed=config.seed_everything, skip=0)
        with closing(cast("Generator[BatchPart, None, None]", parts)):
            return next(parts), read_s / max(1, data.workers)
    return noise, None


def _decode(
    report: CheckReport, stream: PhotoStream, photos: Sequence[Photo], *, needs_maps: bool, passed: Set[str]
) -> float | None:
    """Seconds that a photo takes to be read and decoded; what cannot be used is told. None where none can.

    passed: what is no fault of a photo.
    """
    started = time.perf_counter()
    decoded = [(photo.name, stream.read(photo)) for photo in photos]
    seconds = (time.perf_counter() - started) / len(photos)
    bad = [(name, each) for name, each in decoded if isinstance(each, BadImage) and each.code not in passed]
    without_map = sum(not isinstance(each, BadImage) and each.class_map is None for _, each in decoded)
    if bad:
        name, fault = bad[0]
        text = f"{len(bad)} of {len(photos)} photos that were tried cannot be used; the first, {name}: {fault}."
        few = len(bad) <= max(1, _MAY_BE_ABSENT * len(photos)) and len(bad) < len(photos)
        (report.remark if few else report.add)("data.photos", text)
    if needs_maps and without_map:
        text = f"{without_map} of {len(photos)} photos that were tried have no class map"
        (report.remark if without_map < len(photos) else report.add)("data.segmentation_cache", text)
    return None if len(bad) == len(photos) else seconds


def _try(
    report: CheckReport,
    config: FitConfig,
    encoder: GeoEncoder,
    head: Head,
    *,
    part: BatchPart,
    read_s: float | None,
    halves: Mapping[_Half, PhotoSurvey],
    device: torch.device | None,
    have: int | None,
) -> None:
    """Let a batch go forward and backward, and say of the run what that says of it."""
    trial: Trial | None = None
    most = None if have is None else int(_SPARE * have)
    with report.of("trainer"):
        trial = try_part(encoder, head, part, config=config, device=device or CPU, most_bytes=most or 0)
    if trial is None:
        return
    n_train, n_validation = (halves[name].photos if name in halves else 0 for name in _HALVES)
    options, data = config.trainer, config.data
    processes, photos = options.devices * options.num_nodes, len(part.pixels)
    need = trial.bytes_for(photos)
    step_s = None if device is None else trial.photo_seconds
    hours: float | None = None
    if step_s is not None and n_train:
        reading = 0.0 if read_s is None else read_s
        epoch_s = (n_train + n_validation) * (max(step_s, reading) if data.stream else step_s) / processes
        gallery_s = n_train * max(step_s, reading) if config.wants_gallery else 0.0
        once_s = 0.0 if data.stream else (n_train + n_validation) * reading
        hours = (options.max_epochs * epoch_s + gallery_s + once_s) / 3600
    report.estimate = Estimate(
        n_train,
        n_validation,
        photos,
        need,
        most,
        step_s,
        read_s,
        hours,
        _disk_bytes(config, trial, encoder, n_train, leaves=len(halves["train"].per_cell[-1]) if n_train else 0),
    )
    if most is not None and need > most:
        parts = _parts_that_fit(config, trial.photos_in(most))
        advice = (
            f"Set trainer.accumulate_grad_batches to {parts}."
            if parts
            else "Take a device with more, or a smaller encoder."
        )
        report.add(
            "trainer",
            f"{photos:,} photos at once need about {gigabytes(need)}, by estimate, and a process has {gigabytes(most)} "
            f"of its device. {advice}",
        )


def _parts_that_fit(config: FitConfig, photos: int) -> int | None:
    """The fewest parts of a batch of which each has so many photos at most; None where there are none."""
    options, size = config.trainer, config.data.batch_size
    processes = options.devices * options.num_nodes
    fitting = (n for n in range(1, size // (2 * processes) + 1) if size % (n * processes) == 0)
    return next((n for n in fitting if size // (n * processes) <= photos), None)


def _disk_bytes(config: FitConfig, trial: Trial, encoder: GeoEncoder, n_train: int, *, leaves: int) -> int:
    """What the run's folder takes at most: weights to go on from, those of the best epoch, the result, and a gallery.

    Of each file the one before is there until the new one is whole.
    """
    weights, moments = trial.weight_bytes, 2 * trial.learnt_bytes
    kept = 2 * (weights + moments) + (2 * weights if config.trainer.patience is not None else 0) + weights
    per_leaf = config.gallery_per_leaf
    photos = n_train if per_leaf == "all" else min(n_train, leaves * per_leaf)
    return kept + photos * encoder.width * _BYTES[config.gallery_precision]


def _check_disk(report: CheckReport, out: Path) -> None:
    if report.estimate is None:
        return
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if report.estimate.disk_bytes > free:
        report.add(
            "out", f"{out}: needs about {gigabytes(report.estimate.disk_bytes)}, and {gigabytes(free)} are free there."
        )
