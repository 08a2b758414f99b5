"""The commands of `python -m search`. Each one is arguments -> one library call -> one result; imports wait for it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from indexer import paper
from indexer.cli import Floats, Result
from indexer.errors import InputError

THRESHOLDS_KM = Floats(paper.THRESHOLDS_KM)


def query(
    *,
    photos: list[str],
    registry: Path,
    checkpoint: str,
    top_k: int = 1,
    version: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Result:
    """Say where photos were taken.

    Args:
        photos: image files.
        registry: registry folder with a published bundle.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        top_k: how many places to name for each photo.
        version: a bundle's digest or its beginning; the current one by default.
        device: where the encoder runs.
    """
    from encoder.checkpoint import load_encoder
    from encoder.device import choose_device
    from encoder.embed import EmbedConfig, embed_photos
    from indexer.features import OK
    from indexer.photos import listed_photos
    from search.answers import answer_table, explain
    from search.engine import Engine

    engine = Engine.open(registry, version=version)
    engine.check_k(top_k)
    encoder = load_encoder(checkpoint, device=choose_device(device))
    engine.check_encoder(encoder.digest, source=checkpoint)
    (batch,) = embed_photos(encoder, listed_photos(photos), config=EmbedConfig(shard_rows=len(photos)))
    if not batch.ok.any():
        reasons = "; ".join(f"{photo}: {reason}" for photo, reason in zip(batch.photo, batch.reason, strict=True))
        raise InputError(f"No photo to answer. {reasons}. Give paths of image files.")
    rows = explain(engine, batch, answer_table(engine, batch, first_row=0, k=top_k))
    data = {"bundle": engine.bundle.version, "encoder": encoder.digest, "answers": rows}
    failed = any(row["status"] != OK for row in rows)
    return Result(data, "\n\n".join(_answer_text(row) for row in rows), failed=failed)


def run(
    *,
    registry: Path,
    out: Path,
    features: Path | None = None,
    photos: Path | None = None,
    checkpoint: str | None = None,
    split: str | None = None,
    top_k: int = 1,
    version: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 32,
    workers: int = 2,
    shard_rows: int = 8192,
    max_pixels: int = 178_000_000,
    strict: bool = False,
) -> Result:
    """Answer many photos at once, from their vectors or from the photos themselves, into a folder of Parquet rows.

    Args:
        registry: registry folder with a published bundle.
        out: predictions folder to write.
        features: photo vectors: a features folder, a .parquet, or a .npy beside a .csv.
        photos: table of photos or folder of images, with --checkpoint.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        split: use only rows of --photos whose column `split` is this.
        top_k: how many places to keep for each photo.
        version: a bundle's digest or its beginning; the current one by default.
        device: where the encoder runs, and the search; cuda where there is none is an error.
        batch_size: photos in one forward pass.
        workers: decoding threads.
        shard_rows: photos in one Parquet file, when photos are given.
        max_pixels: photos with more pixels are refused.
        strict: exit with 1 if any photo has no answer; otherwise only if none has.
    """
    from indexer.artifact import check_target
    from indexer.progress import track
    from search import job
    from search.engine import Engine

    if (features is None) == (photos is None) or (photos is None) != (checkpoint is None):
        raise InputError("Give either --features F, or --photos P together with --checkpoint C.")
    if features is not None and split is not None:
        raise InputError("--split goes with --photos: features have no splits. Embed that split alone.")
    check_target(out)
    engine = Engine.open(registry, version=version, device=device)
    engine.check_k(top_k)
    if features is not None:
        source = job.vectors_from_features(engine, features)
    else:
        assert photos is not None
        assert checkpoint is not None
        from encoder.embed import EmbedConfig

        config = EmbedConfig(batch_size, workers, shard_rows, max_pixels)
        source = job.vectors_from_photos(engine, photos, checkpoint, split=split, device=device, config=config)
    with track("answering", source.rows) as advance:
        summary = job.run(engine, source, out, k=top_k, advance=advance)
    failures = ", ".join(f"{count} {code}" for code, count in summary.failed.items()) or "none"
    text = (
        f"{out}: {summary.rows:,} photos in {summary.seconds:.1f} s, of which searching and writing "
        f"{summary.search_seconds:.1f} s ({summary.rows / max(summary.search_seconds, 1e-9):,.0f}/s); "
        f"{summary.ok:,} answered, failed: {failures}"
    )
    data = {"predictions": str(out), "bundle": engine.bundle.version, **asdict(summary)}
    return Result(data, text, failed=summary.ok == 0 or (strict and bool(summary.failed)))


def evaluate(
    *, predictions: Path, truth: Path, split: str | None = None, thresholds_km: Floats = THRESHOLDS_KM
) -> Result:
    """Compare answers with where photos were taken.

    Args:
        predictions: predictions folder, or anybody's .parquet or .csv with photo, lat, lng.
        truth: table of photos with lat and lng; every row counts, and no answer is a miss.
        split: use only rows of the truth whose column `split` is this.
        thresholds_km: distances at which to count answers as right.
    """
    from search.evaluate import evaluate as evaluate_predictions

    result = evaluate_predictions(predictions, truth, split=split, thresholds_km=thresholds_km)
    answered = None if result.answered is None else asdict(result.answered)
    data = {**asdict(result.accuracy), "answered": answered}
    lines = [_accuracy_text("all photos", asdict(result.accuracy))]
    if answered is not None and answered["n"] < result.accuracy.n:
        lines.append(_accuracy_text("answered", answered))
    return Result(data, "\n".join(lines))


def _answer_text(row: Mapping[str, Any]) -> str:
    if not row["path"]:
        return f"{row['photo']}\n  {row['status']}: {row['reason']}"
    kind = "calibrated" if row["calibrated"] else "not calibrated"
    lines = [
        row["photo"],
        f"  {row['lat']:.5f}, {row['lng']:.5f}  near {row['city']}, {row['country']}",
        f"  probability {row['probability']:.3f} ({kind}), cell {row['key']}, {row['mode']} search",
    ]
    lines += [
        f"    level {step['level']}: {step['probability']:.3f}  cell {step['key']:<10} "
        f"within {step['radius_km']:,.0f} km of a point near {step['city']}, {step['country']}"
        for step in row["path"]
    ]
    lines += [
        f"    {rank}. {place['lat']:.4f}, {place['lng']:.4f}  cell {place['key']}, "
        f"probability {place['probability']:.3f}"
        for rank, place in enumerate(row["top"], 1)
    ]
    return "\n".join(lines)


def _accuracy_text(what: str, figures: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{limit} km {share:.1f} %" for limit, share in figures["within"].items())
    return (
        f"{what}: {figures['n']:,} photos, median {figures['median_km']:.1f} km, mean {figures['mean_km']:.1f} km; "
        f"within {shares}"
    )
