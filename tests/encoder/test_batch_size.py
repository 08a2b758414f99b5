from pathlib import Path

import pytest
import torch

from encoder import batch_size
from encoder.batch_size import fitting_batch_size
from encoder.model import GeoEncoder, GeoEncoderConfig
from tests.encoder.conftest import tiny_encoder


def paper_encoder() -> GeoEncoder:
    with torch.device("meta"):
        return GeoEncoder(GeoEncoderConfig())  # 1.2 GB if it had weights


def with_memory(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(batch_size, "_free_bytes", lambda device: int(free))


def test_a_small_model_gets_all_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 8e9)
    assert fitting_batch_size(tiny_encoder()) == 8


def test_less_memory_gives_smaller_batches_and_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = paper_encoder()
    sizes = []
    for free in (16e9, 1e9, 4e8, 1e8, 0):
        with_memory(monkeypatch, free)
        sizes.append(fitting_batch_size(model))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 8
    assert sizes[-1] == 1
    assert len(set(sizes)) >= 3


def test_files_in_memory_count_as_free_and_a_container_has_its_limit(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 70 kB\n")
    assert batch_size._available(tmp_path / "meminfo") == 70 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert batch_size._left_to_container(tmp_path) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert batch_size._left_to_container(tmp_path) > 1 << 60
    assert batch_size._available(tmp_path / "absent") > 1 << 20
