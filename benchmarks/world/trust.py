"""`python -m benchmarks.world.trust`: whether answers are right about themselves, and where in a cell they should be.

On the world and with the encoder that `make demo` leaves, with the product's own commands: build and answer; calibrate
with the validation photos, and answer again. Then the test photos, which no command before has seen, tell how far
probabilities are off before and after, how many of them lie within the radii they were told, whether photos bring
answers nearer than cells alone do (paired, on the same photos), whether pointing elsewhere than at the densest place
does, whether the radii around such points are true, and of claims (`python -m search check`) how many true ones have a
p-value that is small, and how many false ones.

In: the folder of a demo. Out: a line of `benchmarks/results/world-trust.jsonl`.
"""

import logging
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser
from scipy.stats import betabinom

from benchmarks.harness import Report, run_command
from benchmarks.world.demo import FULL_OUT
from indexer.bundles.bundle import Bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.earth.geo import haversine_km
from indexer.errors import InputError
from indexer.vectors.features import open_features
from search.answers.claims import Claim, ClaimCheck
from search.answers.options import GalleryName, SearchOptions
from search.calibration.held_out import HeldOutQueries, held_out
from search.evaluation.bootstrap import share_interval
from search.evaluation.evaluate import Evaluation, compare, evaluate_predictions
from search.evaluation.options import LEVEL, EvaluateConfig, Resampling
from training.runs.folder import CHECKPOINT

MAX_ERROR = 0.03  # of probabilities
POINTS = ("cell", "medoid", "mass")  # beside the densest place
LEVELS = (0.01, 0.05, 0.1, 0.2)  # p-values that are called small
FALSE_KM = (200.0, 750.0, 2500.0)  # how far from the true place false claims are
_TAIL = (1 - LEVEL) / 2
_CONFIG = EvaluateConfig(split="test", resampling=Resampling(10_000))


def measure(report: Report, demo: Path, folder: Path) -> None:
    """Make everything in a folder and report.

    Raises:
        InputError: no finished demo.
    """
    photos, checkpoint, hierarchy = demo / "world" / "photos.parquet", demo / "run" / CHECKPOINT, demo / "hierarchy"
    for needed in (photos, checkpoint, hierarchy):
        if not needed.exists():
            raise InputError(f"{needed}: missing. Run the demo first: make demo")
    features = folder / "features"
    run_command("encoder", "embed", "--photos", photos, "--checkpoint", checkpoint, "--out", features)

    def build(name: str, learnt: Path) -> Path:
        registry = folder / name
        run_command("indexer", "build", "--hierarchy", hierarchy, "--checkpoint", learnt, "--registry", registry)
        return registry

    def answers(registry: Path, name: str, *options: str) -> Evaluation:
        out = folder / f"{registry.name}-{name}"
        run_command("search", "run", "--registry", registry, "--features", features, "--out", out, *options)
        return evaluate_predictions(out, photos, config=_CONFIG)

    registry = build("registry", checkpoint)
    before = answers(registry, "before")
    known = ("--truth", photos, "--split", "validation")
    run_command("search", "calibrate", "--registry", registry, "--features", features, *known)
    after = answers(registry, "after")
    bundle = open_bundle(Registry(registry).resolve(None))
    promised_by = bundle.calibrations["one"].queries // 2  # a half of the photos: they are not few
    calibration(report, before, after)
    radii(report, after, "density", promised_by)
    cells = answers(registry, "cells", "--gallery", "off")
    pointing(report, cells, after, "density, beside cells alone")
    radii(report, cells, "cell, by cells alone", promised_by)
    for point in POINTS:
        other = answers(registry, point, "--point", point)
        pointing(report, after, other, point)
        radii(report, other, point, promised_by)
    sample = held_out(bundle, open_features(features), photos, split="test")
    for gallery in ("lists", "off"):
        claims(report, bundle, sample, gallery=gallery)


