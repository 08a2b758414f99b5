"""`python -m benchmarks.world.refit`: a new partition by refit, beside training from scratch on it.

On the demo's world, with the product's own commands: train on partition A; divide the Earth anew (partition B); make
geocells for B from A's photo vectors in four ways, and train another encoder on B. Everything is judged by the test
photos, which no command before has seen. A refit holds where it takes a twentieth of the time of training from scratch,
lies within two points of it at every distance, and is not worse than whitened means by more than chance.

    plain means      mean directions of the photo vectors
    whitened means   the same after whitening (`indexer build --features`)
    refit            whitened means, then fitted
    refit, lineage   A's own geocells carried over, then fitted
    from scratch     encoder and geocells trained on B
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from benchmarks.harness import Child, Report, run_command
from benchmarks.world.demo import FULL, QUICK, DemoPreset
from benchmarks.world.generator import generate
from indexer.earth.geo import accuracy
from search.evaluation.bootstrap import Interval, mean_interval
from search.evaluation.evaluate import evaluate_predictions
from search.evaluation.options import EvaluateConfig, Resampling
from training.runs.folder import CHECKPOINT

OTHER_TAUS = {FULL: "800,300,120,50,20,10", QUICK: "80,30,12"}
THRESHOLDS = ("25", "200", "750")

PLAIN, WHITENED, REFIT, LINEAGE, SCRATCH = "plain means", "whitened means", "refit", "refit, lineage", "from scratch"

MAX_LOSS = 2.0  # percentage points behind training from scratch
MIN_SPEEDUP = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One way to geocells for B, and how well it answers the test photos."""

    seconds: float  # from photo vectors, or from photos, to geocells
    distance_km: np.ndarray  # (N,) of the test photos


def compare_ways(preset: DemoPreset, out: Path) -> int:
    """Make everything and report; returns the exit code."""
    world = out / "world"
    for path in out.glob("*"):
        if path != world and path.is_dir():
            shutil.rmtree(path)
    out.mkdir(parents=True, exist_ok=True)
    generate(preset.world, world)
    photos = world / "photos.parquet"
    a, b = out / "hierarchy-A", out / "hierarchy-B"
    for taus, hierarchy in ((preset.tau_max, a), (OTHER_TAUS[preset], b)):
        divided = ("--tau-max", taus, "--tau-min", str(preset.tau_min), "--out", hierarchy)
        run_command("indexer", "partition", "--photos", photos, "--split", "train", *divided)
    fitted = {name: _fit(preset, photos, opened, out / f"run-{name}") for name, opened in (("A", a), ("B", b))}
    trained = {name: child.seconds for name, child in fitted.items()}
    features = out / "features-A"
    encoder, scratch = (out / f"run-{name}" / CHECKPOINT for name in "AB")
    embedding = run_command("encoder", "embed", "--photos", photos, "--checkpoint", encoder, "--out", features)
    judge = _judge(photos, out)
    vectors = ("--features", features, "--hierarchy", b, "--photos", photos, "--split", "train")
    ways = {name: _means(vectors, out / name.split()[0], judge) for name in (PLAIN, WHITENED)}
    for name, more in ((REFIT, ()), (LINEAGE, ("--old-hierarchy", a))):
        ways[name] = _refit(vectors, encoder, out / name.replace(", ", "-"), judge, b, more)
    registry = out / "registry-scratch"
    run_command("indexer", "build", "--hierarchy", b, "--checkpoint", scratch, "--registry", registry)
    ways[SCRATCH] = Way(trained["B"], judge(registry, scratch, None))
    return report_ways(ways, preset, trained_a=trained["A"], embedding=embedding.seconds)


def _fit(preset: DemoPreset, photos: Path, hierarchy: Path, run: Path) -> Child:
    paths = ("--hierarchy", hierarchy, "--out", run, "--data.photos", photos)
    return run_command("training", "fit", "--config", "configs/demo.yaml", *paths, *preset.training)


_Judge = Callable[[Path, Path | None, Path | None], np.ndarray]


def _judge(photos: Path, out: Path) -> _Judge:
    """Errors of a registry's answers to the test photos, from an encoder or from features that hold them."""

    def judge(registry: Path, checkpoint: Path | None, features: Path | None) -> np.ndarray:
        made = features or out / f"features-{registry.name}"
        if checkpoint is not None:
            test = ("--photos", photos, "--split", "test", "--checkpoint", checkpoint)
            run_command("encoder", "embed", *test, "--out", made)
        predictions = out / f"predictions-{registry.name}"
        run_command("search", "run", "--registry", registry, "--features", made, "--out", predictions)
        return evaluate_predictions(predictions, photos, config=EvaluateConfig(split="test")).distance_km

    return judge


