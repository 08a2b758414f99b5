"""What a progress line says beside the stages."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from encoder.job_remarks import job_remarks
from indexer.job_folder import Job, Shard, open_job


def test_failures_are_counted_over_shards_and_the_gpu_is_told_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_job(tmp_path / "O", Job("features", 1, {}, {})) as folder:
        assert job_remarks(folder) == ["0 failed"]
        for number, status in enumerate((["ok", "missing"], ["damaged", "damaged"])):
            table = pa.table({"photo": ["a", "b"], "status": status, "reason": ["", "why"]})
            folder.add(Shard(number, 2 * number, table))
        assert job_remarks(folder) == ["3 failed"]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "utilization", lambda: 87)
        assert job_remarks(folder) == ["3 failed", "GPU 87%"]

        def unknown() -> int:
            raise ModuleNotFoundError("pynvml")

        monkeypatch.setattr(torch.cuda, "utilization", unknown)
        assert job_remarks(folder) == ["3 failed"]
