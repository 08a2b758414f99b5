"""The files an unfinished run goes on with, written so that a kill leaves the one before, or the new one.

Lightning writes them to the system's temporary folder first; where that lies on another disk, what follows is a copy,
which a kill cuts short, and the file before it is gone.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from indexer.disk.artifact import explain_full, place_file, remove_leftovers
from indexer.errors import ArtifactError

_DAMAGED = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, FileNotFoundError)


class CheckpointFiles(CheckpointIO):
    """How Lightning reads and writes them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises WorkError where the disk is full; the file before stays."""
        target = Path(path)
        with explain_full(target, kept="What the run had kept before is still there"):
            remove_leftovers(target.parent, target.name)
            with place_file(target) as aside:
                torch.save(checkpoint, aside)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Nothing that could run code is loaded. Raises ArtifactError where it cannot be."""
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except _DAMAGED as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ArtifactError(
                f"{path}: damaged or missing ({reason}). Remove resume.ckpt and best.ckpt beside it, and the run "
                "begins anew; its logs stay."
            ) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Part of what Lightning asks for."""
        Path(path).unlink(missing_ok=True)
