"""`python -m benchmarks.reranker`: answers by photos and cells with a reranker, beside the same without one.

A reranker is fitted to held-out photos as `search calibrate` fits it, and stays or not as it does there; photos that
nothing was fitted to are answered with what it decided, and with the numbers that are fitted where none is tried. It is
missed where its errors are larger than those without it by more than chance. Its cost is that of a search with it, in
seconds of the processor, beside a search without.

    world      the demo's bundle, 1,000 held-out tiles and 2,000 others, if `make demo` has been run
    city ...   galleries of few photos, as `benchmarks.small_refit` draws them, with 150 held-out photos
"""

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser

from benchmarks.harness import Report
from benchmarks.small_refit import EMBEDDED, SETTINGS, Photos, Setting, draw, write_features
from indexer.bundles.builds import build
from indexer.bundles.bundle import Bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.division import S2Scheme, partition
from indexer.cells.partition import PartitionRule
from indexer.earth.geo import accuracy, haversine_km
from indexer.vectors.calibration import Calibration
from indexer.vectors.features import open_features
from search.answers.engine import Engine
from search.answers.points import points_of_bundle
from search.calibration.cell_calibration import fit_calibration
from search.calibration.held_out import HeldOutQueries, held_out, named
from search.calibration.photo_numbers import PhotoFitting, PhotoNumbers
from search.evaluation.bootstrap import Interval, mean_interval
from search.evaluation.options import Resampling

_HELD_OUT, _UNSEEN = 150, 1500  # photos of a small world beside its gallery
_RUNS = 7


@dataclass(frozen=True, slots=True)
class Comparison:
    """Errors of photos that nothing was fitted to, with what was decided and without a reranker."""

    kept: bool
    loss_gain: float  # for held-out photos that it did not see
    without_km: float  # median error
    with_km: float
    gain: float  # mean of the differences of log(1 + km): above 0 where answers with it are nearer
    low: float  # of the middle 95 % of that mean, by bootstrap over photos
    high: float
    cost: float | None  # seconds of a search with it over those without; None where there is none
    # Percent within distances in km, without it and with it: of a world as large as the Earth.
    within: tuple[Mapping[str, float], Mapping[str, float]] | None = None


def compare(bundle: Bundle, held: HeldOutQueries, unseen: HeldOutQueries) -> Comparison:
    """Fit to the half of held-out photos that `calibrate` fits to (to all, where they are few), and answer others."""
    points, model = points_of_bundle(bundle, photos=False), bundle.model
    device = torch.device("cpu")
    cells = fit_calibration(model, points, held, device=device, resampling=Resampling()).calibration
    division = held.divided()
    part = held if division.approximate else held.take(division.parts[0][0])
    fitting = PhotoFitting(bundle, cells, protocol="one", device="cpu", resampling=Resampling())
    near = fitting.near(part)
    decided, without = fitting(part, near), fitting(part, near, reranked=False)
    assert decided.gain is not None, "it is tried"
    after, before = (_errors_km(bundle, cells, numbers, unseen) for numbers in (decided, without))
    gain = np.log1p(before) - np.log1p(after)
    ends = mean_interval(gain, Resampling())
    cost = None
    if decided.reranker is not None:
        plain = replace(decided, reranker=None)
        cost = _seconds(fitting, decided, unseen) / _seconds(fitting, plain, unseen)
    medians = float(np.median(before)), float(np.median(after))
    within = accuracy(before).within, accuracy(after).within
    return Comparison(
        decided.gain.kept, decided.gain.loss, *medians, float(gain.mean()), ends.low, ends.high, cost, within
    )


def _errors_km(bundle: Bundle, cells: Calibration, numbers: PhotoNumbers, sample: HeldOutQueries) -> np.ndarray:
    """Errors of answers by these numbers: (N,) float64."""
    photos = replace(cells, temperature=numbers.temperature, fit=numbers.fit, reranker=numbers.reranker)
    engine = Engine(replace(bundle, calibrations={"one": replace(cells, with_photos=photos)}))
    at = [answers.at for _, answers in engine.answers(sample.queries, k=1)]
    lat, lng = (np.concatenate([getattr(each, name) for each in at]) for name in ("lat_deg", "lng_deg"))
    return haversine_km(lat, lng, sample.lat_deg, sample.lng_deg)


