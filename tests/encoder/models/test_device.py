"""Where models run, how precisely, with how many crops at once: what is given is taken, `auto` suits the machine."""

from pathlib import Path

import pytest
import torch

from encoder.config import PrecisionName
from encoder.models import device as devices
from encoder.models.device import choose_device, choose_precision, fitting_batch_size, job_remarks, multiplies_bfloat16
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from indexer.errors import InputError
from indexer.jobs.stages import Line
from tests.encoder.conftest import tiny_encoder

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def processor(monkeypatch: pytest.MonkeyPatch, **features: object) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)


def gpu(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_takes_bfloat16_where_the_processor_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    processor(monkeypatch, architecture="any", avx2=True, **{feature: True})
    assert multiplies_bfloat16(CPU)
    assert choose_precision("auto", CPU) == torch.bfloat16
    processor(monkeypatch, architecture="any", avx2=True, **{feature: False})
    assert choose_precision("auto", CPU) == torch.float32


def test_auto_takes_float32_where_a_processor_would_emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, architecture="x86_64", avx2=True, avx512_f=True)
    assert not multiplies_bfloat16(CPU)
    assert choose_precision("auto", CPU) == torch.float32


def test_auto_takes_bfloat16_on_a_gpu_whatever_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch)
    assert choose_precision("auto", CUDA) == torch.bfloat16


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_precision_that_is_asked_for_is_taken_everywhere(
    monkeypatch: pytest.MonkeyPatch, name: PrecisionName, dtype: torch.dtype
) -> None:
    for features in ({}, {"amx_bf16": True}):
        processor(monkeypatch, **features)
        assert [choose_precision(name, device) for device in (CPU, CUDA)] == [dtype, dtype]


@pytest.mark.parametrize(("there", "expected"), [(True, CUDA), (False, CPU)])
def test_auto_takes_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, expected: torch.device
) -> None:
    gpu(monkeypatch, there=there)
    assert choose_device("auto") == expected
    assert choose_device("cpu") == CPU


def test_a_gpu_that_is_asked_for_is_taken_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, there=True)
    assert choose_device("cuda") == CUDA
    gpu(monkeypatch, there=False)
    with pytest.raises(InputError, match=r"`device` cuda: torch sees no CUDA device here\. Use `device` cpu"):
        choose_device("cuda")


def paper_encoder() -> GeoEncoder:
    with torch.device("meta"):
        return GeoEncoder(GeoEncoderConfig())  # 1.2 GB if it had weights


def with_memory(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: int(free))


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
    assert devices._available(tmp_path / "meminfo") == 70 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert devices._left_to_container(tmp_path) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert devices._left_to_container(tmp_path) > 1 << 60
    assert devices._available(tmp_path / "absent") > 1 << 20


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
