"""The report of a run: its figures add up, and names in it are text, whatever they contain."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import WorkError
from indexer.jobs.job_folder import Job, Mark
from indexer.jobs.stages import Meter
from search.runs.run_report import RunReport, report_page, run_report, write_run_report
from tests.search.pages.test_evaluation_page import HOSTILE, Tags

BEGAN_AT = 1_700_000_000.0
JOB = Job("predictions", 1, {"shard_rows": 10, "top_k": 1, "part": "1/1"}, {"photos": None, "bundle": "b" * 64})
STAGES = [Meter("decode", 40, 3.0, room=2), Meter("encode", 40, 9.0, room=2), Meter("write", 40, 1.0)]


def mark(number: int, ended_s: float, *, rows: int = 10, failed: int = 0, name: str = "a.jpg") -> Mark:
    examples = {"missing": [name, f"why {name}"]} if failed else {}
    codes = {"missing": failed} if failed else {}
    return Mark(number, number * 10, rows, rows - failed, codes, examples, "", "", 0, BEGAN_AT + ended_s)


def report(marks: list[Mark], *, seconds: float = 10.0, known: int = 0, stages: list[Meter] = STAGES) -> RunReport:
    return run_report(JOB, marks, began_at=BEGAN_AT, seconds=seconds, known=known, stages=stages, search={})


def test_figures_add_up() -> None:
    marks = [
        mark(1, 5.0, failed=2, name="second.jpg"),
        mark(0, -900.0, failed=1, name="first.jpg"),
        mark(2, 8.0, rows=5),
    ]
    found = report(marks, known=10).to_dict()
    assert (found["rows"], found["ok"], found["failed"]) == (25, 22, {"missing": 3})
    assert found["rows"] == found["ok"] + sum(found["failed"].values())
    assert found["examples"] == {"missing": ["first.jpg", "why first.jpg"]}
    assert (found["rows_known"], found["seconds"], found["rows_per_second"]) == (10, 10.0, 1.5)
    assert found["slowest_stage"] == "encode"
    assert [stage["busy_share"] for stage in found["stages"]] == [0.3, 0.9, 0.1]
    assert found["stages"][1]["rows_per_second_at_work"] == pytest.approx(40 / 9)
    assert found["options"] == JOB.options
    assert found["inputs"] == JOB.inputs
    assert found == json.loads(json.dumps(found, allow_nan=False))


def test_a_start_that_found_everything_done() -> None:
    idle = [Meter("read", room=2), Meter("write")]
    ended = report([mark(0, -5.0), mark(1, -3.0)], known=20, stages=idle, seconds=0.0)
    found = ended.to_dict()
    assert (found["rows"], found["rows_known"], found["rows_per_second"]) == (20, 20, 0.0)
    assert found["slowest_stage"] is None
    assert found["rates"] == {"minutes": [], "rows_per_second": []}
    page = report_page(ended)
    assert "A run over 20 photos" in page
    assert "20 of them before its latest start" in page
    assert "<img" not in page


@given(st.lists(st.tuples(st.floats(0.0, 1e5), st.integers(1, 10_000)), min_size=1, max_size=100))
def test_rates_integrate_to_the_rows_of_this_start(done: list[tuple[float, int]]) -> None:
    marks = [mark(number, ended_s, rows=rows) for number, (ended_s, rows) in enumerate(done)]
    earlier = mark(len(done), -1.0, rows=77)
    rates = report([earlier, *marks], known=77).rates
    minutes, per_second = np.array(rates.minutes), np.array(rates.rows_per_second)
    assert len(minutes) == len(per_second) + 1
    assert len(per_second) <= 60
    assert (per_second >= 0).all()
    assert (np.diff(minutes) > 0).all()
    assert (per_second * np.diff(minutes) * 60).sum() == pytest.approx(sum(rows for _, rows in done))
    assert minutes[-1] * 60 == pytest.approx(max(ended_s for ended_s, _ in done), abs=1e-2)


def test_a_steady_run_has_a_steady_rate() -> None:
    rates = report([mark(number, 2.0 * (number + 1)) for number in range(100)], seconds=200.0).rates
    np.testing.assert_allclose(rates.rows_per_second, 5.0, rtol=1e-4)
    assert rates.minutes[-1] == pytest.approx(200 / 60)


def test_names_are_text_and_the_page_needs_nothing_else() -> None:
    job = Job("predictions", 1, {HOSTILE: HOSTILE}, {"photos": HOSTILE})
    marks = [mark(0, 1.0, failed=2, name=HOSTILE), mark(1, 2.0)]
    stages = [Meter(HOSTILE, 20, 1.0, room=2)]
    found = run_report(job, marks, began_at=BEGAN_AT, seconds=3.0, known=0, stages=stages, search={})
    page = report_page(found)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert page.count("&lt;script&gt;") == 6  # name, reason, stage, option and its value, input
    assert "http://" not in page
    assert "https://" not in page
    assert 'src="data:image/png;base64,' in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (119, "119.0 s"), (120, "2.0 minutes"), (7200, "2.0 hours"), (3.6e6, "1,000.0 hours")],
)
def test_times_are_told_as_people_read_them(seconds: float, text: str) -> None:
    assert f"took\n{text} (" in report_page(report([mark(0, 1.0)], seconds=seconds))


def test_options_are_told_as_people_read_them() -> None:
    job = Job(
        "predictions", 1, {"limits": {"schemes": ("s3", "gs"), "max_bytes": 5000}, "strict": True}, {"maps": None}
    )
    found = run_report(job, [mark(0, 1.0)], began_at=BEGAN_AT, seconds=2.0, known=0, stages=[], search={})
    page = report_page(found)
    for name, text in (("limits", "schemes: s3, gs; max_bytes: 5,000"), ("strict", "True"), ("maps", "none")):
        assert f'<th scope="row">{name}</th><td>{text}</td>' in page


def test_both_files_are_written_in_place_of_earlier_ones(tmp_path: Path) -> None:
    for rows in (10, 9):
        found = report([mark(0, 1.0, rows=rows)])
        write_run_report(tmp_path, found)
        assert json.loads((tmp_path / "_report.json").read_text()) == found.to_dict()
        assert (tmp_path / "_report.html").read_text() == report_page(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_report.html", "_report.json"]


def test_a_full_disk_says_that_rows_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WorkError, match=r"no space left\. Every row is kept, only the report is missing"):
        write_run_report(tmp_path, report([mark(0, 1.0)]))
