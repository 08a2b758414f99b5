"""The ablations on a world of a few photos: every arm is what it is called, and the table says what it shows."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.world import ablations
from benchmarks.world.ablation_table import (
    AS,
    LIMITS,
    NOT_AS,
    OPEN,
    Method,
    better_ones,
    compare,
    draw,
    verdict_text,
)
from benchmarks.world.ablations import ARMS, FULL, HEAD, PRESET, RATES, REFERENCE, Ablation, ablate, methods
from benchmarks.world.arms import ComparisonPreset, Run, Stage
from benchmarks.world.generator import WorldConfig
from benchmarks.world.photo_answers import ALONE, NEAREST, TOGETHER
from indexer.earth.geo import FARTHEST_KM
from search.evaluation.options import Resampling

pytestmark = pytest.mark.usefixtures("small_demo")
TINY = ComparisonPreset(WorldConfig(n_train=80, n_validation=20, n_test=25), (40, 30, 24, 18, 12, 9, 6), 1, epochs=1)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.setattr("benchmarks.harness.RESULTS", tmp_path / "benchmarks" / "results")
    return tmp_path / "benchmarks" / "results"


def test_all_of_it_on_a_tiny_world(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of arm is trained for real, the others answer at random; a second start makes nothing again."""
    trained = {FULL.name, "classifier", "image-to-GPS retrieval", "1 level, the coarsest", "no fusion"}
    train_arm, rng = ablations.train_arm, np.random.default_rng(0)

    def train(arm: Ablation, seed: int, stage: Stage) -> Run:
        if arm.name in trained:
            return train_arm(arm, seed, stage)
        return Run(arm.name, seed, 1.0, {HEAD: rng.uniform(0, 3000, 25)})

    monkeypatch.setattr(ablations, "train_arm", train)
    monkeypatch.setattr(ablations, "Resampling", lambda: Resampling(200))
    code = ablate(TINY, tmp_path / "out", seeds=(0,))
    first = capsys.readouterr().out
    for method in methods():
        assert f"{method.name}: median" in first
    monkeypatch.setattr(ablations, "train_arm", lambda *arguments: pytest.fail("made again"))
    assert ablate(TINY, tmp_path / "out", seeds=(0,)) == code
    assert capsys.readouterr().out == first
    line, again = (json.loads(line) for line in (results / "ablations.jsonl").read_text().splitlines())
    assert line["rows"] == again["rows"]
    *listed, last = line["rows"]
    assert [row["what"] for row in listed] == [FULL.name, *(method.name for method in methods())]
    of_both = {row["what"]: row["within"] for row in listed}
    for row in last["against"]:  # the same differences, from the other side
        assert row["points"]["200"] == pytest.approx(of_both[row["method"]]["200"] - of_both[TOGETHER]["200"])
    assert [row["method"] for row in last["against"]] == [name for name in of_both if name != TOGETHER]
    overtaken = any("better" in row["verdicts"].values() for row in last["against"])
    assert (last["holds"], code) == (not overtaken, int(overtaken))
    full = json.loads(next((tmp_path / "out" / "runs").glob("full-method-0-*.json")).read_text())
    assert {way: len(errors) for way, errors in full["errors_km"].items()} == dict.fromkeys(
        (HEAD, NEAREST, ALONE, TOGETHER), 25
    )
    with Image.open(results / "ablations.png") as picture:
        assert min(picture.size) > 500
    text = (results / "ablations.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Points above the full method, with 95 % intervals",
        "# Points above cells and gallery, with 95 % intervals",
    ]
    page = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in page}) == 1
    assert page[2].startswith("| full method | ")
    assert sum(line.startswith(f"| {TOGETHER} | ") for line in page) == 2
    assert sum(" the paper's Table " in line for line in page) == sum(m.points is not None for m in methods())


def test_arms_are_what_they_are_called() -> None:
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    for arm in ARMS[1:]:
        changed = {name for name, value in vars(arm).items() if value != getattr(FULL, name)} - {"name", "photos"}
        assert changed <= {"head", "head_lr", "scales"} or len(changed) == 1, arm.name
        if "level" in arm.name:
            assert len(arm.levels) == int(arm.name[0])
            assert list(arm.levels) == sorted(set(arm.levels))
            assert (arm.levels[-1] == 6) == ("finest" in arm.name)
            assert (arm.levels == tuple(range(len(arm.levels)))) == ("coarsest" in arm.name)
        if "fusion" in arm.name:
            assert arm.blocks == (0 if arm.name.startswith("no") else int(arm.name[0]))
    assert len(PRESET.tau_max) == len(FULL.levels)


