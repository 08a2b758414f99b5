"""Whether a test set can be trusted: photos whose files hold the answer, and photos that are among the references.

In: photos, and reference photos or vectors of both. Out: a folder of `leaks.parquet` (a row for everything found in a
file), `duplicates.parquet` (a row for each photo with a near-duplicate), `unreadable.parquet` and `manifest.json`.
`evaluate --exclude` reads it.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from encoder.config import MAX_PIXELS
from encoder.images import BadImage, decode
from encoder.reading import read_bytes
from indexer.disk.artifact import write_folder
from indexer.earth.geo import haversine_km
from indexer.errors import InputError
from indexer.photos.photo import Photo
from indexer.photos.sources import PhotoSource
from indexer.photos.uris import SCHEMES
from indexer.vectors.features import FeatureSource, joined
from search.evaluation.duplicates import (
    Nearest,
    References,
    check_encoders,
    nearest_by_embedding,
    nearest_by_hash,
    perceptual_hash,
)
from search.evaluation.findings import (
    DUPLICATES,
    DUPLICATES_SCHEMA,
    LEAKS,
    LEAKS_SCHEMA,
    UNREADABLE,
    UNREADABLE_SCHEMA,
)
from search.evaluation.metadata import Finding, findings_in, in_name

KIND = "audit"
SCHEMA_VERSION = 1
_BATCH = 512  # photos read at once
_HASHED_EDGE = 128  # pixels: JPEGs are decoded at a fraction of their size, down to twice this


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """What counts as a near-duplicate, and how photos are read."""

    max_bits: int = 6  # of 64 that may differ between two hashes
    min_cosine: float = 0.95  # between two embeddings
    workers: int = 2  # threads that read and decode
    max_pixels: int = MAX_PIXELS
    schemes: Sequence[str] = SCHEMES

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"--workers must be at least 1, not {self.workers}.")


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
    """What was seen of one photo."""

    findings: list[Finding]
    hash: np.ndarray | None  # (8,) uint8
    problem: BadImage | None


def audit(
    photos: PhotoSource,
    out: Path,
    *,
    references: PhotoSource | None = None,
    features: tuple[FeatureSource, FeatureSource] | None = None,
    config: AuditConfig | None = None,
    advance: Callable[[int], None] = lambda photos: None,
) -> AuditSummary:
    """Write the folder `out`, whole or not at all.

    Args:
        photos: the test set.
        out: folder to write.
        references: photos that answers come from or training saw.
        features: vectors of photos and of references, by one encoder.
        config: limits.
        advance: told how many photos, of both kinds, were read since the last call.

    Raises:
        InputError: `out` cannot be written, vectors do not fit each other, or nothing usable is there.
        WorkError: the disk is full.
    """
    config = config or AuditConfig()
    if features is not None:
        check_encoders(*features)
    inputs = {"photos": photos.digest, "references": None if references is None else references.digest}
    if features is not None:
        inputs |= {"features": features[0].digest, "reference_features": features[1].digest}
    limits = {"max_bits": config.max_bits, "min_cosine": config.min_cosine}
    with write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, config=limits, inputs=inputs) as draft:
        test = _read_test_set(photos, config, hashed=references is not None, advance=advance)
        duplicates: list[dict[str, object]] = []
        counts = {"hash": 0, "embedding": 0}
        blocks = None
        if references is not None:
            blocks = _HashedBlocks(references, config, advance)
            found = _duplicates_by_hash(test, blocks, config)
            counts["hash"], duplicates = len(found), found
        if features is not None:
            found = _duplicates_by_embedding(*features, config)
            counts["embedding"], duplicates = len(found), duplicates + found
        for name, rows, schema in (
            (LEAKS, test.leaks, LEAKS_SCHEMA),
            (DUPLICATES, duplicates, DUPLICATES_SCHEMA),
            (UNREADABLE, test.unreadable, UNREADABLE_SCHEMA),
        ):
            pa.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), draft.path / name)
        summary = _summary(test, blocks, counts)
        draft.facts |= {"photos": summary.photos, "leaking": summary.leaking, "duplicates": counts}
    return summary


@dataclass(slots=True, eq=False)
class _TestSet:
    """What was seen of all photos; of pixels only their hashes are kept."""

    photo: list[str] = field(default_factory=list)
    places: list[tuple[float, float]] = field(default_factory=list)  # latitude and longitude, NaN where unknown
    hashes: list[np.ndarray | None] = field(default_factory=list)
    leaks: list[dict[str, object]] = field(default_factory=list)  # rows of the tables
    unreadable: list[dict[str, object]] = field(default_factory=list)
    hashed: bool = False


def _read_test_set(
    photos: PhotoSource, config: AuditConfig, *, hashed: bool, advance: Callable[[int], None]
) -> _TestSet:
    test = _TestSet(hashed=hashed)
    for photo, seen in _looks(photos, config, hashed=hashed, metadata=True, advance=advance):
        test.photo.append(photo.name)
        test.places.append((photo.lat_deg, photo.lng_deg))
        test.hashes.append(seen.hash)
        test.leaks += [_leak(photo, finding) for finding in seen.findings]
        if seen.problem is not None:
            row: dict[str, object] = {"photo": photo.name, "status": seen.problem.code, "reason": seen.problem.reason}
            test.unreadable.append(row)
    return test


def _duplicates_by_hash(test: _TestSet, blocks: Iterable[References], config: AuditConfig) -> list[dict[str, object]]:
    rows = [row for row, value in enumerate(test.hashes) if value is not None]
    hashes = np.array([test.hashes[row] for row in rows], np.uint8).reshape(-1, 8)
    nearest = nearest_by_hash(hashes, blocks, max_bits=config.max_bits)
    lat, lng = np.array([test.places[row] for row in rows], np.float64).reshape(-1, 2).T
    return _duplicates("hash", nearest, [test.photo[row] for row in rows], lat, lng)


def _duplicates_by_embedding(
    photos: FeatureSource, references: FeatureSource, config: AuditConfig
) -> list[dict[str, object]]:
    batch = joined(list(photos))
    nearest = nearest_by_embedding(batch, references, min_cosine=config.min_cosine)
    return _duplicates("embedding", nearest, batch.photo, batch.lat_deg, batch.lng_deg)


def _summary(test: _TestSet, blocks: "_HashedBlocks | None", counts: Mapping[str, int]) -> AuditSummary:
    where = Counter(kind for _, kind in {(leak["photo"], str(leak["where"])) for leak in test.leaks})
    no_hash = sum(value is None for value in test.hashes)
    return AuditSummary(
        photos=len(test.photo),
        unreadable=dict(Counter(str(row["status"]) for row in test.unreadable)),
        leaking=len({leak["photo"] for leak in test.leaks}),
        leaks=dict(sorted(where.items(), key=lambda item: (-item[1], item[0]))),
        references=None if blocks is None else blocks.read,
        unreadable_references=0 if blocks is None else blocks.unreadable,
        too_plain=no_hash - len(test.unreadable) if test.hashed else 0,
        duplicates=dict(counts),
    )


class _HashedBlocks:
    """References as blocks of hashes, read as they are asked for; counts what it read."""

    def __init__(self, references: PhotoSource, config: AuditConfig, advance: Callable[[int], None]) -> None:
        self._looks = partial(_looks, references, config, hashed=True, metadata=False, advance=advance)
        self.read = self.unreadable = 0

    def __iter__(self) -> Iterator[References]:
        looks = self._looks()
        while part := list(itertools.islice(looks, _BATCH)):
            self.read += len(part)
            self.unreadable += sum(seen.problem is not None for _, seen in part)
            known = [(photo, seen.hash) for photo, seen in part if seen.hash is not None]
            yield References(
                [photo.name for photo, _ in known],
                np.array([photo.lat_deg for photo, _ in known], np.float64),
                np.array([photo.lng_deg for photo, _ in known], np.float64),
                np.array([value for _, value in known], np.uint8).reshape(-1, 8),
            )


def _looks(
    photos: Iterable[Photo], config: AuditConfig, *, hashed: bool, metadata: bool, advance: Callable[[int], None]
) -> Iterator[tuple[Photo, _Look]]:
    """Look at photos in their order, a few at a time in threads: Pillow decodes outside Python's lock."""
    look = partial(_look, config=config, hashed=hashed, metadata=metadata)
    source = iter(photos)
    with ThreadPoolExecutor(config.workers) as pool:
        while batch := list(itertools.islice(source, 4 * config.workers)):
            yield from zip(batch, pool.map(look, batch), strict=True)
            advance(len(batch))


