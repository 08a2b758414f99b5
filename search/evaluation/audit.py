"""Whether a test set can be trusted: photos whose files hold the answer, and photos that are among the references.

In: photos, and reference photos or vectors of both. Out: a folder of `leaks.parquet` (a row for everything found in a
file), `duplicates.parquet` (a row for each photo with a near-duplicate), `unreadable.parquet` and `manifest.json`.
`evaluate` gives figures without near-duplicates.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from encoder.photos.images import decode
from encoder.photos.reading import read_bytes
from indexer.disk.artifact import check_target, write_folder
from indexer.earth.geo import haversine_km
from indexer.errors import BadImage
from indexer.jobs.progress import track
from indexer.photos.metadata import Finding, findings_in, in_name
from indexer.photos.photo import Photo
from indexer.photos.sources import open_photos
from indexer.vectors.features import FeatureBatch, joined, open_features
from search.evaluation.duplicates import (
    NearestReferences,
    ReferenceSet,
    check_encoders,
    nearest_by_embedding,
    nearest_by_hash,
    perceptual_hash,
)
from search.evaluation.findings import DUPLICATES, KIND, LEAKS, SCHEMA_VERSION, SCHEMAS, UNREADABLE
from search.evaluation.options import AuditConfig

_BATCH = 512  # photos read at once
_HASHED_EDGE = 128  # pixels: JPEGs are decoded at a fraction of their size, down to twice this
_DEFAULT = AuditConfig()

_Row = dict[str, object]  # of a table


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """Counts of photos. A photo counts once under each kind of finding."""

    photos: int
    unreadable: Mapping[str, int]  # reason code -> photos
    leaking: int  # photos with any finding in their file or name
    leaks: Mapping[str, int]  # where -> photos
    references: int | None  # photos compared by hash; None where there were none to compare
    unreadable_references: int
    too_plain: int  # test photos without a hash: nothing to compare
    duplicates: Mapping[str, int]  # 'hash', 'embedding' -> photos with a near-duplicate


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What was seen of one photo. Of its pixels only their hash is kept."""

    photo: str
    lat_deg: float  # NaN where unknown
    lng_deg: float
    findings: Sequence[Finding]
    hash: np.ndarray | None  # (8,) uint8
    problem: BadImage | None


def audit(photos: str | Path, out: str | Path, *, config: AuditConfig = _DEFAULT) -> AuditSummary:
    """List what speaks against the photos of a test set, in the folder `out`, written whole or not at all.

    photos: a table, a folder of images, or tar shards; a path or a URI.

    Raises:
        InputError: `out` cannot be written, vectors do not fit each other, or nothing usable is there.
        WorkError: the disk is full.
    """
    out = Path(out)
    check_target(out)
    test = open_photos(photos, split=config.split, schemes=config.schemes)
    references, features = None, None
    if config.references is not None:
        references = open_photos(config.references, split=config.reference_split, schemes=config.schemes)
    inputs = {"photos": test.digest, "references": None if references is None else references.digest}
    if config.features is not None and config.reference_features is not None:
        features = open_features(config.features), open_features(config.reference_features)
        check_encoders(*features)
        inputs |= {"features": features[0].digest, "reference_features": features[1].digest}
    counts = [each.n_photos for each in (test, references) if each is not None]
    limits = {"max_bits": config.max_bits, "min_cosine": config.min_cosine}
    with (
        track("reading photos", None if None in counts else sum(count or 0 for count in counts)) as advance,
        write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, config=limits, inputs=inputs) as draft,
    ):
        seen = list(_looks(test, config, hashed=references is not None, metadata=True, advance=advance))
        duplicates: list[_Row] = []
        read: Counter[bool] = Counter()  # of the references, by whether they could be
        if references is not None:
            hashed = _hashed(seen)
            looks = _looks(references, config, hashed=True, metadata=False, advance=advance)
            nearest = nearest_by_hash(hashed.values, _blocks(looks, read), max_bits=config.max_bits)
            duplicates += _duplicates("hash", hashed, nearest)
        if features is not None:
            batch = joined(list(features[0]))
            nearest = nearest_by_embedding(batch, features[1], min_cosine=config.min_cosine)
            duplicates += _duplicates("embedding", batch, nearest)
        tables: dict[str, list[_Row]] = {
            LEAKS: [_leak(look, finding) for look in seen for finding in look.findings],
            DUPLICATES: duplicates,
            UNREADABLE: [
                {"photo": look.photo, "status": look.problem.code, "reason": look.problem.reason}
                for look in seen
                if look.problem is not None
            ],
        }
        for name, rows in tables.items():
            schema = SCHEMAS[name]
            columns = [pa.array([row[each.name] for row in rows], each.type, from_pandas=True) for each in schema]
            pa.parquet.write_table(pa.table(columns, schema=schema), draft.path / name)  # with null for NaN
        summary = _summary(seen, tables, read=None if references is None else read)
        draft.facts |= {"photos": summary.photos, "leaking": summary.leaking, "duplicates": summary.duplicates}
        draft.facts["compared"] = references is not None or features is not None
    return summary


