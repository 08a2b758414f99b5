"""What a run is made from, as names: small, so that other processes and machines can open the same. Imports wait."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from encoder.config import SHARD_ROWS, CropName, EncoderOptions, FeedOptions, check_bounds
from indexer.choices import check_choices
from indexer.errors import InputError
from search.answers.options import SearchOptions

if TYPE_CHECKING:
    from search.answers.album import Albums
    from search.answers.engine import Engine
    from search.answers.owners import QueryOwners
    from search.runs.photo_vectors import VectorSource

log = logging.getLogger(__name__)

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What decides the answers of a run: a bundle, how it is searched, and vectors or photos.

    Args:
        registry: registry folder with a published bundle.
        features: photo vectors: a features folder, a .parquet, or a .npy beside a .csv.
        photos: table (.parquet, .csv), folder of images, or tar shards, with `checkpoint`; a path or a URI.
        checkpoint: the checkpoint the bundle was built from, or hf:<hub id or folder>.
        split: use only rows of `photos` whose column `split` is this.
        version: a bundle's digest or its beginning; the current one by default.
        crops: of each photo, averaged: the middle; that and four corners; those and their mirror images. With
            `features` of which nobody recorded it, five or ten say that they are such means; all others are scaled to
            length 1.
        album: column that says which photos belong together, such as those of one event: they get one answer. All
            vectors are read before the first answer.
        album_table: table with photo and that column, of the photos of `features` in their order; by default the
            features have the column themselves.
        owner_column: column that says whose each photo is, to evaluate: gallery photos of the same owner are not looked
            at. A row without an owner is nobody's, and looks at all.
        owner_table: table with photo and that column, where photos are found by name; by default the table of
            `photos`, or the features have the column themselves.
        shard_rows: rows in one Parquet file; what a kill can cost.
        search: how places are searched for.
        encoder: which maps it sees, and where it runs.
        feed: how photos reach it.

    Raises:
        InputError: the parts do not go together.
    """

    registry: str | Path
    features: str | Path | None = None
    photos: str | None = None
    checkpoint: str | None = None
    split: str | None = None
    version: str | None = None
    crops: CropName = "one"
    album: str | None = None
    album_table: str | None = None
    owner_column: str | None = None
    owner_table: str | None = None
    shard_rows: int = SHARD_ROWS
    search: SearchOptions = field(default_factory=SearchOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    feed: FeedOptions = field(default_factory=FeedOptions)

    def __post_init__(self) -> None:
        check_choices(self)
        check_bounds(self, "shard_rows", low=1)
        if (self.features is None) == (self.photos is None) or (self.photos is None) != (self.checkpoint is None):
            raise InputError("Give either `features`, or `photos` together with `checkpoint`.")
        if self.features is not None and self.split is not None:
            raise InputError("`split` goes with `photos`: features have no splits. Embed that split alone.")
        if self.features is not None and self.encoder.says_how_maps_come:
            raise InputError("`segmentation_cache` and `segmenter` go with `photos`: features are vectors already.")
        if self.album is None and self.album_table is not None:
            raise InputError("`album_table` goes with `album`, which names its column.")
        if self.owner_column is None and self.owner_table is not None:
            raise InputError("`owner_table` goes with `owner_column`, which names its column.")
        if self.album is not None and self.features is None:
            raise InputError(
                "`album` goes with `features`, since all vectors are read before the first answer. Make them first: "
                "python -m encoder embed ..."
            )

    def open(self, out: Path) -> "tuple[Engine, VectorSource]":
        """Open both, for the job at `out`, which keeps the bundle and the batch size it began with."""
        from indexer.bundles.registry import Registry
        from indexer.jobs.job_folder import read_job
        from indexer.vectors.calibration import protocol_of
        from indexer.vectors.features import open_features
        from search.answers.engine import Engine
        from search.runs.vectors import StoredVectors

        features = None
        if self.features is not None:
            features = open_features(self.features, crops=None if self.crops == "one" else self.crops)
        job = read_job(out)
        begun = None if job is None else job.inputs.get("bundle")
        current = Registry(self.registry).current
        if self.version is None and begun is not None and current is not None and current != begun:
            old, new = begun[:8], current[:8]
            log.warning("%s: goes on with the bundle it began with, %s; the current one is %s", out, old, new)
        engine = Engine.open(
            self.registry,
            version=self.version or begun,
            device=self.encoder.device,
            options=self.search,
            protocol="album" if self.album else self.crops if features is None else protocol_of(features),
        )
        if features is not None:
            return engine, StoredVectors(engine, features, shard_rows=self.shard_rows)
        assert self.photos is not None
        assert self.checkpoint is not None
        # torch is only imported where it is needed: that takes seconds
        from encoder.encode import open_encoder
        from indexer.photos.sources import open_photos
        from search.runs.photo_vectors import PhotoVectors

        photos = open_photos(self.photos, split=self.split, schemes=self.feed.schemes)
        encode = open_encoder(self.checkpoint, self.encoder, crops=self.crops)
        return engine, PhotoVectors(engine, photos, encode, feed=self.feed, shard_rows=self.shard_rows, job=job)

    def read_albums(self) -> "Albums | None":
        """Which photos are answered together; None: each alone."""
        from indexer.vectors.features import features_at
        from search.answers.album import albums_of_features, albums_of_table

        if self.album is None or self.features is None:
            return None
        if self.album_table is not None:
            return albums_of_table(self.album_table, self.album)
        return albums_of_features(features_at(self.features), self.album)

    def read_owners(self, engine: "Engine") -> "QueryOwners | None":
        """Whose the photos are, where gallery photos of their owners are left out; None: nothing is left out.

        Raises:
            InputError: the column is not there, or the gallery does not say whose its photos are.
        """
        from indexer.photos.sources import is_table
        from indexer.vectors.features import features_at
        from search.answers.owners import QueryOwners
        from search.answers.row_texts import texts_of_features, texts_of_table

        column = self.owner_column
        if column is None:
            return None
        known = engine.owners
        if self.owner_table is not None:
            return QueryOwners(texts_of_table(self.owner_table, column), known)
        if self.features is None:
            assert self.photos is not None
            if not is_table(self.photos):
                raise InputError(
                    f"`owner_column` {column}: photos that are no table have no columns. Give `owner_table`, with "
                    "photo and that column."
                )
            return QueryOwners(texts_of_table(self.photos, column, split=self.split), known)
        try:
            return QueryOwners(texts_of_features(features_at(self.features), column), known)
        except InputError as error:
            raise InputError(
                f"{error} Or give `owner_table`: the table that these vectors were made from, where it has the column."
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How a run is done, and what is kept of it.

    Args:
        top_k: how many places to keep for each photo.
        save_features: features folder to keep the vectors of `photos` in.
        part: 2/8 does the second of eight parts of the job, each into an `out` of its own: for several machines.
        engine: local works on this machine; ray on the cluster that RAY_ADDRESS names, which must see the same paths.
        check_recall: number of photos whose answers are compared with those of exact search, and of all photos of the
            gallery where some of its lists are looked at.
        audit_log: file to add a line to that says who asked for which photos, and when.

    Raises:
        InputError: the parts do not go together.
    """

    top_k: int = 1
    save_features: str | Path | None = None
    part: str = "1/1"
    engine: EngineName = "local"
    check_recall: int | None = None
    audit_log: str | Path | None = None

    def __post_init__(self) -> None:
        from indexer.photos.shard_cut import JobPart

        check_choices(self)
        check_bounds(self, "top_k", "check_recall", low=1)
        JobPart.parse(self.part)
        if self.check_recall is not None and self.engine != "local":
            raise InputError("`check_recall` goes with `engine` local: a sample of the queries is kept in one process.")