def _means(vectors: tuple[Any, ...], registry: Path, judge: _Judge) -> Way:
    transform = "none" if registry.name == PLAIN.split()[0] else "whiten"
    child = run_command("indexer", "build", *vectors, "--transform", transform, "--registry", registry)
    return Way(child.seconds, judge(registry, None, vectors[1]))


def _refit(
    vectors: tuple[Any, ...], encoder: Path, out: Path, judge: _Judge, hierarchy: Path, more: tuple[Any, ...]
) -> Way:
    arguments = (*vectors, "--validation-split", "validation", "--from", encoder, *more)
    child = run_command("training", "refit", *arguments, "--out", out, "--json")
    registry = out.parent / f"registry-{out.name}"
    run_command("indexer", "build", "--hierarchy", hierarchy, "--checkpoint", out, "--registry", registry)
    print(json.dumps({key: json.loads(child.output)[key] for key in ("kept", "stage_seconds")}), flush=True)  # noqa: T201
    return Way(child.seconds, judge(registry, None, vectors[1]))


def report_ways(ways: Mapping[str, Way], preset: DemoPreset, *, trained_a: float, embedding: float) -> int:
    """A line for each way, held to the goals where the preset is judged, and to the results."""
    report = Report("world-refit")
    scratch = ways[SCRATCH]
    reached = accuracy(scratch.distance_km).within
    for name, way in ways.items():
        figures = accuracy(way.distance_km)
        against = {limit: figures.within[limit] - reached[limit] for limit in THRESHOLDS}
        speedup = scratch.seconds / way.seconds
        shares = ", ".join(f"{limit} km {figures.within[limit]:.1f} %" for limit in THRESHOLDS)
        text, holds, gain = f"median {figures.median_km:.1f} km; {shares}; {way.seconds:.0f} s", None, None
        if name in (REFIT, LINEAGE):
            gain = gain_over(ways[WHITENED], way)
            text += (
                f"; {speedup:.0f}x faster than from scratch (goal {MIN_SPEEDUP:g}x), at worst "
                f"{min(against.values()):+.1f} points from it (goal -{MAX_LOSS:g}); against whitened means {gain.text}"
            )
            if preset.judged:
                holds = speedup >= MIN_SPEEDUP and min(against.values()) >= -MAX_LOSS and gain.ends.high >= 0
        report.row(
            name,
            text,
            holds=holds,
            seconds=way.seconds,
            median_km=figures.median_km,
            within=dict(figures.within),
            points_against_scratch=against,
            speedup=speedup,
            log_gain_over_whitened=None if gain is None else {"mean": gain.mean, **asdict(gain.ends)},
        )
    if not preset.judged:
        return 0
    return report.finish(
        photos=preset.world.n_train,
        test_photos=preset.world.n_test,
        taus_a=preset.tau_max,
        taus_b=OTHER_TAUS[preset],
        training_a_seconds=trained_a,
        embedding_seconds=embedding,
    )


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much errors shrink, photo by photo: the mean of the difference of log(1 + km), and its interval."""

    mean: float
    ends: Interval

    @property
    def text(self) -> str:
        """In percent of an error, and whether that is more than chance."""
        verdict = "better" if self.ends.low > 0 else "worse" if self.ends.high < 0 else "not distinguishable"
        low, high = _percent(self.ends.high), _percent(self.ends.low)
        return f"errors {_percent(self.mean)} (95 %: {low} to {high}), {verdict}"


def gain_over(before: Way, after: Way) -> Gain:
    """What one way gains over another on the same photos."""
    gain = np.log1p(before.distance_km) - np.log1p(after.distance_km)
    return Gain(float(gain.mean()), mean_interval(gain, Resampling()))


def _percent(gain: float) -> str:
    return f"{100 * (np.exp(-gain) - 1):+.1f} %"


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.world.refit", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A few photos and one epoch: does every step work?")
    parser.add_argument("--out", type=Path, help="Folder to write; the world in it is kept.")
    options = parser.parse_args()
    preset = QUICK if options.quick else FULL
    return compare_ways(preset, options.out or Path("out/refit-quick" if options.quick else "out/refit"))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