def test_each_kind_of_head_has_a_rate_that_was_tried_beside_lower_and_higher_ones() -> None:
    tried = {(arm.head, arm.scales): rates for arm, rates in RATES}
    for arm in ARMS:
        rates = tried[arm.head, arm.scales]
        assert min(rates) < arm.head_lr < max(rates)
        assert arm.head_lr in rates


def test_the_papers_figures_stand_beside_the_right_arms() -> None:
    by_name = {method.name: method for method in methods()}
    for name, table, points in (
        ("classifier", "VI", (-4.2, -0.4, 1.3, -0.9, -0.4)),
        ("1 level, the finest", "VII", (-9.7, -8.9, -4.6, -2.1, -1.6)),
        ("5 levels, the coarsest", "VII", (-2.9, -1.2, -1.2, -2.1, -0.8)),
        ("no fusion", "VIII", (-3.9, -2.9, -1.7, -0.9, 0.0)),
        ("image-to-GPS retrieval", "II", (-3.1, -8.0, -7.4, -4.9, -3.8)),
        ("nearest photos by the classifier", "II", (-10.0, -23.1, -31.2, -35.7, -31.7)),
    ):
        assert by_name[name].paper == table
        assert by_name[name].points == dict(zip(LIMITS, points, strict=True))
    assert by_name["negatives of the batch alone"].points is None


def runs(worse: tuple[float, ...] = (2.0, 2.0, 2.0)) -> list[Run]:
    """Three methods: the full one, one with errors so many times as large, and one that differs by chance."""
    rng = np.random.default_rng(0)
    result = []
    for seed, times in enumerate(worse):
        full = rng.lognormal(5, 1.5, 400)
        other = np.where(rng.random(400) < 0.5, full, rng.permutation(full))
        for name, errors in (("full", full), ("worse", times * full), ("other", other)):
            result.append(Run(name, seed, 10.0 * seed, {HEAD: np.minimum(errors, FARTHEST_KM)}))
    return result[::-1]  # in any order


def test_differences_are_said_as_they_are() -> None:
    points = dict.fromkeys(LIMITS, -1.0) | {"750": 2.0, "2500": 0.0}
    listed = [Method("worse", "worse", HEAD, "VI", points), Method("other", "other", HEAD, "VII", points)]
    worse, other = compare(listed, Method("full", "full", HEAD), runs(), Resampling(500))
    assert set(worse.verdicts.values()) == {"worse"}
    assert worse.agreement == {"25": AS, "200": AS, "750": NOT_AS, "2500": NOT_AS}
    assert set(other.verdicts.values()) == set(other.agreement.values()) == {OPEN}
    assert worse.seconds == 10.0
    assert verdict_text(worse) == (
        f"worse at 25, 200, 750, 2500 km. Table VI: {AS} at 25, 200 km; {NOT_AS} at 750, 2500 km"
    )
    assert verdict_text(replace(other, agreement={})) == f"{OPEN} at 25, 200, 750, 2500 km"
    assert all(ends.low <= worse.points[limit] <= ends.high for limit, ends in worse.intervals.within.items())


def test_who_is_better_than_the_best_is_named() -> None:
    full, other = (Method(name, name, HEAD) for name in ("full", "other"))
    worse = Method("worse", "worse", HEAD)
    assert better_ones(compare([worse, other], full, runs(), Resampling(500))) == []
    named = better_ones(compare([full, other], worse, runs(), Resampling(500)))
    assert named == [
        f"{name} within {limit} km" for name in ("full", "other") for limit in ("25", "200", "750", "2,500")
    ]


def test_one_seed_among_three_that_differs_is_no_difference() -> None:
    made = runs(worse=(1.0, 3.0, 1.0))
    (row,) = compare([Method("worse", "worse", HEAD)], Method("full", "full", HEAD), made, Resampling(500))
    assert set(row.verdicts.values()) == {OPEN}


def test_the_picture_has_a_row_for_each_method() -> None:
    rows = compare(
        [Method(name, name, HEAD) for name in ("worse", "other")], Method("full", "full", HEAD), runs(), Resampling(100)
    )
    pictures = [Image.open(io.BytesIO(draw(rows * times))) for times in (1, 4)]
    assert pictures[1].height > pictures[0].height
    assert draw(rows) == draw(rows)


def test_the_full_method_is_the_first_arm() -> None:
    assert ARMS[0] is FULL
    assert REFERENCE.arm == FULL.name
