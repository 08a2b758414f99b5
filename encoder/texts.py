"""Texts to vectors: names of places, or whatever a table holds, by the text tower of a CLIP.

In: a table with a column `name`, and prompts that name its columns. Out: a features folder as photos have them, whose
rows are called by their names, with the digest of the same model's encoder of photos.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoder.config import EmbedConfig
from encoder.models.device import choose_device, choose_precision
from encoder.models.text_tower import TextTower, load_text_tower
from encoder.prompts import Prompt, read_prompts, texts_of
from indexer.errors import InputError
from indexer.jobs.job_folder import OK, Job, check_job_target, names_digest, open_job, read_job, totals_of
from indexer.jobs.progress import track
from indexer.jobs.stopping import stopping
from indexer.photos.tables import coordinates_of, open_table, table_digest
from indexer.vectors.features import KIND, SCHEMA_VERSION, FeatureBatch, feature_table

NAME = "name"
_OF_TEXTS = {"device", "precision", "batch_size", "shard_rows", "split"}  # the options that say something of texts
_BATCH = {
    "cpu": 128,
    "cuda": 512,
}  # texts in one forward pass, where nobody says how many; on a CPU 32 take twice as long
_AT_ONCE = 1 << 14  # texts whose length is looked at together


@dataclass(frozen=True, slots=True)
class TextSummary:
    """What embedding texts did."""

    encoder: str  # digest, that of the same model's encoder of photos
    rows: int
    texts: int  # of all rows together, where prompts make several of one
    embedded_before: int  # rows, by a start of the job that was cut short
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Rows that are to become vectors."""

    name: Sequence[str]  # what features call them
    texts: Sequence[Sequence[str]]  # of each row at least one
    lat_deg: np.ndarray  # (N,) float64, NaN where unknown
    lng_deg: np.ndarray  # (N,) float64
    source: str  # as messages may name it
    digest: str  # of the table or folder that they were made from

    def __len__(self) -> int:
        return len(self.name)


def embed_texts(
    texts: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    prompts: Path | str | None = None,
    config: EmbedConfig | None = None,
) -> TextSummary:
    """Turn texts into vectors, in a folder of Parquet shards. A job that was cut short goes on where it stopped.

    Args:
        texts: table (.parquet, .csv) with a column `name`, and the columns that prompts name, coarsest first.
        checkpoint: hf:<hub id or folder> of a CLIP with its text tower.
        out: features folder to write.
        prompts: text file, a prompt a line; by default a row's text is its name.
        config: how it is done; what says something of photos alone must be left out.

    Raises:
        InputError: the table, the prompts or the model cannot be had or do not go together; a text is longer than the
            model reads; and as `embed_rows`.
        ArtifactError: the model's weights are not its own.
        WorkError, Stopped: as `embed_rows`.
    """
    config = config or EmbedConfig()
    _check_config(config)
    check_job_target(Path(out))
    rows = read_texts(Path(texts), None if prompts is None else read_prompts(Path(prompts)), split=config.split)
    return embed_rows(rows, open_text_tower(checkpoint, config), out, config=config)


def open_text_tower(checkpoint: str | Path, config: EmbedConfig) -> TextTower:
    """The text tower of a model, on the device and in the precision of a config; raises as `load_text_tower`."""
    device = choose_device(config.device)
    return load_text_tower(checkpoint, device=device, dtype=choose_precision(config.precision, device))


def read_texts(table: Path, prompts: Sequence[Prompt] | None, *, split: str | None = None) -> Texts:
    """The texts of a table's rows, by prompts or as they are.

    InputError where there is no such table, a column is missing, a row has no name, or no prompt fits it.
    """
    opened = open_table(table)
    named = [] if prompts is None else list(dict.fromkeys(column for each in prompts for column in each.columns))
    columns = list(dict.fromkeys([NAME, *named]))
    found = pa.concat_tables(opened.scan(columns, optional=("lat", "lng"), split=split))
    rows = pa.table({column: found[column].cast(pa.string()) for column in columns})
    names = [(name or "").strip() for name in rows[NAME].to_pylist()]
    if "" in names:
        raise InputError(f"{table}: row {names.index('')} has no name. Fill the column in, or remove the row.")
    lat_deg, lng_deg = coordinates_of(found, table)
    if prompts is None:
        texts = [[name] for name in names]
    else:
        in_file = {column.lower(): place for place, column in enumerate(opened.schema.names)}
        order = sorted(columns, key=lambda column: in_file[column.lower()])
        texts = texts_of(rows, prompts, order=order, source=str(table))
    return Texts(names, texts, lat_deg, lng_deg, str(table), table_digest(table))


