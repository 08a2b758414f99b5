"""The commands of `python -m encoder`. Each one is arguments -> one library call -> one result; imports wait for it."""

from dataclasses import asdict
from pathlib import Path

from encoder.config import PICKLED_WEIGHTS, EmbedConfig, SegmentConfig
from indexer.cli import Result
from indexer.errors import InputError


def embed(
    *,
    photos: str | None = None,
    texts: Path | None = None,
    checkpoint: str,
    out: Path,
    prompts: Path | None = None,
    config: EmbedConfig,
    strict: bool = False,
) -> Result:
    """Turn photos into vectors, in a folder of Parquet shards. A job that was cut short goes on where it stopped.

    Args:
        photos: table (.parquet, .csv), folder of images, or tar shards; a path or a URI. Or give --texts.
        texts: table (.parquet, .csv) with a column name, whose rows become vectors by the text tower of a CLIP.
        checkpoint: checkpoint folder, or hf:<hub id or folder> for a published model.
        out: features folder to write.
        prompts: with --texts, text file with a prompt a line, such as: A photo in {country}. Columns of the table stand
            in braces; the table has them coarsest first. A row takes the prompts that say most of it, and of several of
            them the mean; without prompts its name is its text.
        config: how it is done.
        strict: exit with 1 if any photo could not be used; otherwise only if none could.
    """
    if (photos is None) == (texts is None):
        raise InputError("Give one of --photos and --texts.")
    if texts is not None:
        return _embed_texts(texts, checkpoint, out, prompts, config)
    if prompts is not None:
        raise InputError("--prompts goes with --texts.")
    assert photos is not None, "one of the two is given"
    from encoder import embedding
    from indexer.jobs.progress import counts_text, per_second

    summary = embedding.embed(photos, checkpoint, out, config=config)
    rate = (summary.rows - summary.embedded_before) / summary.seconds
    text = (
        f"{out}: {summary.rows:,} photos, {summary.embedded_before:,} of them embedded before, in "
        f"{summary.seconds:.1f} s ({per_second(rate)}), {summary.ok:,} ok, failed: {counts_text(summary.failed)}"
    )
    data = {"features": str(out), **asdict(summary), "photos_per_second": rate}
    return Result(data, text, failed=summary.ok == 0 or (strict and bool(summary.failed)))


def _embed_texts(texts: Path, checkpoint: str, out: Path, prompts: Path | None, config: EmbedConfig) -> Result:
    from encoder.texts import embed_texts

    summary = embed_texts(texts, checkpoint, out, prompts=prompts, config=config)
    text = (
        f"{out}: {summary.rows:,} names, {summary.embedded_before:,} of them embedded before, by {summary.texts:,} "
        f"texts in {summary.seconds:.1f} s"
    )
    return Result({"features": str(out), **asdict(summary)}, text)


def convert(*, model: str, out: Path, weights: str = PICKLED_WEIGHTS) -> Result:
    """Turn a model whose weights exist only as a pickle into one with safetensors.

    Nothing in the pickle but tensors is loaded. Afterwards the folder is what hf:<folder> or --segmenter <folder> name.

    Args:
        model: hub id, or folder with the weights and config.json.
        out: folder to write.
        weights: the pickle's name in there.
    """
    from encoder.models import pickled_weights

    tensors = pickled_weights.convert(model, out, weights=weights)
    return Result({"model": str(out), "tensors": tensors}, f"{out}: {tensors:,} tensors")


def segment(*, photos: str, model: str, out: Path, config: SegmentConfig, strict: bool = False) -> Result:
    """Segment photos into class maps, in a folder that is added to: photos it knows are skipped.

    Args:
        photos: table (.parquet, .csv), folder of images, or tar shards; a path or a URI.
        model: a OneFormer; hub id such as shi-labs/oneformer_ade20k_swin_large, or a folder.
        out: folder of class maps to write or add to.
        config: how it is done.
        strict: exit with 1 if any photo could not be used; otherwise only if none could.
    """
    from encoder import segmenting
    from indexer.jobs.progress import counts_text, per_second

    summary = segmenting.segment(photos, model, out, config=config)
    rate = summary.new / summary.seconds
    text = (
        f"{out}: {summary.rows:,} photos in {summary.seconds:.1f} s, {summary.new:,} segmented ({per_second(rate)}), "
        f"{summary.already_there:,} already there, failed: {counts_text(summary.failed)}"
    )
    data = {"maps": str(out), **asdict(summary), "segmented_per_second": rate}
    done = summary.new or summary.already_there
    return Result(data, text, failed=not done or (strict and bool(summary.failed)))
