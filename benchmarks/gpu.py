"""`python -m benchmarks.gpu`: what only a machine with a GPU can show, all of it in one call.

    CLIP ViT-L/14-336        photos a second and the share of the card's bfloat16 peak, with and without a
                             fusion of the paper's sizes, one crop and ten, from decoded photos in memory
    OneFormer Swin-L         photos a second at 640 and at 384 pixels
    the same photos          embedded on the CPU and on the GPU: how far their vectors are apart
    a million queries        exact search on the GPU, the CPU's answers first
    photos of known places   whole answers with leaves on the GPU and photos on the CPU, the CPU's answers first

Weights are random: they take as long as learned ones. The peak is the card's own, measured here with a product of large
matrices.
"""

import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import OneFormerConfig, OneFormerForUniversalSegmentation, SwinConfig
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from benchmarks.embed import decoded_in_memory, make_photos, smallest_cosine
from benchmarks.gallery import whole_answers
from benchmarks.gallery_world import build, world_of
from benchmarks.harness import Report
from benchmarks.search import many_queries
from benchmarks.search_ways import MP16_PLACES, mp16_world
from encoder.config import MAP_EDGE, MAX_PIXELS, CropName, FusionConfig
from encoder.encode import PhotoEncoder
from encoder.models.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.models.model import VIT_LARGE_336, GeoEncoder, GeoEncoderConfig
from encoder.models.segmentation import Segmenter, load_segmenter
from encoder.photos.crops import N_CROPS
from encoder.photos.reading import read_bytes
from indexer.photos.photo import Photo
from indexer.photos.sources import open_photos
from search.answers.engine import Engine

MIN_SHARE_OF_PEAK = 0.60  # of CLIP with fusion
MIN_TEN_CROPS = 115  # photos a second with fusion, on an H200
MIN_COSINE = {"float32": 0.9999, "bfloat16": 0.999}  # of a photo's vectors on the CPU (float32) and on the GPU
MIN_SAME_PHOTOS = 0.99  # of queries: of two leaves that float32 cannot tell apart the last list may be either's
_RUNS = 10
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large everything is."""

    vision: Mapping[str, int]
    swin: Mapping[str, Any]
    oneformer: Mapping[str, Any]
    edges: tuple[int, ...]  # shorter edges of what the segmenter sees, in pixels
    batch: int  # crops, and four times as many as photos for the segmenter
    places: int  # that the hierarchy to search in is made of
    width: int  # of its vectors
    queries: int
    photos: int  # of the gallery
    matrix: int  # edge of the matrices of the measured peak


PAPER = Sizes(
    VIT_LARGE_336,
    # shi-labs/oneformer_ade20k_swin_large
    swin={"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12},
    oneformer={"num_queries": 250},
    edges=(640, 384),
    batch=256,
    places=MP16_PLACES,
    width=768,
    queries=1_000_000,
    photos=400_000,
    matrix=8192,
)


def measure(report: Report, folder: Path, sizes: Sizes, *, device: torch.device) -> None:
    """All of it, one row after the other."""
    peak = peak_flops(device, edge=sizes.matrix)
    report.row("bfloat16 peak, as measured", f"{peak / 1e12:.3g} TFLOP/s", flops=peak)
    photos = list(open_photos(make_photos(folder / "photos", n=32, size=(1024, 768), seed=3)))
    for fused in (False, True):
        checkpoint = save_encoder(folder / f"encoder-{fused}", sizes.vision, fused=fused)
        agreement(report, checkpoint, photos[:8], device=device)
        encoder = load_encoder(checkpoint, device=device, dtype=torch.bfloat16)
        crops: tuple[CropName, ...] = ("one", "ten")
        for which in crops:
            encoder_rate(report, encoder, photos, crops=which, batch=sizes.batch, peak=peak)
    for edge in sizes.edges:
        segmenter = load_segmenter(str(save_oneformer(folder / f"oneformer-{edge}", sizes, edge=edge)), device=device)
        segmenter_rate(report, segmenter, photos, edge=edge, n=max(1, sizes.batch // 64))
    world = mp16_world(queries=min(4096, sizes.queries), seed=0, width=sizes.width, places=sizes.places)
    many_queries(report, world, queries=sizes.queries, device=device, runs=_RUNS)
    gallery_answers(report, folder / "gallery", sizes, device=device)


def gallery_answers(report: Report, folder: Path, sizes: Sizes, *, device: torch.device) -> None:
    """Whole answers a second by photos of known places, leaves searched on the device and photos on the CPU.

    Raises:
        SystemExit: photos that count are not those that count where leaves are searched on the CPU.
    """
    world = world_of(folder, photos=sizes.photos, width=sizes.width, places=sizes.places, seed=0)
    build(folder, world)
    cpu, there = (
        Engine.open(folder / "R", device=name) for name in ("cpu", "cuda" if device.type == "cuda" else "cpu")
    )
    queries = cpu.prepared(world.queries(min(sizes.queries, 2048)))
    one, two = (engine.find(queries).evidence for engine in (cpu, there))
    assert one is not None
    assert two is not None
    same = (one.near.row == two.near.row).all(axis=1).mean()
    if same < MIN_SAME_PHOTOS:
        raise SystemExit(f"Only {same:.1%} of queries have the same photos on {device}; nothing was timed.")
    rates = [len(queries) / median_seconds(partial(whole_answers, engine, queries)) for engine in (cpu, there)]
    report.row(
        f"whole answers by {sizes.photos:,} photos, leaves on {device.type}",
        f"{rates[1]:,.0f} queries/s, on the CPU alone {rates[0]:,.0f}",
        queries_per_second=rates[1],
        on_cpu=rates[0],
        same_photos=float(same),
    )


def save_encoder(folder: Path, vision: Mapping[str, int], *, fused: bool) -> Path:
    """A checkpoint of these sizes with random weights, with a fusion of the paper's sizes or without."""
    torch.manual_seed(0)
    model = GeoEncoder(GeoEncoderConfig(vision_config=dict(vision)))
    if fused:
        model.add_fusion(FusionConfig())
    return save_checkpoint(folder, encoder=model, geocells=None, config={}, inputs={})


