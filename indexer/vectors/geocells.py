"""Geocell vectors on disk: one learned unit vector per cell of each level, in the hierarchy's cell order.

In: `geocells/level_<l>.safetensors` of a checkpoint, the transform beside them where there is one, and the facts its
manifest gives about them (temperatures, level weights, prior exponent, the hierarchy's digest). No torch is needed to
read them.

A classifier in their place (Table VI of the paper's first arXiv version) is stored likewise: its class vectors, of any
length, and a bias for each class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from indexer.disk.artifact import Draft
from indexer.disk.manifest import checked_file, read_manifest
from indexer.errors import ArtifactError, BundleMismatch
from indexer.vectors.whitening import Transform

CHECKPOINT_KIND = "checkpoint"
CHECKPOINT_SCHEMA_VERSION = 1
_TRANSFORM_FILE = "geocells/transform.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Geocells:
    """The geographic representation of a checkpoint (paper section III-A), or a classifier's class vectors."""

    vectors: Sequence[
        np.ndarray
    ]  # per level (N_l, D) float32, unit rows but for classes; in the hierarchy's cell order
    temperatures: np.ndarray  # (L,) float64, positive
    level_weights: np.ndarray  # (L,) float64, the exponents lambda_l of the product of similarities
    hierarchy: str  # digest of the hierarchy whose cells these are
    encoder: str | None  # digest of the encoder whose space they live in; None where unknown
    transform: Transform | None = None  # what photo vectors pass before they meet these; None: nothing
    prior_exponent: float = 0.0  # of the share of photos that a finest cell holds, as a factor of its product
    biases: Sequence[np.ndarray] | None = None  # per level (N_l,) float32, of classes; None: these are geocells

    def __post_init__(self) -> None:
        widths = {level.shape[1] for level in self.vectors}
        if len(widths) != 1 or not len(self.vectors) == len(self.temperatures) == len(self.level_weights):
            raise ArtifactError(
                f"Geocells of {len(self.vectors)} levels and widths {sorted(widths)}, with {len(self.temperatures)} "
                f"temperatures and {len(self.level_weights)} level weights: one of each per level, one width for all."
            )
        self._check_biases()
        for number, level in enumerate(self.vectors if self.biases is None else ()):
            norms = np.sqrt(np.einsum("nd,nd->n", level, level, dtype=np.float64))  # without a copy in float64
            wrong = np.flatnonzero(~(np.abs(norms - 1) < 1e-3))
            if wrong.size:
                raise ArtifactError(
                    f"Level {number}: geocell vector {wrong[0]} has norm {norms[wrong[0]]:g}, not 1 ({wrong.size} "
                    "such). The checkpoint is damaged or was not written by geosurge."
                )
        if not (np.isfinite(self.temperatures) & (self.temperatures > 0)).all():
            raise ArtifactError(f"Temperatures must be positive, these are {self.temperatures.tolist()}.")
        if not (np.isfinite(self.level_weights).all() and np.isfinite(self.prior_exponent)):
            raise ArtifactError("Level weights and the prior exponent must be finite numbers. Fit them again.")
        if self.transform is not None and self.transform.width != self.width:
            raise ArtifactError(
                f"Geocells of {self.width} dimensions with a transform of {self.transform.width}. Refit them."
            )

    def _check_biases(self) -> None:
        if self.biases is None:
            return
        lengths = [(len(level), len(bias)) for level, bias in zip(self.vectors, self.biases, strict=False)]
        if len(self.biases) != len(self.vectors) or any(classes != biases for classes, biases in lengths):
            raise ArtifactError(f"Class vectors with biases of other numbers: {lengths}. Restore them from a copy.")
        if not all(np.isfinite(part).all() for part in (*self.vectors, *self.biases)):
            raise ArtifactError("Class vectors and biases must be finite numbers. Train them again.")

    @classmethod
    def of_facts(
        cls,
        vectors: Sequence[np.ndarray],
        facts: Mapping[str, Any],
        *,
        transform: Transform | None,
        biases: Sequence[np.ndarray] | None = None,
    ) -> "Geocells":
        """Vectors with what a manifest says of them; KeyError, TypeError or ValueError where it does not say it."""
        return cls(
            vectors,
            np.array(facts["temperatures"], np.float64),
            np.array(facts["level_weights"], np.float64),
            facts["hierarchy"],
            facts["encoder"],
            transform,
            float(facts["prior_exponent"]),
            biases,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of them; the inverse of `of_facts`."""
        return {
            "temperatures": self.temperatures.tolist(),
            "level_weights": self.level_weights.tolist(),
            "prior_exponent": self.prior_exponent,
            "hierarchy": self.hierarchy,
            "encoder": self.encoder,
        }

    @property
    def width(self) -> int:
        """D, the number of dimensions of a geocell vector."""
        return int(self.vectors[0].shape[1])

    def compared(self, vectors: np.ndarray) -> np.ndarray:
        """Photo vectors (N, D) float32 as they meet the geocells: transformed where these are."""
        return vectors if self.transform is None else self.transform.apply(vectors)


def save_geocells(draft: Draft, geocells: Geocells) -> None:
    """Write the geocells into a checkpoint folder that is being written, and what they need to be read as its facts."""
    folder = draft.path / "geocells"
    folder.mkdir()
    for number, vectors in enumerate(geocells.vectors):
        level = {"vectors": np.ascontiguousarray(vectors, np.float32)}
        if geocells.biases is not None:
            level["biases"] = np.ascontiguousarray(geocells.biases[number], np.float32)
        save_file(level, folder / f"level_{number}.safetensors")
    if geocells.transform is not None:
        geocells.transform.save(draft.path / _TRANSFORM_FILE)
    draft.facts |= geocells.facts


def load_geocells(checkpoint: Path, *, hierarchy: str | None = None) -> Geocells:
    """Read the geocells of a checkpoint folder; with `hierarchy`, refuse those of another hierarchy's digest.

    Raises:
        ArtifactError: not a checkpoint with geocells, or damaged.
        BundleMismatch: the geocells belong to another hierarchy.
    """
    manifest = read_manifest(checkpoint, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION)
    facts = manifest.facts
    if "hierarchy" not in facts:
        raise ArtifactError(f"{checkpoint}: this checkpoint has no geocells. Train it: python -m training fit")
    if hierarchy is not None and facts["hierarchy"] != hierarchy:
        raise BundleMismatch(
            f"{checkpoint}: its geocells belong to hierarchy {facts['hierarchy'][:8]}, this one is {hierarchy[:8]}. "
            "Give the hierarchy it was trained on, or fit its geocells to this one: python -m training refit ..."
        )
    try:
        names = [f"geocells/level_{number}.safetensors" for number in range(len(facts["temperatures"]))]
        levels = [load_file(checked_file(checkpoint, name, manifest)) for name in names]
        vectors, classes = [level["vectors"] for level in levels], any("biases" in level for level in levels)
        biases = [level["biases"] for level in levels] if classes else None
        transform = None
        if _TRANSFORM_FILE in manifest.files:
            transform = Transform.load(checked_file(checkpoint, _TRANSFORM_FILE, manifest))
        return Geocells.of_facts(vectors, facts, transform=transform, biases=biases)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ArtifactError(f"{checkpoint}: its geocells cannot be read ({error}). Restore it from a copy.") from None
