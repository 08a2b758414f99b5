"""What a run on the embedded world came to: places, times and checks, and how they stand against the goals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.world.methods import OrderCheck
from indexer.earth.geo import Accuracy, accuracy, haversine_km
from search.evaluation.bootstrap import mean_interval, paired_intervals
from search.evaluation.options import Resampling
from search.evaluation.reliability import Coverage, Reliability

OURS, UNMAPPED, CELLS, FINEST, ALIKE = "ours", "without_maps", "cells_only", "finest_only", "most_similar"
PIXELS, RANDOM, ORACLE = "pixel_nn", "random", "oracle_cell"
# What pages call each method, in the order of every table.
METHODS: Mapping[str, str] = {
    OURS: "cells and photos together (ours)",
    UNMAPPED: "ours, test photos without their class maps",
    CELLS: "cells alone, the product of all levels",
    FINEST: "finest level alone",
    ALIKE: "the most similar training photo",
    PIXELS: "nearest training photo by pixels",
    RANDOM: "a training photo at random",
    ORACLE: "the right finest cell, always",
}
COMPETING = (OURS, CELLS, FINEST, ALIKE, PIXELS, RANDOM)  # those that know the same, and not the truth

_COMPARED_KM = ("200", "750", "2500")
_LEAST = {"25": 19.0, "200": 93.0}  # percent of test photos
_KEPT_KM = ("750", "2500")  # where photos must not lose what cells alone reach, but for chance
_ANSWERING_STEPS = ("build", "run")


@dataclass(frozen=True, slots=True, eq=False)
class MethodPlaces:
    """Where a method puts each test photo."""

    lat_deg: np.ndarray  # (N,) float64, NaN where there is no answer
    lng_deg: np.ndarray  # (N,) float64


@dataclass(frozen=True, slots=True, eq=False)
class WorldAnswers:
    """What each method answers. Sequences and arrays of N have one entry per test photo, in one order."""

    lat_deg: np.ndarray  # (N,) float64, where the photos were taken
    lng_deg: np.ndarray  # (N,) float64
    tiles: Sequence[Path]  # N JPEG files
    true_place: Sequence[str]  # N names to read
    predictions: Mapping[str, MethodPlaces]  # for each of METHODS; of UNMAPPED for the same photos, in the same order
    predicted_place: Sequence[str]  # N names, of what `ours` answers
    probability: np.ndarray  # (N,) float64, of what `ours` answers; NaN where there is no answer
    reliability: Reliability | None  # of these; None where nothing was calibrated
    radii: Sequence[Coverage]  # how often the truth lies within those of `ours`
    radii_without_maps: Sequence[Coverage]  # the same of `without_maps`
    cells: Sequence[int]  # per level, coarsest first
    coverage: Sequence[float]  # per level: share of training photos that fall in one of its cells
    n_train: int  # photos
    order: OrderCheck
    leaf_loss: Mapping[str, np.ndarray]  # of OURS and CELLS: (N,) float64 in nats, NaN where no leaf is the true one


@dataclass(frozen=True, slots=True, eq=False)
class WorldResults:
    """Everything a report is made from."""

    answers: WorldAnswers
    seconds: Mapping[str, float]  # step -> wall-clock seconds, in the order they ran
    train_seconds: float  # inside the training loop
    total_seconds: float  # from the start to the writing of the report
    peak_memory_bytes: int
    seed: int  # of the world's photos and of the random baseline
    fusion_kind: str  # `FusionConfig.kind` of the encoder that was trained
    made_by: Mapping[str, str]  # what ran where: versions, cores
    world_reused: bool  # the photos were there from an earlier run, and their time is not in `seconds`
    judged: bool  # False: a run too small for the goals to mean anything


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal, as text for people, and whether it was met."""

    what: str
    goal: str
    value: str
    met: bool


def errors_km(results: WorldResults) -> dict[str, np.ndarray]:
    """Distance of each method's answers from the truth, (N,) each; NaN where there is no answer."""
    return {
        method: haversine_km(results.answers.lat_deg, results.answers.lng_deg, places.lat_deg, places.lng_deg)
        for method, places in ((method, results.answers.predictions[method]) for method in METHODS)
    }


def accuracies(results: WorldResults) -> dict[str, Accuracy]:
    """Accuracy of each method, in the order of METHODS."""
    return {method: accuracy(errors) for method, errors in errors_km(results).items()}


