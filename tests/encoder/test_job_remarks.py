"""What a progress line says beside the stages."""

import pytest
import torch

from encoder.job_remarks import job_remarks
from indexer.jobs.stages import Line


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
