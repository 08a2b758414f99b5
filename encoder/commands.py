"""The commands of `python -m encoder`. Each one is arguments -> one library call -> one result; imports wait for it."""

from pathlib import Path
from typing import Literal

from encoder.config import MAX_PIXELS, CropName, DeviceName, PrecisionName
from indexer.cli import Result, Strings
from indexer.uris import SCHEMES

PHOTO_SCHEMES = Strings(SCHEMES)


def embed(
    *,
    photos: str,
    checkpoint: str,
    out: Path,
    split: str | None = None,
    crops: CropName = "one",
    segmentation_cache: Path | None = None,
    segmenter: str | None = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    batch_size: int | Literal["auto"] = "auto",
    workers: int = 2,
    shard_rows: int = 8192,
    max_pixels: int = MAX_PIXELS,
    schemes: Strings = PHOTO_SCHEMES,
    strict: bool = False,
) -> Result:
    """Turn photos into vectors, in a folder of Parquet shards.

    Args:
        photos: table (.parquet, .csv), folder of images, or tar shards; a path or a URI.
        checkpoint: checkpoint folder, or hf:<hub id or folder> for a plain CLIP.
        out: features folder to write.
        split: use only rows whose column `split` is this.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images.
        segmentation_cache: class maps made by `segment`, for an encoder with semantic fusion.
        segmenter: folder or hub id of the model that makes the maps the cache lacks.
        device: where the model runs; cuda where there is none is an error.
        precision: bfloat16 where the processor has it, by default.
        batch_size: crops in one forward pass; auto: as many as help and fit into memory.
        workers: decoding processes; 0: none but this one.
        shard_rows: photos in one Parquet file.
        max_pixels: photos with more pixels are refused.
        schemes: of the URIs that photos may be read from.
        strict: exit with 1 if any photo could not be used.
    """
    from encoder.embed import EmbedConfig, embed_source
    from encoder.encode import PhotoEncoder
    from encoder.reading import ReadLimits
    from indexer.artifact import check_target
    from indexer.photos import open_photos
    from indexer.progress import per_second, track

    check_target(out)
    size = None if batch_size == "auto" else batch_size
    config = EmbedConfig(size, workers, shard_rows, max_pixels, ReadLimits(schemes=schemes))
    source = open_photos(photos, split=split, schemes=schemes)
    encode = PhotoEncoder.open(
        checkpoint,
        crops=crops,
        segmentation_cache=segmentation_cache,
        segmenter=segmenter,
        device=device,
        precision=precision,
    )
    with track("embedding", source.n_photos) as advance:
        summary = embed_source(encode, source, out, config=config, advance=advance)
    rate = summary.rows / summary.seconds
    failures = ", ".join(f"{count} {code}" for code, count in summary.failed.items()) or "none"
    text = (
        f"{out}: {summary.rows:,} photos in {summary.seconds:.1f} s ({per_second(rate)}), "
        f"{summary.ok:,} ok, failed: {failures}"
    )
    data = {
        "features": str(out),
        "encoder": encode.encoder.digest,
        "rows": summary.rows,
        "ok": summary.ok,
        "failed": dict(summary.failed),
        "seconds": summary.seconds,
        "photos_per_second": rate,
    }
    return Result(data, text, failed=summary.ok == 0 or (strict and bool(summary.failed)))


def convert(*, model: str, out: Path, weights: str = "pytorch_model.bin") -> Result:
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
    batch_size: int = 4,
    workers: int = 2,
    map_edge: int = 384,
    shard_maps: int = 1024,
    max_pixels: int = MAX_PIXELS,
    schemes: Strings = PHOTO_SCHEMES,
    strict: bool = False,
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
        max_pixels: photos with more pixels are refused.
        schemes: of the URIs that photos may be read from.
        strict: exit with 1 if any photo could not be used.
    """
    from encoder.device import choose_device
    from encoder.reading import ReadLimits
    from encoder.segment import SegmentConfig, segment_photos
    from encoder.segmentation import load_segmenter
    from encoder.segmentation_cache import check_cache
    from indexer.photos import open_photos
    from indexer.progress import per_second, track

    check_cache(out)
    config = SegmentConfig(batch_size, workers, map_edge, shard_maps, max_pixels, ReadLimits(schemes=schemes))
    source = open_photos(photos, split=split, schemes=schemes)
    segmenter = load_segmenter(model, device=choose_device(device))
    with track("segmenting", source.n_photos) as advance:
        summary = segment_photos(segmenter, source, out, config=config, advance=advance)
    rate = summary.new / summary.seconds
    failures = ", ".join(f"{count} {code}" for code, count in summary.failed.items()) or "none"
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