def goals(results: WorldResults) -> list[Goal]:
    """Every goal that this run can be held to: all of them, or the agreement of the two orders where not `judged`."""
    order = results.answers.order
    agreement = Goal(
        "search in the order of the multiplied-out product",
        "every query",
        f"{order.queries - order.differing:,} of {order.queries:,}",
        order.differing == 0,
    )
    if not results.judged:
        return [agreement]
    paired = [*_paired_goals(results), _loss_goal(results.answers.leaf_loss)]
    return [*_accuracy_goals(accuracies(results)), *paired, agreement, *_cost_goals(results)]


def _accuracy_goals(table: Mapping[str, Accuracy]) -> list[Goal]:
    ours = table[OURS]
    goals = [_at_most("median error", ours.median_km, 54, "km")]
    for limit, least in _LEAST.items():
        share = ours.within[limit]
        goals.append(Goal(f"within {limit} km", f"at least {least:g} %", f"{share:.2f} %", share >= least))
    for rival in (FINEST, PIXELS):
        for limit in _COMPARED_KM:
            share, other = ours.within[limit], table[rival].within[limit]
            what = f"within {int(limit):,} km, against {METHODS[rival]}"
            goals.append(Goal(what, f"more than {other:.2f} %", f"{share:.2f} %", share > other))
    return goals


def _paired_goals(results: WorldResults) -> list[Goal]:
    """Ours against its own cells and its own photos alone, photo by photo, with 95 % intervals."""
    errors = errors_km(results)
    limits = [float(limit) for limit in accuracies(results)[OURS].within]
    goals = []
    for rival in (CELLS, ALIKE):
        ends = paired_intervals(errors[OURS], errors[rival], limits, Resampling())
        value = f"{ends.median_km.low:+.1f} to {ends.median_km.high:+.1f} km"
        goals.append(Goal(f"median error, less that of {METHODS[rival]}", "below 0", value, ends.median_km.high < 0))
        for limit in _KEPT_KM if rival == CELLS else ():
            share = ends.within[limit]
            what = f"within {int(limit):,} km, less {METHODS[rival]}"
            goals.append(Goal(what, "not below 0", f"{share.low:+.2f} to {share.high:+.2f} %", share.high >= 0))
    return goals


def _loss_goal(losses: Mapping[str, np.ndarray]) -> Goal:
    """That what photos add to the posterior is true: paired, over photos that were taken in a leaf."""
    change = losses[OURS] - losses[CELLS]
    ends = mean_interval(change[~np.isnan(change)], Resampling())
    value = f"{np.nanmean(losses[OURS]):.2f}; {ends.low:+.2f} to {ends.high:+.2f}"
    what = f"log loss of the true leaf; less that of {METHODS[CELLS]}"
    return Goal(what, "below 0", value, ends.high < 0)


def _cost_goals(results: WorldResults) -> list[Goal]:
    answering = sum(results.seconds[step] for step in _ANSWERING_STEPS)
    gigabytes = results.peak_memory_bytes / 1e9
    return [
        _at_most("training", results.train_seconds, 300, "s"),
        _at_most(
            "everything" + (" but making the photos" if results.world_reused else ""), results.total_seconds, 480, "s"
        ),
        # "Seconds", made a number: both commands from their start to their end, Python's own start-up included.
        _at_most("building the bundle and answering every test photo", answering, 20, "s"),
        Goal("peak memory", "under 4 GB", f"{gigabytes:.2f} GB", gigabytes < 4),
    ]


def _at_most(what: str, value: float, bound: float, unit: str) -> Goal:
    return Goal(what, f"at most {bound:g} {unit}", f"{value:.1f} {unit}", value <= bound)


def as_json(results: WorldResults) -> dict[str, Any]:
    """What `report.json` holds."""
    methods = {
        method: {"median_km": figures.median_km, "mean_km": figures.mean_km, "within": dict(figures.within)}
        for method, figures in accuracies(results).items()
    }
    return {
        "train_seconds": results.train_seconds,
        "total_seconds": results.total_seconds,
        "seconds": dict(results.seconds),
        "world_reused": results.world_reused,
        "train_photos": results.answers.n_train,
        "test_photos": len(results.answers.lat_deg),
        "cells": list(results.answers.cells),
        "coverage": list(results.answers.coverage),
        **methods,
        "reliability": None if results.answers.reliability is None else asdict(results.answers.reliability),
        "radii": [asdict(each) for each in results.answers.radii],
        "radii_without_maps": [asdict(each) for each in results.answers.radii_without_maps],
        "leaf_log_loss": {method: float(np.nanmean(losses)) for method, losses in results.answers.leaf_loss.items()},
        "order_check": asdict(results.answers.order),
        "peak_memory_bytes": results.peak_memory_bytes,
        "seed": results.seed,
        "judged": results.judged,
        "goals": [asdict(goal) for goal in goals(results)],
        "fusion_kind": results.fusion_kind,
        "made_by": dict(results.made_by),
    }
