"""`python -m benchmarks.small_refit`: a refit of few photos beside the means that it begins with.

600 photos in 150 leaves are four a leaf. From such photos `training refit` has once answered worse than a build from
the same features, because the photos that it chose by were lost to the cells. Here both are made again and again, from
random splits of photos with vectors as image encoders make them: one direction shared by all, strong directions that
say nothing of the place, and weaker ones that do. Both answer photos that neither has seen. A refit is missed where
its errors are larger than those of the means by more than chance.

    city       photos around the sights of a city, told apart well
    hard city  the same, with a noise that hides most of the place
    country    photos around the towns of a country, in more dimensions
    more       three times as many photos in as many leaves
    world      tiles of the embedded world, by the demo's encoder, if `make demo` has been run
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from jsonargparse import ArgumentParser

from benchmarks.harness import Report, seconds_of
from indexer.cells.division import S2Scheme, partition
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.partition import PartitionRule
from indexer.cells.table import load_hierarchy
from indexer.earth.geo import haversine_km
from indexer.vectors.features import open_features
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placement, prototypes
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from search.evaluation.bootstrap import mean_interval
from search.evaluation.options import Resampling
from training.config import RefitConfig, RefitSources
from training.refitting import refit

SPLITS = 6  # of each world that is drawn
EMBEDDED = Path("out/demo")  # of `make demo`
_FEW, _TAU_MAX = 600, (120, 30, 8)  # photos to learn from, and what makes some 150 leaves of them
_KM_A_DEGREE = 111.2
_COMMON, _LOUD, _N_LOUD = 3.0, 2.0, 8  # length of the shared part; of each direction that says nothing of the place
_TELLING, _N_TELLING = 0.25, 24  # length of each direction that depends on the place: waves at three scales


@dataclass(frozen=True, slots=True)
class Setting:
    """What is drawn."""

    name: str
    span_km: float  # how far from the middle the sights lie
    scatter_km: float  # of photos around their sight
    noise: float
    width: int
    known: int = _FEW  # photos to learn from
    tau_max: tuple[int, ...] = _TAU_MAX
    sights: int = 80
    photos: int = 2600  # those that nobody has seen included


SETTINGS = (
    Setting("city", 5.0, 0.15, 0.1, 96),
    Setting("hard city", 5.0, 0.15, 0.4, 96),
    Setting("country", 400.0, 8.0, 0.2, 384, sights=150),
    Setting("more", 400.0, 8.0, 0.2, 96, known=1800, tau_max=(360, 90, 24), sights=150),
)


@dataclass(frozen=True, slots=True, eq=False)
class Photos:
    """Vectors and places of photos."""

    vectors: np.ndarray  # (N, D) float32
    lat_deg: np.ndarray  # (N,) float64
    lng_deg: np.ndarray

    def take(self, rows: np.ndarray) -> "Photos":
        """Some of them, by number."""
        return Photos(self.vectors[rows], self.lat_deg[rows], self.lng_deg[rows])


@dataclass(frozen=True, slots=True)
class Trial:
    """One refit, on photos that it has not seen."""

    leaves: int
    kept: str
    means_km: float  # median error
    refit_km: float
    gain: float  # mean of the differences of log(1 + km): above 0 where the refit is nearer
    low: float  # of the middle 95 % of that mean, by bootstrap over photos
    high: float
    seconds: float


def draw(setting: Setting, *, seed: int) -> Photos:
    """Photos of one world, as the module says."""
    rng = np.random.default_rng(seed)
    n, width = setting.photos, setting.width
    sights = rng.uniform(-setting.span_km, setting.span_km, (setting.sights, 2))
    at = rng.choice(setting.sights, n, p=rng.dirichlet(np.full(setting.sights, 0.7)))
    places = sights[at] + rng.normal(0, setting.scatter_km, (n, 2))
    # Waves of one, four and sixteen turns or so across the whole.
    waves = rng.normal(size=(2, _N_TELLING)) * np.repeat([1.0, 4.0, 16.0], _N_TELLING // 3)
    telling = np.cos(places / setting.span_km @ waves + rng.uniform(0, 2 * np.pi, _N_TELLING))
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
    spread = np.exp(rng.normal(0, 0.7, width))  # the noise is not the same in all directions either
    vectors = (
        _COMMON * axes[0]
        + _LOUD * rng.normal(size=(n, _N_LOUD)) @ axes[1 : 1 + _N_LOUD]
        + _TELLING * telling @ axes[1 + _N_LOUD : 1 + _N_LOUD + _N_TELLING]
        + setting.noise * (rng.normal(size=(n, width)) * spread) @ axes.T
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lat = 48 + places[:, 1] / _KM_A_DEGREE
    return Photos(vectors.astype(np.float32), lat, 2 + places[:, 0] / (_KM_A_DEGREE * np.cos(np.radians(48))))


def embedded(demo: Path) -> Photos:
    """The photos of the embedded world that its encoder was not trained with."""
    table = pa.parquet.read_table(demo / "world" / "photos.parquet", columns=["photo", "split"])
    unseen = table.filter(pa.compute.not_equal(table["split"], "train"))["photo"]
    parts = []
    for batch in open_features(demo / "features"):
        rows = np.flatnonzero(batch.ok & pa.compute.is_in(pa.array(batch.photo), value_set=unseen).to_numpy(False))
        parts.append((batch.embedding[rows], batch.lat_deg[rows], batch.lng_deg[rows]))
    return Photos(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def compare(photos: Photos, known: np.ndarray, tau_max: Sequence[int], *, seed: int) -> Trial:
    """Means and a refit of the known photos, (K,) numbers, judged by all others."""
    unseen = np.setdiff1d(np.arange(len(photos.vectors)), known)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        features, hierarchy = folder / "F", folder / "H"
        write_features(photos.take(known), features)
        table = next(features.glob("*.parquet"))
        partition(table, S2Scheme(PartitionRule(tau_max=tuple(tau_max), tau_min=0)), hierarchy)
        tree = load_hierarchy(hierarchy)
        means = prototypes(open_features(features), Placement(tree), seed=seed).geocells
        made = []
        config = RefitConfig(seed=seed, device="cpu")
        seconds = seconds_of(lambda: made.append(refit(RefitSources(features, hierarchy), folder / "C", config=config)))
    before, after = (distances(geocells, tree, photos.take(unseen)) for geocells in (means, made[0].geocells))
    gain = np.log1p(before) - np.log1p(after)
    ends = mean_interval(gain, Resampling())
    medians = float(np.median(before)), float(np.median(after))
    return Trial(len(tree.leaves), made[0].kept, *medians, float(gain.mean()), ends.low, ends.high, seconds)


def write_features(photos: Photos, out: Path) -> None:
    """A folder of features with places."""
    out.mkdir()
    columns = {
        "photo": [f"{row:05d}.jpg" for row in range(len(photos.vectors))],
        "embedding": photos.vectors.tolist(),
        "lat": photos.lat_deg,
        "lng": photos.lng_deg,
    }
    pyarrow.parquet.write_table(pa.table(columns), out / "part-00000.parquet")


def distances(geocells: Geocells, tree: Hierarchy, photos: Photos) -> np.ndarray:
    """Great-circle errors of the photos' best leaves: (N,) float64, in km."""
    model = ScoringModel(geocells, tree.ancestors, tree.leaves.n_photos)
    best = (model.extended(geocells.compared(photos.vectors)) @ leaf_vectors(model).T).argmax(axis=1)
    return haversine_km(photos.lat_deg, photos.lng_deg, tree.leaves.lat_deg[best], tree.leaves.lng_deg[best])


