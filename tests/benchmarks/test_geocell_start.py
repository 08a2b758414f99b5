"""The benchmark of how geocells begin: long vectors hardly turn, and a rate as much larger makes up for that."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import geocell_start, harness
from benchmarks.geocell_start import MP16_STEPS, RATE, Lesson, Outcome, compare, learn, starts

FEW = Lesson(cells=30, batch=15, width=256, noise=1.0, steps=400)


def test_a_vector_turns_by_its_length_and_the_rate() -> None:
    short, long, faster = (learn(start, FEW, seed=0) for start in starts(FEW.width))
    assert long.turned_deg < short.turned_deg / 10
    assert short.right > long.right + 20
    # But for rounding, and the small number that Adam divides by at least.
    assert faster.turned_deg == pytest.approx(short.turned_deg, rel=0.02)
    assert faster.right == pytest.approx(short.right, abs=3.4)


def test_steps_add_up_to_those_of_the_recipe() -> None:
    """Halved after each epoch, the rates of all epochs add up to those of two."""
    halving = sum(MP16_STEPS * RATE / 2**epoch for epoch in range(40))
    assert Lesson().steps * RATE == pytest.approx(halving)
    assert Lesson().batch / Lesson().cells == pytest.approx(1024 / 21_673, rel=0.01)


def test_a_start_that_learns_no_more_is_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    for right, code in ((80.0, 0), (20.0, 1)):
        outcome = Outcome(50.0, 40.0, 0.05)
        monkeypatch.setattr(
            geocell_start,
            "learn",
            lambda start, lesson, *, seed, right=right, outcome=outcome: (
                replace(outcome, right=right) if start.length == 1 else outcome
            ),
        )
        assert compare(FEW) == code
    assert "MISSED" in capsys.readouterr().out
    lines = (harness.RESULTS / "geocell-start.jsonl").read_text().splitlines()
    assert [row["right"] for row in json.loads(lines[0])["rows"]] == [80.0, 40.0, 40.0]
