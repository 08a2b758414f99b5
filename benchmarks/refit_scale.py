"""`python -m benchmarks.refit_scale`: what a refit of MP-16's size takes, by the slope from two smaller ones.

A hierarchy of 4.7 million places in seven levels, and photo vectors of 768 dimensions that follow it: each is its
leaf's direction, which follows the hierarchy, with noise and a strong common direction, as image encoders have it.
`python -m training refit` runs on two numbers of them, in a process of its own whose peak memory is measured. Its fit
is cut to a few steps, more for the larger number, because a step takes as long for any number of photos; what a whole
fit takes at most follows from how many steps it may make: those of the fit that chooses, and as many again to all
photos. `--device cuda` fits on a GPU.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jsonargparse import ArgumentParser

from benchmarks.harness import Report, run_command
from benchmarks.partition import photo_places, write_table
from benchmarks.place_vectors import PlaceVectors
from encoder.config import DeviceName
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.paper import MP16_PHOTOS
from training.config import RefitConfig

MAX_BYTES = 8_000_000_000  # for MP16_PHOTOS
_HELD_OUT = 5_000  # photos, whatever their number
_SHARD = 50_000  # photos in a file
_NOISE, _COMMON = 2.0, 3.0  # length of what is added to a cell's direction of length 1


@dataclass(frozen=True, slots=True)
class Size:
    """How large everything is."""

    places: int = MP16_PHOTOS  # that the hierarchy is made from
    photos: tuple[int, int] = (235_000, 470_000)  # that are refitted to
    steps: tuple[int, int] = (8, 24)  # of each fit
    width: int = 768


@dataclass(frozen=True, slots=True)
class Refit:
    """What one refit took."""

    photos: int
    steps: int
    start_s: float  # whitening, means, held-out photos, whitening and means without these: by the photos
    lay_out_s: float  # transformed vectors to disk: by the photos
    fit_s: float  # by the steps, and looks at the held-out photos, as many in every refit
    peak_bytes: int


def write_features(out: Path, n: int, hierarchy: Hierarchy, *, width: int, seed: int) -> None:
    """Vectors of n photos around the cities of the world, float16, with their places."""
    out.mkdir()
    rng = np.random.default_rng([seed, n])
    cells = PlaceVectors(width, seed=seed).geocells(hierarchy).vectors[-1]
    common = rng.normal(size=width)
    common *= _COMMON / np.linalg.norm(common)
    written = 0
    for lat, lng in photo_places(n, seed=seed + 1):
        for first in range(0, len(lat), _SHARD):
            part = slice(first, first + _SHARD)
            leaf = hierarchy.locate(lat[part], lng[part])[:, -1]
            rows = rng.normal(size=(len(leaf), width)) * (_NOISE / np.sqrt(width)) + common
            rows += np.where(leaf[:, None] >= 0, cells[leaf], 0)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            flat = pa.array(rows.astype(np.float16).ravel())
            table = {
                "photo": [f"{written + row:08d}" for row in range(len(leaf))],
                "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
                "lat": lat[part],
                "lng": lng[part],
            }
            pyarrow.parquet.write_table(pa.table(table), out / f"part-{written:08d}.parquet")
            written += len(leaf)


def run_refit(
    report: Report, features: Path, hierarchy: Path, n: int, steps: int, out: Path, *, device: DeviceName
) -> Refit:
    """One `python -m training refit`, cut to a few steps."""
    few = ("--epochs", "1", "--epoch-photos", str(steps * RefitConfig.batch_size), "--held-out", str(_HELD_OUT / n))
    given = ("--features", features, "--hierarchy", hierarchy, "--out", out, "--device", device, *few, "--json")
    child = run_command("training", "refit", *given)
    stages = json.loads(child.output)["stage_seconds"]
    report.row(
        f"refit to {n:,} photos, {steps} steps",
        f"{', '.join(f'{name} {seconds:.0f} s' for name, seconds in stages.items())}; peak "
        f"{child.peak_bytes / 1e9:.2f} GB",
        photos=n,
        steps=steps,
        seconds=child.seconds,
        stage_seconds=stages,
        peak_bytes=child.peak_bytes,
    )
    return Refit(n, steps, stages["start"], stages["lay out"], stages["fit"], child.peak_bytes)


def extrapolate(report: Report, small: Refit, large: Refit) -> None:
    """What MP-16 takes, by the slopes between two sizes."""
    photos, more = large.photos - small.photos, MP16_PHOTOS - large.photos
    growth = (large.peak_bytes - small.peak_bytes) / photos
    peak = large.peak_bytes + max(0.0, growth) * more
    report.row(
        f"memory for {MP16_PHOTOS:,} photos",
        f"{peak / 1e9:.2f} GB, by {growth:.0f} bytes for each more photo, at most {MAX_BYTES / 1e9:g} GB",
        holds=peak <= MAX_BYTES,
        bytes_a_photo=growth,
        peak_bytes=peak,
    )
    start, lay_out = (
        after + (after - before) / photos * more
        for before, after in ((small.start_s, large.start_s), (small.lay_out_s, large.lay_out_s))
    )
    step = (large.fit_s - small.fit_s) / (large.steps - small.steps)
    config = RefitConfig()
    # One look before the first epoch, and one after it; a whole refit looks at more photos.
    look = (small.fit_s - step * small.steps) / 2 * config.held_out_photos / _HELD_OUT
    steps = -(-min(config.epoch_photos, MP16_PHOTOS) // config.batch_size)
    least = config.patience * (steps * step + look)
    most = config.epochs * (2 * steps * step + look) + lay_out  # what is chosen is fitted to all photos
    report.row(
        f"time for {MP16_PHOTOS:,} photos",
        f"start {start:.0f} s, lay out {lay_out:.0f} s, then {step:.2f} s a step and {look:.0f} s a look: "
        f"{least / 3600:.1f} h where no level gains, at most {most / 3600:.1f} h (twice {config.epochs} epochs of "
        f"{steps} steps, and laid out again)",
        start_s=start,
        lay_out_s=lay_out,
        step_s=step,
        look_s=look,
        least_s=least,
        most_s=most,
    )


def main() -> int:
    """Run the command line; the exit code is 1 where a bound was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.refit_scale", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=DeviceName, default="cpu", help="Where to fit; the rest is the CPU's anyway.")
    options = parser.parse_args()
    return measure(Size(), seed=options.seed, device=options.device)


def measure(size: Size, *, seed: int, device: DeviceName) -> int:
    """Refit to both numbers of photos and report; returns the exit code."""
    report = Report("refit-scale")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places, hierarchy = folder / "places.parquet", folder / "H"
        write_table(places, size.places, seed=seed)
        run_command("indexer", "partition", "--photos", places, "--out", hierarchy)
        opened = load_hierarchy(hierarchy)
        cells = [len(level) for level in opened.levels]
        report.row("hierarchy", f"{sum(cells):,} cells in {len(cells)} levels, {cells[-1]:,} leaves", cells=cells)
        took = []
        for n, steps in zip(size.photos, size.steps, strict=True):
            features = folder / f"F{n}"
            write_features(features, n, opened, width=size.width, seed=seed)
            took.append(run_refit(report, features, hierarchy, n, steps, folder / f"C{n}", device=device))
        extrapolate(report, *took)
    return report.finish(seed=seed, device=device, **asdict(size))


if __name__ == "__main__":
    raise SystemExit(main())
