"""The commands of `python -m encoder`. Each one is arguments -> one library call -> one result; imports wait for it."""

from pathlib import Path

from encoder.config import (
    DECODERS,
    MAP_EDGE,
    PICKLED_WEIGHTS,
    SEGMENT_BATCH,
    SHARD_MAPS,
    SHARD_ROWS,
    CropName,
    DeviceName,
)
from encoder.options import EncoderOptions, FeedOptions, ReadOptions
from indexer.cli import Result


def embed(
    *,
    photos: str,
    checkpoint: str,
    out: Path,
    split: str | None = None,
    crops: CropName = "one",
    shard_rows: int = SHARD_ROWS,
    strict: bool = False,
    encoder: EncoderOptions,
    feed: FeedOptions,
) -> Result:
    """Turn photos into vectors, in a folder of Parquet shards. A job that was cut short goes on where it stopped.

    Args:
        photos: table (.parquet, .csv), folder of images, or tar shards; a path or a URI.
        checkpoint: checkpoint folder, or hf:<hub id or folder> for a plain CLIP.
        out: features folder to write.
        split: use only rows whose column `split` is this.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images.
        shard_rows: photos in one Parquet file.
        strict: exit with 1 if any photo could not be used; otherwise only if none could.
        encoder: which maps it sees, and where it runs.
        feed: how photos reach it.
    """
    from encoder.embedding import embed_source
    from indexer.jobs.job_folder import check_job_target
    from indexer.jobs.progress import counts_text, per_second
    from indexer.photos.sources import open_photos

    check_job_target(out)
    config = feed.embedding(shard_rows=shard_rows)
    source = open_photos(photos, split=split, schemes=feed.schemes)
    encode = encoder.open(checkpoint, crops=crops)
    summary = embed_source(encode, source, out, config=config)
    rate = (summary.rows - summary.known) / summary.seconds
    failures = counts_text(summary.failed)
    text = (
        f"{out}: {summary.rows:,} photos, {summary.known:,} of them embedded before, in {summary.seconds:.1f} s "
        f"({per_second(rate)}), {summary.ok:,} ok, failed: {failures}"
    )
    data = {
        "features": str(out),
        "encoder": encode.encoder.digest,
        "rows": summary.rows,
        "ok": summary.ok,
        "failed": dict(summary.failed),
        "embedded_before": summary.known,
        "seconds": summary.seconds,
        "photos_per_second": rate,
    }
    return Result(data, text, failed=summary.ok == 0 or (strict and bool(summary.failed)))


def convert(*, model: str, out: Path, weights: str = PICKLED_WEIGHTS) -> Result:
    """Turn a model whose weights exist only as a pickle into one with safetensors.

    Nothing in the pickle but tensors is loaded. Afterwards the folder is what hf:<folder> or --segmenter <folder> name.

    Args:
        model: hub id, or folder with the weights and config.json.
        out: folder to write.
        weights: the pickle's name in there.
    """
    from encoder.convert import convert as convert_weights

    tensors = convert_weights(model, out, weights=weights)
    return Result({"model": str(out), "tensors": tensors}, f"{out}: {tensors:,} tensors")


def segment(
    *,
    photos: str,
    model: str,
    out: Path,
    split: str | None = None,
    device: DeviceName = "auto",
    batch_size: int = SEGMENT_BATCH,
    workers: int = DECODERS,
    map_edge: int = MAP_EDGE,
    shard_maps: int = SHARD_MAPS,
    strict: bool = False,
    read: ReadOptions,
) -> Result:
    """Segment photos into class maps, in a folder that is added to: photos it knows are skipped.

    Args:
        photos: table (.parquet, .csv), folder of images, or tar shards; a path or a URI.
        model: a OneFormer; hub id such as shi-labs/oneformer_ade20k_swin_large, or a folder.
        out: folder of class maps to write or add to.
        split: use only rows whose column `split` is this.
        device: where the model runs; cuda where there is none is an error.
        batch_size: photos in one forward pass.
        workers: decoding threads.
        map_edge: shorter edge of a map in pixels; less where the photo is smaller.
        shard_maps: maps in one tar.
        strict: exit with 1 if any photo could not be used; otherwise only if none could.
        read: which photos are read.
    """
    from encoder.device import choose_device
    from encoder.segment import SegmentConfig, segment_photos
    from encoder.segmentation import load_segmenter
    from encoder.segmentation_cache import check_cache
    from indexer.jobs.progress import counts_text, per_second, track
    from indexer.photos.sources import open_photos

    check_cache(out)
    config = SegmentConfig(
        batch_size=batch_size,
        workers=workers,
        map_edge=map_edge,
        shard_maps=shard_maps,
        max_pixels=read.max_pixels,
        limits=read.limits,
    )
    source = open_photos(photos, split=split, schemes=read.schemes)
    segmenter = load_segmenter(model, device=choose_device(device))
    with track("segmenting", source.n_photos) as advance:
        summary = segment_photos(segmenter, source, out, config=config, advance=advance)
    rate = summary.new / summary.seconds
    failures = counts_text(summary.failed)
    text = (
        f"{out}: {summary.rows:,} photos in {summary.seconds:.1f} s, {summary.new:,} segmented ({per_second(rate)}), "
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
