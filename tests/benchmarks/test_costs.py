"""The sheet of costs: its arithmetic, and that the page has what the command prints."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.costs import CROPS, EPOCHS, GPUS, PEAKS, PHOTOS, SHARE_OF_PEAK, Slopes, costs, read_slopes, sheet

ROOT = Path(__file__).parents[2]
SLOPES = Slopes(
    1e-6, 8.0, 3e8, 1e-4, 1e-3, encode_flops=4e11, learn_flops=5e11, segment_flops=9e11, weights=9, learnt=3
)


def by_step(photos: int, slopes: Slopes = SLOPES) -> dict[str, dict[str, float]]:
    return {cost.step: dict(cost.hours) for cost in costs(photos, slopes)}


def test_hours_are_products_over_what_the_cards_do() -> None:
    hours = by_step(1_000_000)
    for card, peak in PEAKS.items():
        a_second = GPUS * SHARE_OF_PEAK * peak
        assert hours["`segment`, 640 pixels"][card] == pytest.approx(1e6 * 9e11 / a_second / 3600)
        assert hours[f"`fit`, {EPOCHS} epochs"][card] == pytest.approx(EPOCHS * 1e6 * 5e11 / a_second / 3600)
        one, ten = (hours[f"answer as many, {n} crop{s}: encode"][card] for n, s in (("one", ""), ("ten", "s")))
        assert ten == pytest.approx(CROPS * one)
        assert hours["`fit`, vectors of the gallery"][card] == pytest.approx(GPUS * one)  # one process makes them
    assert hours["`partition`"][""] == pytest.approx(1 / 3600)
    tables = hours["`evaluate --tables`, 33,370 photos"]["RTX A6000"]
    assert tables == pytest.approx(33_370 * (10 * 4e11 + 9e11) / (SHARE_OF_PEAK * PEAKS["RTX A6000"]) / 3600)


def test_everything_but_weights_grows_with_the_photos() -> None:
    few, many = (list(costs(n, SLOPES)) for n in (1_000_000, 10_000_000))
    for one, ten in zip(few, many, strict=True):
        if "evaluate" in one.step:  # of the benchmarks' photos, however many were learned from
            assert (one.hours, one.disk_bytes) == (ten.hours, ten.disk_bytes)
            continue
        assert {card: 10 * hours for card, hours in one.hours.items()} == pytest.approx(dict(ten.hours))
        if "epochs" in one.step:
            assert one.disk_bytes == ten.disk_bytes
        else:
            assert 10 * one.disk_bytes == pytest.approx(ten.disk_bytes)
    assert few[0].memory == "0.3 GB"
    assert next(iter(costs(10**9, SLOPES))).memory == "8.3 GB"


def test_slopes_are_those_of_the_results() -> None:
    slopes = read_slopes()
    assert 1e-7 < slopes.partition_s < 1e-5
    assert slopes.encode_flops < slopes.learn_flops < 2 * slopes.encode_flops  # all but the last block is frozen
    assert slopes.learnt < slopes.weights / 5
    assert by_step(1, replace(slopes, partition_s=3600.0))["`partition`"] == {"": 1.0}


def test_the_page_has_the_sheet() -> None:
    assert sheet() in (ROOT / "docs" / "operations.md").read_text()
    assert all(f"{name}: disk" in sheet() for name in PHOTOS)