def _look(photo: Photo, *, config: AuditConfig, hashed: bool, metadata: bool) -> _Look:
    try:
        data = read_bytes(photo.data, schemes=config.schemes)
        findings = findings_in(photo.name, data, max_pixels=config.max_pixels) if metadata else []
        image = decode(data, shorter_edge=_HASHED_EDGE, max_pixels=config.max_pixels) if hashed else None
        return _Look(findings, None if image is None else perceptual_hash(image), None)
    except BadImage as problem:
        return _Look(in_name(photo.name) if metadata else [], None, problem)


def _leak(photo: Photo, finding: Finding) -> dict[str, object]:
    error = haversine_km(*(np.array(v) for v in (photo.lat_deg, photo.lng_deg, finding.lat_deg, finding.lng_deg)))
    return {
        "photo": photo.name,
        "where": finding.where,
        "text": finding.text,
        "lat": _null(finding.lat_deg),
        "lng": _null(finding.lng_deg),
        "error_km": _null(float(error)),
    }


def _duplicates(
    by: str, nearest: Nearest, names: Iterable[str], lat_deg: np.ndarray, lng_deg: np.ndarray
) -> list[dict[str, object]]:
    apart = haversine_km(lat_deg, lng_deg, nearest.lat_deg, nearest.lng_deg)
    photos = list(names)
    return [
        {
            "photo": photos[row],
            "by": by,
            "reference": nearest.reference[row],
            "n_references": int(nearest.n_references[row]),
            "bits": int(nearest.distance[row]) if by == "hash" else None,
            "cosine": 1.0 - float(nearest.distance[row]) if by == "embedding" else None,
            "distance_km": _null(float(apart[row])),
        }
        for row in np.flatnonzero(nearest.found).tolist()
    ]


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
