"""The embedding benchmark measures what it says: both sides embed the same photos, and a missed floor is a failure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import embed
from benchmarks.embed import compare_plain, compiled, make_photos, save_clip, share_of_model, smallest_cosine
from benchmarks.harness import Report
from encoder.encode import PhotoEncoder
from encoder.photos.decoded_batch import DecodedBatch
from indexer.vectors.features import FeatureBatch

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "clip", VISION, width=16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos") / "photos", n=4, size=(96, 72), seed=0)


def test_the_plain_loop_gives_the_same_vectors_and_floors_count(clip: Path, photos: Path) -> None:
    report = Report("embed")
    compare_plain(report, photos, clip, what="tiny", floor=None, repeats=2)
    compare_plain(report, photos, clip, what="tiny", floor=1e9, repeats=2)
    free, bound = report.rows
    assert free["cosine"] > embed.MIN_COSINE
    assert free["photos"] == 4 * 2
    assert (free["holds"], bound["holds"], report.missed) == (None, False, 1)


def test_other_vectors_are_never_timed(clip: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "plain_loop", lambda photos, clip: lambda: np.eye(4, 16, dtype=np.float32))
    report = Report("embed")
    with pytest.raises(SystemExit, match="differ"):
        compare_plain(report, photos, clip, what="tiny", floor=None, repeats=1)
    assert not report.rows


@pytest.mark.parametrize(("pipeline_s", "share", "holds"), [((6.0, 3.0, 12.0), 3 / 8, False), ((2.25,) * 3, 1, True)])
def test_the_share_of_the_model_is_measured_over_all_photos(
    clip: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipeline_s: tuple[float, float, float],
    share: float,
    holds: bool,
) -> None:
    """By a clock that gives the model alone 3 s, and the pipeline what is left after its first 4 photos of 16."""
    times = iter([time for each in pipeline_s for time in (3.0, each)])
    embedded, counted = [], PhotoEncoder.__call__

    def seconds_of(work: Callable[[], object]) -> float:
        work()
        return next(times)

    def count(encode: PhotoEncoder, batch: DecodedBatch) -> FeatureBatch:
        embedded.append(len(batch))
        return counted(encode, batch)

    monkeypatch.setattr(embed, "seconds_of", seconds_of)
    monkeypatch.setattr(PhotoEncoder, "__call__", count)
    report = Report("embed")
    share_of_model(report, photos, f"hf:{clip}", name="tiny", n=4, repeats=4)
    (row,) = report.rows
    assert row["photos"] == 16
    assert sum(embedded) == 16 * (1 + 3 + 3)  # once to warm up, and both sides in three turns
    assert (row["share"], row["holds"]) == (pytest.approx(share), holds)
    assert row["share"] == pytest.approx(row["model_s"] / row["pipeline_s"])
    assert next(times, None) is None


def test_other_ways_to_run_the_model_are_compared_with_it(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda model, dynamic: model)  # which takes a compiler and a minute
    report = Report("embed")
    compiled(report, clip, name="tiny", batch=4, n=8)
    assert [row["what"].rpartition(", ")[2] for row in report.rows] == ["as it is", "channels last", "compiled"]
    assert report.rows[0]["ratio"] == 1


def test_what_all_vectors_share_does_not_make_them_alike() -> None:
    rng = np.random.default_rng(0)
    common, own = np.full(8, 100.0), rng.standard_normal((5, 8))
    assert smallest_cosine(common + own, common + own) == pytest.approx(1)
    assert smallest_cosine(common + own, common - own) == pytest.approx(-1)
