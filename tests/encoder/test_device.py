"""Where models run, and how precisely: what is asked for is taken, `auto` takes what the machine is good at."""

import pytest
import torch

from encoder.config import PrecisionName
from encoder.device import choose_device, choose_precision, multiplies_bfloat16
from indexer.errors import InputError

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