def random_oneformer(swin: Mapping[str, Any], sizes: Mapping[str, Any]) -> OneFormerForUniversalSegmentation:
    """A OneFormer with random weights, of as many classes as ADE20K has. swin: sizes of its backbone."""
    torch.manual_seed(0)
    names = {number: f"class {number}" for number in range(150)}
    config = OneFormerConfig(
        backbone_config=SwinConfig(**swin, out_features=["stage1", "stage2", "stage3", "stage4"]),
        id2label=names,
        label2id={name: number for number, name in names.items()},
        **sizes,
    )
    return OneFormerForUniversalSegmentation(config)


def save_oneformer(folder: Path, sizes: Sizes, *, edge: int) -> Path:
    """A OneFormer of 150 classes with random weights as the hub has them, for photos of this shorter edge."""
    random_oneformer(sizes.swin, sizes.oneformer).save_pretrained(folder)
    OneFormerImageProcessorPil(size={"shortest_edge": edge, "longest_edge": 4 * edge}).save_pretrained(folder)
    return folder


def encoder_rate(
    report: Report, encoder: LoadedEncoder, photos: Sequence[Photo], *, crops: CropName, batch: int, peak: float
) -> None:
    """Photos a second from decoded photos in memory, resizing and cutting included."""
    encode = PhotoEncoder(encoder, crops=crops)
    n = encode.photos_in(batch)
    fusion = encoder.model.fusion_config
    (decoded,) = decoded_in_memory(encode, _repeated(photos, n, fusion=fusion), batch_size=n)
    rate = n / median_seconds(lambda: encode(decoded), device=encode.device)
    flops = flops_per_photo(encoder, crops)
    share = rate * flops / peak
    holds = None if fusion is None else share >= MIN_SHARE_OF_PEAK
    if fusion is not None and crops == "ten":
        holds = rate >= MIN_TEN_CROPS
    report.row(
        f"CLIP {'with' if fusion else 'without'} fusion, {crops} crop(s), bfloat16",
        f"{rate:.4g} photos/s, {share:.0%} of the measured peak",
        holds=holds,
        photos_per_second=rate,
        share_of_peak=share,
        flops_per_photo=flops,
        batch=n,
    )


