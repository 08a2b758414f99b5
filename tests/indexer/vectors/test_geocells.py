"""Geocells of a checkpoint: identity on disk, and refusal of what does not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import write_folder
from indexer.errors import ArtifactError, BundleMismatch
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, Geocells, load_geocells, save_geocells
from tests.conftest import random_classes, random_geocells


def checkpoint(out: Path, geocells: Geocells | None) -> Path:
    with write_folder(out, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        if geocells:
            save_geocells(draft, geocells)
    return out


def test_save_and_load_are_inverse(tmp_path: Path, hierarchy: Hierarchy) -> None:
    written = random_geocells(hierarchy, 8, seed=0)
    read = load_geocells(checkpoint(tmp_path / "C", written), hierarchy=hierarchy.digest)
    for a, b in zip(read.vectors, written.vectors, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(read.temperatures, written.temperatures)
    assert (read.hierarchy, read.encoder, read.width) == (written.hierarchy, written.encoder, 8)


def test_classes_keep_their_lengths_and_biases(tmp_path: Path, hierarchy: Hierarchy) -> None:
    written = random_classes(hierarchy, 8, seed=0)
    read = load_geocells(checkpoint(tmp_path / "C", written), hierarchy=hierarchy.digest)
    assert written.biases is not None
    assert read.biases is not None
    for a, b in zip((*read.vectors, *read.biases), (*written.vectors, *written.biases), strict=True):
        np.testing.assert_array_equal(a, b)


def test_classes_that_cannot_be_right_are_refused(hierarchy: Hierarchy) -> None:
    good = random_classes(hierarchy, 8, seed=0)
    assert good.biases is not None
    first = good.biases[0].copy()
    first[1] = np.nan
    for biases, message in (
        (good.biases[:-1], "of other numbers"),
        ([good.biases[0][:-1], *good.biases[1:]], "of other numbers"),
        ([first, *good.biases[1:]], "finite"),
    ):
        with pytest.raises(ArtifactError, match=message):
            replace(good, biases=biases)


def test_another_hierarchys_geocells_are_refused(tmp_path: Path, hierarchy: Hierarchy) -> None:
    folder = checkpoint(tmp_path / "C", random_geocells(hierarchy, 8, seed=0))
    with pytest.raises(BundleMismatch, match="belong to hierarchy"):
        load_geocells(folder, hierarchy="f" * 64)


def test_a_checkpoint_without_geocells_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no geocells"):
        load_geocells(checkpoint(tmp_path / "C", None))


def test_a_damaged_file_is_a_clean_error(tmp_path: Path, hierarchy: Hierarchy) -> None:
    folder = checkpoint(tmp_path / "C", random_geocells(hierarchy, 8, seed=0))
    path = folder / "geocells" / "level_1.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(ArtifactError, match=r"level_1\.safetensors: content differs from its manifest"):
        load_geocells(folder)


@pytest.mark.parametrize("fault", ["norm", "nan", "width", "levels", "temperature"])
def test_geocells_that_cannot_be_right_are_refused(hierarchy: Hierarchy, fault: str) -> None:
    good = random_geocells(hierarchy, 8, seed=0)
    first = good.vectors[0].copy()
    first[2] = {"norm": 0.5, "nan": np.nan}.get(fault, first[2])
    changes: dict = {
        "norm": {"vectors": [first, *good.vectors[1:]]},
        "nan": {"vectors": [first, *good.vectors[1:]]},
        "width": {
            "vectors": [
                good.vectors[0][:, :4] / np.linalg.norm(good.vectors[0][:, :4], axis=1)[:, None],
                *good.vectors[1:],
            ]
        },
        "levels": {"temperatures": good.temperatures[:2]},
        "temperature": {"temperatures": np.array([0.07, 0.0, 0.07])},
    }
    with pytest.raises(ArtifactError):
        replace(good, **changes[fault])