def _summary(
    seen: Sequence[_Look], tables: Mapping[str, Sequence[_Row]], *, read: Counter[bool] | None
) -> AuditSummary:
    """read: of the references, by whether they could be; None where there were none to compare."""
    leaks = tables[LEAKS]
    where = Counter(kind for _, kind in {(leak["photo"], str(leak["where"])) for leak in leaks})
    return AuditSummary(
        photos=len(seen),
        unreadable=dict(Counter(str(row["status"]) for row in tables[UNREADABLE])),
        leaking=len({leak["photo"] for leak in leaks}),
        leaks=dict(sorted(where.items(), key=lambda item: (-item[1], item[0]))),
        references=None if read is None else read.total(),
        unreadable_references=0 if read is None else read[False],
        too_plain=0 if read is None else sum(look.hash is None and look.problem is None for look in seen),
        duplicates={by: sum(row["by"] == by for row in tables[DUPLICATES]) for by in ("hash", "embedding")},
    )


def _hashed(looks: Sequence[_Look]) -> ReferenceSet:
    """Those photos that have a hash."""
    kept = [look for look in looks if look.hash is not None]
    places = np.array([(look.lat_deg, look.lng_deg) for look in kept], np.float64).reshape(-1, 2)
    hashes = np.array([look.hash for look in kept], np.uint8).reshape(-1, 8)
    return ReferenceSet([look.photo for look in kept], places[:, 0], places[:, 1], hashes)


def _blocks(looks: Iterator[_Look], read: Counter[bool]) -> Iterator[ReferenceSet]:
    """References as blocks of hashes, read as they are needed. read: counts them, by whether they could be read."""
    while block := list(itertools.islice(looks, _BATCH)):
        read.update(look.problem is None for look in block)
        yield _hashed(block)


def _looks(
    photos: Iterable[Photo], config: AuditConfig, *, hashed: bool, metadata: bool, advance: Callable[[int], None]
) -> Iterator[_Look]:
    """Look at photos in their order, a few at a time in threads: Pillow decodes outside Python's lock."""

    def look(photo: Photo) -> _Look:
        seen = partial(_Look, photo.name, photo.lat_deg, photo.lng_deg)
        try:
            data = read_bytes(photo.data, schemes=config.schemes)
            findings = findings_in(photo.name, data, max_pixels=config.max_pixels) if metadata else []
            image = decode(data, shorter_edge=_HASHED_EDGE, max_pixels=config.max_pixels) if hashed else None
            return seen(findings, None if image is None else perceptual_hash(image), None)
        except BadImage as problem:
            return seen(in_name(photo.name) if metadata else [], None, problem)

    source = iter(photos)
    with ThreadPoolExecutor(config.workers) as pool:
        while batch := list(itertools.islice(source, 4 * config.workers)):
            yield from pool.map(look, batch)
            advance(len(batch))


def _leak(look: _Look, finding: Finding) -> _Row:
    places = (look.lat_deg, look.lng_deg, finding.lat_deg, finding.lng_deg)
    return {
        "photo": look.photo,
        "where": finding.where,
        "text": finding.text,
        "lat": finding.lat_deg,
        "lng": finding.lng_deg,
        "error_km": float(haversine_km(*map(np.array, places))),
    }


def _duplicates(by: str, photos: ReferenceSet | FeatureBatch, nearest: NearestReferences) -> list[_Row]:
    apart = haversine_km(photos.lat_deg, photos.lng_deg, nearest.lat_deg, nearest.lng_deg)
    return [
        {
            "photo": photos.photo[row],
            "by": by,
            "reference": nearest.reference[row],
            "n_references": int(nearest.n_references[row]),
            "bits": int(nearest.distance[row]) if by == "hash" else None,
            "cosine": 1.0 - float(nearest.distance[row]) if by == "embedding" else None,
            "distance_km": float(apart[row]),
        }
        for row in np.flatnonzero(nearest.found).tolist()
    ]