def segmenter_rate(report: Report, segmenter: Segmenter, photos: Sequence[Photo], *, edge: int, n: int) -> None:
    """Class maps a second from prepared photos in memory."""
    read = partial(segmenter.input.read, map_edge=MAP_EDGE, max_pixels=MAX_PIXELS)
    prepared = [read(read_bytes(photo.data)) for photo in _repeated(photos, n)]
    rate = n / median_seconds(lambda: segmenter.maps(prepared), device=segmenter.device)
    report.row(
        f"OneFormer at {edge} pixels",
        f"{rate:.4g} maps/s, {n} photos in one pass",
        maps_per_second=rate,
        batch=n,
        edge=edge,
    )


def agreement(report: Report, checkpoint: Path, photos: Sequence[Photo], *, device: torch.device) -> None:
    """How far a GPU's vectors are from the CPU's; also of photos against their mean, as random weights tell little."""
    reference = None
    for name, where, dtype in (
        ("float32", _CPU, torch.float32),
        ("float32", device, torch.float32),
        ("bfloat16", device, torch.bfloat16),
    ):
        encode = PhotoEncoder(load_encoder(checkpoint, device=where, dtype=dtype))
        fusion = encode.encoder.model.fusion_config
        (batch,) = decoded_in_memory(encode, _repeated(photos, len(photos), fusion=fusion), batch_size=len(photos))
        vectors = encode(batch).embedding
        if reference is None:
            reference = vectors
            continue
        cosine = float((reference * vectors).sum(axis=1).min())
        apart = smallest_cosine(reference, vectors)
        report.row(
            f"the CPU's vectors and the GPU's in {name}, {'with' if fusion else 'without'} fusion",
            f"smallest cosine {cosine:.6f}; of what is not common to all photos {apart:.4f}",
            holds=cosine >= MIN_COSINE[name],
            cosine=cosine,
            cosine_less_mean=apart,
        )


def flops_per_photo(encoder: LoadedEncoder, crops: CropName) -> float:
    """Multiplications and additions of the matrices alone, counted by torch on one crop."""
    model = encoder.model
    edge = encoder.preprocessing.crop
    pixels = torch.zeros((1, 3, edge, edge), device=model.device, dtype=model.dtype)
    maps = torch.zeros((1, edge, edge), device=model.device, dtype=torch.uint8) if model.fusion else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixels, maps)
    return float(counter.get_total_flops() * N_CROPS[crops])


def peak_flops(device: torch.device, *, edge: int) -> float:
    """The best of ten products of two large bfloat16 matrices."""
    a, b = (torch.randn((edge, edge), device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * edge**3 / min(_waited(lambda: a @ b, device) for _ in range(10))


def median_seconds(work: Callable[[], object], *, device: torch.device = _CPU) -> float:
    """Of one run, after three to warm up."""
    for _ in range(3):
        work()
    return statistics.median(_waited(work, device) for _ in range(_RUNS))


def _waited(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _repeated(photos: Sequence[Photo], n: int, *, fusion: FusionConfig | None = None) -> list[Photo]:
    """The same photos over and over, with a class map where a fusion wants one."""
    repeated = [photos[row % len(photos)] for row in range(n)]
    if fusion is None:
        return repeated
    stream = io.BytesIO()
    ids = np.random.default_rng(0).integers(0, fusion.classes, (12, 16), dtype=np.uint8)
    Image.fromarray(ids).resize((512, 384), Image.Resampling.NEAREST).save(stream, "PNG")
    return [replace(photo, class_map=stream.getvalue()) for photo in repeated]


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here; this benchmark is for machines with one.")
    report = Report("gpu")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        measure(report, Path(name), PAPER, device=torch.device("cuda"))
    return report.finish(gpu=torch.cuda.get_device_name())


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
