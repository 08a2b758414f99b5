import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.world.fusion_record import fusion_table


def row(what: str, medians: Sequence[float], **against: tuple[float, float, float]) -> Mapping[str, object]:
    shares = {"within_200": [50.0, 60.0, 70.0], "within_750": [80.0, 80.0, 83.0]}
    differences = {name: {"median_km": [1, 0, 2], "200": ends} for name, ends in against.items()}
    return {"what": what, "median_km": medians, **shares, "against": differences}


def line(rows: Sequence[Mapping[str, object]], *, photos: int, seeds: Sequence[int] = (0, 1, 2)) -> str:
    settings = {"photos": photos, "epochs": 6, "test_photos": 2_000, "seeds": seeds}
    return json.dumps({"settings": settings, "rows": rows}) + "\n"


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    return tmp_path / "world-fusion.jsonl"


def test_the_newest_whole_comparison_is_shown(record: Path) -> None:
    both = [row("gather", [95, 97, 102], concatenate=(-0.75, -1.5, 0.25)), row("concatenate", [90, 91, 92])]
    old = line(both, photos=1_000)
    whole = line([row("photos alone", [160, 170, 180], concatenate=(-23.8, -25, -21)), *both], photos=10_000)
    one_seed, others = line(both, photos=5, seeds=[0]), line([row("steer", [1, 1, 1])], photos=6)
    record.write_text(old + whole + one_seed + others)
    table = fusion_table("gather")
    assert table is not None
    assert [list(map(str, each.cells)) for each in table.rows] == [
        ["photos alone", "170", "60.0", "81.0", "-23.8 (-25.0 to -21.0)"],
        ["gather", "98", "60.0", "81.0", "-0.8 (-1.5 to +0.2)"],
        ["concatenate", "91", "60.0", "81.0", ""],
    ]
    assert [each.kind for each in table.rows] == ["", "ours", ""]
    assert "10,000 training pictures, 2,000 unseen ones; 6 epochs" in table.notes[0]


def test_without_such_a_comparison_there_is_no_table(record: Path) -> None:
    assert fusion_table("gather") is None
    record.write_text(line([row("gather", [1, 1, 1]), row("concatenate", [1, 1, 1])], photos=5, seeds=[0, 1]))
    assert fusion_table("gather") is None