def embed_rows(texts: Texts, tower: TextTower, out: str | Path, *, config: EmbedConfig) -> TextSummary:
    """The same for texts that were read, and a model that is open.

    Of several texts of a row the mean of their unit vectors is taken, scaled to length 1.

    Raises:
        InputError: a text is longer than the model reads; `out` holds other things or features of other options or
            inputs, or cannot be written.
        WorkError: the disk is full, or memory ran out.
        Stopped: the process was asked to end.
    """
    began, out = time.perf_counter(), Path(out)
    check_job_target(out)
    _check_lengths(texts, tower)
    before = read_job(out)
    begun = None if before is None else before.options.get("batch_size")
    batch_size = config.batch_size
    if batch_size == "auto":
        batch_size = begun or _BATCH[tower.model.device.type]
    options = {
        "batch_size": batch_size,
        "shard_rows": config.shard_rows,
        "precision": tower.precision,
        "device": tower.model.device.type,
        "split": config.split,
        "texts": True,
    }
    inputs = {
        "table": texts.digest,
        "texts": names_digest([text for each in texts.texts for text in each]),
        "encoder": tower.digest,
        "tokenizer": tower.tokenizer_digest,
    }
    with open_job(out, Job(KIND, SCHEMA_VERSION, options, inputs)) as folder, stopping() as stop:
        known = totals_of(folder.done.values()).rows
        with track("embedding texts", len(texts) - known) as advance:
            for number, start in enumerate(range(0, len(texts), config.shard_rows)):
                if number in folder.done:
                    continue
                part = slice(start, start + config.shard_rows)
                folder.add(number, feature_table(_batch(texts, part, tower, batch_size)), first_row=start)
                advance(len(texts.name[part]))
                stop.check(out)
        folder.finish({"encoder": tower.digest, "width": tower.width}, rows=len(texts))
    return TextSummary(tower.digest, len(texts), sum(map(len, texts.texts)), known, time.perf_counter() - began)


def _batch(texts: Texts, part: slice, tower: TextTower, batch_size: int) -> FeatureBatch:
    """Some of the rows with their vectors."""
    own, names = texts.texts[part], texts.name[part]
    row = np.repeat(np.arange(len(own)), [len(each) for each in own])
    sums = np.zeros((len(own), tower.width))
    np.add.at(sums, row, tower.vectors([text for each in own for text in each], batch_size=batch_size))
    vectors = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    status, reason = [OK] * len(names), [""] * len(names)
    return FeatureBatch(names, vectors, status, reason, texts.lat_deg[part], texts.lng_deg[part])


def _check_lengths(texts: Texts, tower: TextTower) -> None:
    """Raise InputError for the first text that is longer than the model reads: what was cut off would not count."""
    flat = [(row, text) for row, each in enumerate(texts.texts) for text in each]
    for start in range(0, len(flat), _AT_ONCE):
        block = flat[start : start + _AT_ONCE]
        for (row, text), tokens in zip(block, tower.tokens([text for _, text in block]), strict=True):
            if len(tokens) > tower.context:
                shown = text if len(text) <= 200 else f"{text[:200]}..."
                raise InputError(
                    f"{texts.source}: the text of row {row} has {len(tokens)} tokens; {tower.name} reads "
                    f"{tower.context}. Shorten it: {shown!r}"
                )


def _check_config(config: EmbedConfig) -> None:
    usual = EmbedConfig()
    given = [name for name, value in vars(config).items() if name not in _OF_TEXTS and value != getattr(usual, name)]
    if given:
        raise InputError(f"{', '.join(f'`{name}`' for name in given)}: goes with `photos`, not with `texts`.")