def _seconds(fitting: PhotoFitting, numbers: PhotoNumbers, sample: HeldOutQueries) -> float:
    """Of the processor, for one search of all queries; the median of several, after one."""
    engine, seconds = fitting.engine(numbers), []
    for _ in range(_RUNS + 1):
        started = time.process_time()
        engine.find(sample.queries)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def small_world(setting: Setting, folder: Path, *, seed: int) -> tuple[Bundle, HeldOutQueries, HeldOutQueries]:
    """A bundle of few photos in a folder, held-out photos, and photos that nothing is fitted to."""
    n = setting.known + _HELD_OUT + _UNSEEN
    photos = draw(replace(setting, photos=n), seed=seed)
    parts = np.split(np.random.default_rng([seed, 1]).permutation(n), [setting.known, setting.known + _HELD_OUT])
    features, hierarchy = folder / "F", folder / "H"
    write_features(photos.take(parts[0]), features)
    rule = PartitionRule(tau_max=setting.tau_max, tau_min=0)
    partition(next(features.glob("*.parquet")), S2Scheme(rule), hierarchy)
    bundle = open_bundle(build(folder / "R", hierarchy=hierarchy, features=features).folder)
    held, unseen = (_queries(bundle, photos.take(rows)) for rows in parts[1:])
    return bundle, held, unseen


def _queries(bundle: Bundle, photos: Photos) -> HeldOutQueries:
    n = len(photos.vectors)
    queries = bundle.model.geocells.compared(photos.vectors)
    leaf = bundle.hierarchy.locate(photos.lat_deg, photos.lng_deg)[:, -1]
    names = named((f"{row:05d}.png",) for row in range(n))
    return HeldOutQueries(names, queries, np.ones(n, np.int64), photos.lat_deg, photos.lng_deg, leaf)


def demo_world(demo: Path) -> tuple[Bundle, HeldOutQueries, HeldOutQueries]:
    """The same of a finished demo."""
    bundle, truth = open_bundle(Registry(demo / "registry").resolve(None)), demo / "world" / "photos.parquet"
    held = held_out(bundle, open_features(demo / "held_out"), truth, split="validation")
    return bundle, held, held_out(bundle, open_features(demo / "features"), truth, split="test")


def report_comparisons(report: Report, name: str, found: Sequence[Comparison]) -> None:
    """A line for each kind of photos; of several draws the interval of the mean gain is over draws."""
    gain = np.array([each.gain for each in found])
    ends = Interval(found[0].low, found[0].high) if len(found) == 1 else mean_interval(gain, Resampling())
    before, after = (np.median([getattr(each, field) for each in found]) for field in ("without_km", "with_km"))
    costs = [each.cost for each in found if each.cost is not None]
    cost = f"; a search takes {statistics.median(costs):.2f} times as long with it" if costs else ""
    shares = ""
    if len(found) == 1 and found[0].within is not None:
        few, more = found[0].within
        shares = "; within " + ", ".join(f"{km} km {few[km]:.1f} to {more[km]:.1f} %" for km in few)
    report.row(
        name,
        f"kept in {sum(each.kept for each in found)} of {len(found)}; without {before:.3g} km, with {after:.3g} km "
        f"(medians); gain in log(1 + km) {gain.mean():+.4f} (95 %: {ends.low:+.4f} to {ends.high:+.4f}){cost}{shares}",
        holds=ends.high >= 0,
        comparisons=[asdict(each) for each in found],
    )


def main() -> int:
    """Run the command line; the exit code is 1 where a reranker made answers worse by more than chance."""
    parser = ArgumentParser(prog="python -m benchmarks.reranker", description=__doc__)
    parser.add_argument("--worlds", type=int, default=4, help="Of each kind that is drawn.")
    parser.add_argument("--demo", type=Path, default=EMBEDDED, help="Folder of `make demo`.")
    options = parser.parse_args()
    return measure(options.worlds, SETTINGS, options.demo)


def measure(worlds: int, settings: Sequence[Setting], demo: Path | None) -> int:
    """Compare on every kind of photos and report; returns the exit code."""
    report = Report("reranker")
    if demo is not None and (demo / "held_out").is_dir():
        report_comparisons(report, "world", [compare(*demo_world(demo))])
    for setting in settings:
        found = []
        for seed in range(worlds):
            with tempfile.TemporaryDirectory() as folder:
                found.append(compare(*small_world(setting, Path(folder), seed=seed)))
        report_comparisons(report, setting.name, found)
    return report.finish(worlds=worlds, settings=[asdict(setting) for setting in settings])


if __name__ == "__main__":
    raise SystemExit(main())
