"""Failures are counted by reason, and each kind is shown once."""

import logging

import pytest
import torch

from encoder.failures import Failures, job_remarks
from indexer.jobs.stages import Line


def test_all_are_counted_and_the_first_of_each_kind_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures()
    with caplog.at_level(logging.WARNING):
        for name, code in (("a.jpg", "missing"), ("b.jpg", "missing"), ("row 7", "empty"), ("c.jpg", "missing")):
            failures.add(name, code, f"why {name} failed")
    assert failures == {"missing": 3, "empty": 1}
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "a.jpg: missing, why a.jpg failed",
        "row 7: empty, why row 7 failed",
    ]


def test_failures_of_all_starts_are_counted_and_the_gpu_is_told_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    assert job_remarks(line, 0) == ["0 failed"]
    line.failed += 3
    assert job_remarks(line, 1200) == ["1,203 failed"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 87)
    assert job_remarks(line, 0) == ["3 failed", "GPU 87%"]

    def unknown() -> int:
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", unknown)
    assert job_remarks(line, 0) == ["3 failed"]