def report_trials(report: Report, name: str, trials: Sequence[Trial], *, photos: int) -> None:
    """A line for each kind of photos. Trials are draws too: the interval of the mean gain is over them."""
    gain = np.array([trial.gain for trial in trials])
    ends = mean_interval(gain, Resampling())
    kept = [trial.kept for trial in trials]
    worse, better = (sum(each) for each in ((t.high < 0 for t in trials), (t.low > 0 for t in trials)))
    leaves, before, after = (
        np.median([getattr(trial, field) for trial in trials]) for field in ("leaves", "means_km", "refit_km")
    )
    report.row(
        name,
        f"{photos} photos, {leaves:.0f} leaves: means {before:.3g} km, refit {after:.3g} km (medians); gain in "
        f"log(1 + km) {gain.mean():+.4f} (95 %: {ends.low:+.4f} to {ends.high:+.4f}); of {len(trials)} refits "
        f"{better} better and {worse} worse by more than chance, {kept.count('start')} kept the means",
        holds=ends.high >= 0,
        gain={"mean": float(gain.mean()), **asdict(ends)},
        trials=[asdict(trial) for trial in trials],
    )


def main() -> int:
    """Run the command line; the exit code is 1 where a refit was worse than its start by more than chance."""
    parser = ArgumentParser(prog="python -m benchmarks.small_refit", description=__doc__)
    parser.add_argument("--worlds", type=int, default=4, help="Of each kind, each with six splits.")
    parser.add_argument("--demo", type=Path, default=EMBEDDED, help="Folder of `make demo`.")
    options = parser.parse_args()
    return measure(options.worlds, SETTINGS, options.demo)


def measure(worlds: int, settings: Sequence[Setting], demo: Path | None) -> int:
    """Compare on every kind of photos and report; returns the exit code."""
    report = Report("small-refit")
    for setting in settings:
        trials = []
        for world in range(worlds):
            photos = draw(setting, seed=world)
            trials += compare_splits(photos, setting.known, setting.tau_max, seed=world)
        report_trials(report, setting.name, trials, photos=setting.known)
    if demo is not None and (demo / "features").is_dir():
        trials = compare_splits(embedded(demo), _FEW, _TAU_MAX, seed=0)
        report_trials(report, "world", trials, photos=_FEW)
    return report.finish(worlds=worlds, splits=SPLITS, settings=[asdict(setting) for setting in settings])


def compare_splits(photos: Photos, known: int, tau_max: Sequence[int], *, seed: int) -> list[Trial]:
    """The same photos, divided at random again and again."""
    trials = []
    for split in range(SPLITS):
        rows = np.random.default_rng([seed, split]).permutation(len(photos.vectors))[:known]
        trials.append(compare(photos, np.sort(rows), tau_max, seed=split))
    return trials


if __name__ == "__main__":
    raise SystemExit(main())