def claims(report: Report, bundle: Bundle, sample: HeldOutQueries, *, gallery: GalleryName) -> None:
    """How many claims have a small p-value, of true ones and of false ones, which are other photos' places."""
    check = ClaimCheck(bundle, options=SearchOptions(gallery=gallery))
    by = "cells" if gallery == "off" else "cells and photos"
    places = [Claim(*each) for each in zip(sample.lat_deg.tolist(), sample.lng_deg.tolist(), strict=True)]
    true = check.p_values(sample.queries, places)
    for level in LEVELS:
        share, ends = float((true <= level).mean()), share_interval(true <= level)
        report.row(
            f"true claims with a p-value of at most {level:.0%}, by {by}",
            f"{share:.1%} of {len(true):,} ({ends.low:.1%} to {ends.high:.1%}), at most {level:.0%} within that",
            holds=ends.low <= level,
            share=share,
            interval=[ends.low, ends.high],
        )
    for km in FALSE_KM:
        other = claimed_elsewhere(sample.lat_deg, sample.lng_deg, km)
        false = check.p_values(sample.queries, [places[row] for row in other])
        away = haversine_km(sample.lat_deg, sample.lng_deg, sample.lat_deg[other], sample.lng_deg[other])
        shares = {f"{level:.0%}": float((false <= level).mean()) for level in LEVELS}
        text = ", ".join(f"{share:.1%} at {level}" for level, share in shares.items())
        report.row(
            f"false claims {km:,.0f} km away with a small p-value, by {by}",
            f"{text}; half of them are {np.median(away):,.0f} km away or less",
            shares=shares,
            median_km=float(np.median(away)),
        )


def claimed_elsewhere(lat_deg: np.ndarray, lng_deg: np.ndarray, km: float) -> np.ndarray:
    """For each of N places the number of the one among the others whose distance is nearest to this: (N,) int64."""
    gap = np.abs(haversine_km(lat_deg[:, None], lng_deg[:, None], lat_deg, lng_deg) - km)
    np.fill_diagonal(gap, np.inf)
    return np.asarray(gap.argmin(axis=1))


def calibration(report: Report, before: Evaluation, after: Evaluation) -> None:
    """How far probabilities are from what came true."""
    for what, evaluation, bound in (("as fitted", before, None), ("calibrated", after, MAX_ERROR)):
        found = evaluation.reliability
        assert found is not None, "cells are S2 cells, and answers have probabilities"
        assert found.interval is not None
        report.row(
            f"calibration error, {what}",
            f"{found.error:.3f} ({found.interval.low:.3f} to {found.interval.high:.3f}), {found.photos:,} photos, "
            f"{found.right:.1%} in the answered cell" + ("" if bound is None else f", at most {bound:g}"),
            holds=None if bound is None else found.error <= bound,
            **asdict(found),
        )


def radii(report: Report, evaluation: Evaluation, point: str, promised_by: int) -> None:
    """How many photos lie within the radii that they were told, around one kind of point.

    promised_by: how many photos chose what radii hold. Another draw of them would have chosen other radii: of new
    photos so many lie within as a beta-binomial distribution says (Vovk, Conditional validity of inductive conformal
    predictors, ACML 2012).
    """
    for each in evaluation.coverages:
        below = math.ceil((promised_by + 1) * each.promised)
        within = betabinom(each.photos, below, promised_by + 1 - below).ppf([_TAIL, 1 - _TAIL]) / each.photos
        low, high = within.tolist()
        report.row(
            f"within the {each.promised:.0%} radius around --point {point}",
            f"{each.found:.1%} of {each.photos:,} photos ({each.interval.low:.1%} to {each.interval.high:.1%}), "
            f"{low:.1%} to {high:.1%} by the {promised_by:,} that chose it; half of the radii are at most "
            f"{each.median_km:.0f} km",
            holds=low <= each.found <= high,
            allowed=[low, high],
            **asdict(each),
        )


def pointing(report: Report, usual: Evaluation, other: Evaluation, point: str) -> None:
    """Whether answers that point elsewhere are nearer."""
    end = compare(other, usual, name="usual").difference.median_km
    verdict = "nearer" if end.high < 0 else "farther" if end.low > 0 else "not distinguishable"
    figures: dict[str, Any] = {"median_km": other.accuracy.median_km, "usual_km": usual.accuracy.median_km}
    report.row(
        f"--point {point}",
        f"median {figures['usual_km']:.1f} km, then {figures['median_km']:.1f} km; difference {end.low:+.1f} to "
        f"{end.high:+.1f} km: {verdict}",
        difference_km=[end.low, end.high],
        **figures,
    )


def main() -> int:
    """Run the command line; the exit code is 1 where a bound was missed."""
    parser = ArgumentParser(prog="python -m benchmarks.world.trust", description=__doc__)
    parser.add_argument("--demo", type=Path, default=FULL_OUT, help="Folder of a finished demo.")
    options = parser.parse_args()
    report = Report("world-trust")
    with tempfile.TemporaryDirectory(prefix="bench-trust-") as name:
        try:
            measure(report, options.demo, Path(name))
        except InputError as error:
            raise SystemExit(f"error: {error}") from None
    return report.finish(draws=_CONFIG.resampling.resamples)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
