"""The commands of `python -m encoder`. Each one is arguments -> one library call -> one result; imports wait for it."""

from pathlib import Path
from typing import Literal

from indexer.cli import Result


def embed(
    *,
    photos: Path,
    checkpoint: str,
    out: Path,
    split: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 32,
    workers: int = 2,
    shard_rows: int = 8192,
    max_pixels: int = 178_000_000,
    strict: bool = False,
) -> Result:
    """Turn photos into vectors, in a folder of Parquet shards.

    Args:
        photos: table of photos (.parquet or .csv) or a folder of images.
        checkpoint: checkpoint folder, or hf:<hub id or folder> for a plain CLIP.
        out: features folder to write.
        split: use only rows whose column `split` is this.
        device: where the model runs; cuda where there is none is an error.
        batch_size: photos in one forward pass.
        workers: decoding threads.
        shard_rows: photos in one Parquet file.
        max_pixels: photos with more pixels are refused.
        strict: exit with 1 if any photo could not be used.
    """
    from encoder.checkpoint import load_encoder
    from encoder.device import choose_device
    from encoder.embed import EmbedConfig, embed_table
    from indexer.artifact import check_target
    from indexer.manifest import file_digest
    from indexer.photos import read_photos
    from indexer.progress import track

    check_target(out)
    config = EmbedConfig(batch_size, workers, shard_rows, max_pixels)
    table = read_photos(photos, split=split)
    encoder = load_encoder(checkpoint, device=choose_device(device))
    inputs = {"photos": None if photos.is_dir() else file_digest(photos), "encoder": encoder.digest}
    with track("embedding", len(table)) as advance:
        summary = embed_table(encoder, table, out, config=config, inputs=inputs, advance=advance)
    rate = summary.rows / summary.seconds
    failures = ", ".join(f"{count} {code}" for code, count in summary.failed.items()) or "none"
    text = (
        f"{out}: {summary.rows:,} photos in {summary.seconds:.1f} s ({rate:,.0f}/s), "
        f"{summary.ok:,} ok, failed: {failures}"
    )
    data = {
        "features": str(out),
        "encoder": encoder.digest,
        "rows": summary.rows,
        "ok": summary.ok,
        "failed": dict(summary.failed),
        "seconds": summary.seconds,
        "photos_per_second": rate,
    }
    return Result(data, text, failed=summary.ok == 0 or (strict and bool(summary.failed)))


def segment(
    *,
    photos: Path,
    model: str,
    out: Path,
    split: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 4,
    workers: int = 2,
    map_edge: int = 384,
    shard_maps: int = 1024,
    max_pixels: int = 178_000_000,
    strict: bool = False,
) -> Result:
    """Segment photos into class maps, in a folder that is added to: photos it knows are skipped.

    Args:
        photos: table of photos (.parquet or .csv) or a folder of images.
        model: a OneFormer; hub id such as shi-labs/oneformer_ade20k_swin_large, or a folder.
        out: folder of class maps to write or add to.
        split: use only rows whose column `split` is this.
        device: where the model runs; cuda where there is none is an error.
        batch_size: photos in one forward pass.
        workers: decoding threads.
        map_edge: shorter edge of a map in pixels; less where the photo is smaller.
        shard_maps: maps in one tar.
        max_pixels: photos with more pixels are refused.
        strict: exit with 1 if any photo could not be used.
    """
    from encoder.device import choose_device
    from encoder.segment import SegmentConfig, segment_table
    from encoder.segmentation import load_segmenter
    from encoder.segmentation_cache import check_cache
    from indexer.photos import read_photos
    from indexer.progress import track

    check_cache(out)
    config = SegmentConfig(batch_size, workers, map_edge, shard_maps, max_pixels)
    table = read_photos(photos, split=split)
    segmenter = load_segmenter(model, device=choose_device(device))
    with track("segmenting", len(table)) as advance:
        summary = segment_table(segmenter, table, out, config=config, advance=advance)
    rate = summary.new / summary.seconds
    failures = ", ".join(f"{count} {code}" for code, count in summary.failed.items()) or "none"
    text = (
        f"{out}: {summary.rows:,} photos in {summary.seconds:.1f} s, {summary.new:,} segmented ({rate:,.1f}/s), "
        f"{summary.known:,} already there, failed: {failures}"
    )
    data = {
        "maps": str(out),
        "segmenter": segmenter.digest,
        "rows": summary.rows,
        "new": summary.new,
        "already_there": summary.known,
        "failed": dict(summary.failed),
        "seconds": summary.seconds,
        "segmented_per_second": rate,
    }
    return Result(data, text, failed=not (summary.new or summary.known) or (strict and bool(summary.failed)))
