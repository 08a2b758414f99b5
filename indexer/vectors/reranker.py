"""The reranker: a small network that says of each photo near a query how much more or less it is to weigh.

In: what is known of each of the near photos (`search.answers.photo_properties`). Out: what is added to its evidence, in
nats. Two hidden layers of a few units, applied photo by photo; it is fitted to held-out queries
(`search.calibration.reranker_fit`), one for each protocol, and kept beside the calibration of that protocol.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from indexer.errors import ArtifactError

N_PROPERTIES = 9  # that `search.answers.photo_properties` knows of a photo


@dataclass(frozen=True, slots=True, eq=False)
class Reranker:
    """The network of P properties and H hidden units. On disk: one safetensors file."""

    mean: np.ndarray  # (P,) float32, of each property over the photos that it was fitted to
    spread: np.ndarray  # (P,) float32, its standard deviation there
    first: np.ndarray  # (P, H) float32
    first_bias: np.ndarray  # (H,) float32
    second: np.ndarray  # (H, H) float32
    second_bias: np.ndarray  # (H,) float32
    last: np.ndarray  # (H,) float32

    def __post_init__(self) -> None:
        """Raises ArtifactError where the parts are none of one network."""
        arrays = self.arrays
        properties, hidden = self.first.shape if self.first.ndim == 2 else (0, 0)
        shapes = [(properties,), (properties,), (properties, hidden), (hidden,), (hidden, hidden), (hidden,), (hidden,)]
        if not properties or not hidden or [array.shape for array in arrays.values()] != shapes:
            raise ArtifactError(
                f"A reranker of {', '.join(f'{name} {array.shape}' for name, array in arrays.items())}: no network. "
                "Fit it again: python -m search calibrate"
            )
        sound = all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
        if not (sound and (self.spread > 0).all()):
            raise ArtifactError(
                "A reranker with values that are no float32, or not finite, or with a spread of 0. Restore it from a "
                "copy, or fit it again: python -m search calibrate"
            )

    def __eq__(self, other: object) -> bool:
        """Whether it is the same network to the last bit."""
        if not isinstance(other, Reranker):
            return NotImplemented
        mine, theirs = self.arrays, other.arrays
        return all(np.array_equal(array, theirs[name]) for name, array in mine.items())

    __hash__ = None  # type: ignore[assignment]  # as for all that can be compared by value and holds arrays

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All its parts by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def n_properties(self) -> int:
        """P."""
        return len(self.first)

    def __call__(self, properties: np.ndarray) -> np.ndarray:
        """What is added to the evidence of photos of (..., P) properties, NaN for unknown: (...) float64.

        A property that is not known counts as the mean.
        """
        known = (properties - self.mean) / self.spread
        known = np.nan_to_num(known.astype(np.float32, copy=False), copy=False, nan=0.0)
        hidden = np.tanh(known.reshape(-1, self.n_properties) @ self.first + self.first_bias)
        hidden = np.tanh(hidden @ self.second + self.second_bias)
        return np.asarray((hidden @ self.last).reshape(properties.shape[:-1]), np.float64)

    def save(self, path: Path) -> None:
        """Write a safetensors file into a folder that is being written, which makes it whole or absent."""
        save_file(self.arrays, path)

    @classmethod
    def load(cls, path: Path) -> "Reranker":
        """Read a file that `save` wrote; an ArtifactError where there is none, or it is damaged or no reranker."""
        try:
            reranker = cls(**load_file(path))
            if reranker.n_properties != N_PROPERTIES:
                raise ArtifactError(
                    f"A reranker that sees {reranker.n_properties} properties of a photo, where this release knows "
                    f"{N_PROPERTIES}. Fit it again: python -m search calibrate"
                )
            return reranker
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from None
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read as a reranker ({error}). Restore it from a copy.") from None
