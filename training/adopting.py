"""Published models taken as they are, and given what they lack; nothing is trained.

In: what was published (`training.adopted`). Out: a folder with what a bundle is made of, and a version in a registry.

    checkpoint/   the encoder
    features/     the vectors of places, which take the place of photos
    hierarchy/    the cells of these places

The folder is whole or absent, and nothing is published before it is there.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoder.models.checkpoint import load_encoder, save_checkpoint
from encoder.models.files import HUB_PREFIX, encoder_digest
from encoder.models.model import GeoEncoder
from indexer.bundles.build_config import BuildConfig
from indexer.bundles.builds import Built, build
from indexer.bundles.registry import Registry
from indexer.cells.division import S2Scheme, divide
from indexer.cells.hierarchy import sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.disk.artifact import (
    check_target,
    explain_full,
    explain_unwritable,
    remove_leftovers,
    sync,
    temporary_folder,
)
from indexer.disk.manifest import file_digest
from indexer.errors import InputError
from indexer.jobs.job_folder import OK
from indexer.jobs.progress import track
from indexer.paper import MP16_PHOTOS, TAU_MAX, TAU_MIN
from indexer.vectors.features import FeatureBatch, write_features
from training.adopted.geoclip import CLIP, GeoClip, read_geoclip, read_places

_SHARD = 8192  # places in a shard of features


@dataclass(frozen=True, slots=True, eq=False)
class Adopted:
    """A published model that was taken over."""

    folder: Path
    places: int  # that photos are compared with
    cells: tuple[int, ...]  # per level, coarsest first
    temperature: float
    built: Built | None  # None where no registry was given
    stage_seconds: Mapping[str, float]


def adopt_geoclip(
    out: str | Path,
    *,
    registry: str | Path | None = None,
    from_: str | Path | None = None,
    clip: str | Path | None = None,
    coordinates: str | Path | None = None,
) -> Adopted:
    """Take over GeoCLIP: its encoder of photos, and the places it compares them with as a gallery.

    Args:
        out: folder to write, with `checkpoint`, `features` and `hierarchy`.
        registry: where a version is built of them, and published; None: nowhere.
        from_: folder of the unpacked package or of a release, or the hub id of a release; None: the installed package.
        clip: folder or hub id of the CLIP under its head; None: the one that is published with it.
        coordinates: table with lat and lng of the places to compare photos with; None: those that are published.

    Raises:
        InputError: something cannot be had, or does not go together; or a folder exists or cannot be written.
        ArtifactError: weights are damaged.
        WorkError: the disk is full.
    """
    out, marks = Path(out), [time.perf_counter()]
    check_target(out)
    if registry is not None:
        Registry(registry).check()
    published = read_geoclip(from_)
    table = None if coordinates is None else Path(coordinates)
    lat_deg, lng_deg = (published.lat_deg, published.lng_deg) if table is None else read_places(table)
    encoder = _open_clip(published, clip)
    made_by = {"adopted": "geoclip", "source": published.source, "clip": encoder.name}
    inputs = {**published.digests, "clip": encoder.digest, "coordinates": None if table is None else file_digest(table)}
    marks.append(time.perf_counter())
    with _whole_folder(out) as folder:
        # Cells first: places that cannot be divided are refused before the work.
        ids = pa.table({"s2_id": sorted_ids([(lat_deg, lng_deg)])})
        hierarchy = divide(ids, S2Scheme(rule_of(len(lat_deg))), folder / "hierarchy", inputs=inputs).hierarchy
        checkpoint = folder / "checkpoint"
        save_checkpoint(checkpoint, encoder=encoder.model, geocells=None, config=made_by, inputs=inputs)
        marks.append(time.perf_counter())
        write_features(
            folder / "features",
            _place_vectors(published, *distinct(lat_deg, lng_deg)),
            encoder=encoder_digest(checkpoint),
            options={**made_by, "crops": "one"},
            inputs=inputs,
        )
        marks.append(time.perf_counter())
    built = None if registry is None else _built(registry, out, published.temperature)
    marks.append(time.perf_counter())
    return Adopted(
        out,
        len(lat_deg),
        tuple(map(len, hierarchy.levels)),
        published.temperature,
        built,
        dict(zip(("read", "checkpoint", "places", "build"), np.diff(marks).tolist(), strict=True)),
    )


def rule_of(places: int) -> PartitionRule:
    """The paper's rule for MP-16, for so many places as a sample of it: bounds smaller by as much as they are fewer."""
    share = places / MP16_PHOTOS
    bounds = sorted({max(round(tau * share), 1) for tau in TAU_MAX}, reverse=True)
    return PartitionRule(tau_max=tuple(bounds), tau_min=min(round(TAU_MIN * share), bounds[-1] - 1))


