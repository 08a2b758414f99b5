"""The GPU benchmark runs through; here on a CPU, with models of a few thousand weights."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Sizes, gallery_answers, measure
from benchmarks.harness import Report

TINY = Sizes(
    vision={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    swin={"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4},
    oneformer={
        "num_queries": 10,
        "conv_dim": 32,
        "mask_dim": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 64,
        "dim_feedforward": 64,
        "num_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "query_dec_layers": 1,
    },
    edges=(64,),
    batch=10,
    places=1000,
    width=16,
    queries=10,
    photos=3000,
    matrix=64,
)


def test_every_row_has_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_RUNS", 1)
    report = Report("gpu")
    measure(report, tmp_path, TINY, device=torch.device("cpu"))
    rows = {row["what"]: row for row in report.rows}
    assert rows["bfloat16 peak, as measured"]["flops"] > 0
    for fused in ("with", "without"):
        one, ten = (rows[f"CLIP {fused} fusion, {crops} crop(s), bfloat16"] for crops in ("one", "ten"))
        assert one["photos_per_second"] > 0
        assert ten["flops_per_photo"] == pytest.approx(10 * one["flops_per_photo"])
        assert (one["batch"], ten["batch"]) == (10, 1)
        assert rows[f"the CPU's vectors and the GPU's in float32, {fused} fusion"]["cosine"] > 0.9999
        assert rows[f"the CPU's vectors and the GPU's in bfloat16, {fused} fusion"]["holds"]
    assert rows["OneFormer at 64 pixels"]["maps_per_second"] > 0
    answered = rows["whole answers by 3,000 photos, leaves on cpu"]
    assert answered["queries_per_second"] > 0
    assert answered["same_photos"] == 1
    assert sum(name.startswith("exact search, 10 queries in") for name in rows) == 2  # leaves, and whole rows


def test_other_photos_are_never_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "MIN_SAME_PHOTOS", 1.1)
    with pytest.raises(SystemExit, match=r"Only 100\.0% of queries have the same photos on cpu; nothing was timed"):
        gallery_answers(Report("gpu"), tmp_path, TINY, device=torch.device("cpu"))