def distinct(lat_deg: np.ndarray, lng_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of some places (N,) once, in their order: a place that comes twice is no better answer than one that does.

    Cells are made of all: how often a place comes says how many photos are taken there.
    """
    rows = np.sort(np.unique(np.stack([lat_deg, lng_deg], axis=1), axis=0, return_index=True)[1])
    return lat_deg[rows], lng_deg[rows]


@dataclass(frozen=True, slots=True, eq=False)
class _Headed:
    """A CLIP with a head upon it."""

    name: str  # as it was asked for
    model: GeoEncoder
    digest: str  # of the CLIP alone


def _open_clip(published: GeoClip, given: str | Path | None) -> "_Headed":
    """The CLIP that was given, or that the head was learned on, with the head upon it."""
    name = str(given or published.clip).removeprefix(HUB_PREFIX)
    try:
        loaded = load_encoder(HUB_PREFIX + name)
    except InputError as error:
        if given is not None:
            raise
        raise InputError(
            f"{error} Without a network: copy config.json, model.safetensors and preprocessor_config.json of {name} "
            "from a machine that has one into a folder, and give it with `clip`."
        ) from None
    model, (wanted, *_) = loaded.model, published.widths
    if not isinstance(model, GeoEncoder) or model.fusion is not None or model.config.head is not None:
        raise InputError(f"{loaded.name}: no plain CLIP, which GeoCLIP's head goes upon. Give {CLIP} with `clip`.")
    if model.width != wanted:
        raise InputError(
            f"{loaded.name}: its image embeddings have {model.width} dimensions; GeoCLIP's head takes those of "
            f"{wanted}, of a CLIP ViT-L/14. Give {CLIP} with `clip`."
        )
    model.add_head(published.head)
    return _Headed(loaded.name, model, loaded.digest)


def _place_vectors(published: GeoClip, lat_deg: np.ndarray, lng_deg: np.ndarray) -> Iterator[FeatureBatch]:
    """Unit vectors of places (N,), as features of photos that were taken there and are called by their coordinates."""
    with track("encoding places", len(lat_deg)) as advance:
        for begin in range(0, len(lat_deg), _SHARD):
            lat, lng = lat_deg[begin : begin + _SHARD], lng_deg[begin : begin + _SHARD]
            names = [f"{one},{other}" for one, other in zip(lat.tolist(), lng.tolist(), strict=True)]
            vectors = published.location_encoder.vectors(lat, lng)
            yield FeatureBatch(names, vectors, [OK] * len(names), [""] * len(names), lat, lng)
            advance(len(names))


def build_config(temperature: float) -> BuildConfig:
    """How a bundle of places is built, whose cosines with photos are divided by a temperature.

    No transform: one that whitens would be fitted to vectors of places and applied to those of photos, which have
    another mean, and it would change which places come first. All places are kept, in full precision, and count by
    their cosines alone until the version is calibrated: so they come first as GeoCLIP has them, with its probabilities
    but for a factor, and answers point where its own do.
    """
    return BuildConfig(
        transform="none",
        temperature=temperature,
        gallery_similarity=temperature,
        gallery_precision="fp32",
        keep_duplicates=True,
    )


def _built(registry: str | Path, folder: Path, temperature: float) -> Built:
    """A version of what lies in a folder, published; where that fails, the folder goes, too."""
    try:
        return build(
            registry,
            hierarchy=folder / "hierarchy",
            features=folder / "features",
            config=build_config(temperature),
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write folders into, which appears at `out` complete or not at all."""
    with contextlib.ExitStack() as stack:
        with explain_unwritable(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(out.parent, out.name)
            folder = stack.enter_context(temporary_folder(out.parent, out.name))
        with explain_full(out):
            yield folder
        with explain_unwritable(out):
            folder.rename(out)
            sync(out.parent)
