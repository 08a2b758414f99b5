"""The folder of a training run: what made it, how far it has come, and at the end the checkpoint.

    config.yaml     every option, ready for `python -m training fit --config`
    run.json        versions, digests of what is learned from, the seed
    logs/<n>/       `metrics.csv` and TensorBoard's events of the n-th start of this run
    resume.ckpt     where a killed run goes on; gone when it has ended
    best.ckpt       weights of the best epoch so far, with `trainer.patience`; gone likewise
    checkpoint/     the result, whole or not there
    held_out.parquet   the photos that nothing is fitted to (`training.photos.held_out`), written when the run begins
    .lock           held by the one process that trains

A second start with the same options and inputs goes on where the first one ended, another is refused by name.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from indexer.disk.artifact import check_target, write_file
from indexer.disk.lock import alone, is_held
from indexer.disk.manifest import code_version, package_versions
from indexer.errors import ArtifactError, InputError
from training.config import FitConfig

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
_PACKAGES = ("torch", "lightning", "transformers", "numpy")  # what weights come out of
# What may differ between two starts of one run, because it changes no result.
_FREE = frozenset({"data.workers", "data.memory_limit_gb", "trainer.accelerator", "trainer.log_every_n_steps", "out"})
_BY_DIGEST = frozenset({"hierarchy", "model.start_from"})  # options that an input's digest stands for, wherever it lies


class RunFolder:
    """A run's folder, new or to be gone on with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / CHECKPOINT  # the result
        # Lightning's own file of an unfinished run: a pickle that this machine wrote and nobody else reads.
        self.resume = path / "resume.ckpt"
        self.best = path / "best.ckpt"  # weights of the best epoch so far
        self.held_out = path / "held_out.parquet"
        self._run, self._config, self._lock = path / "run.json", path / "config.yaml", path / ".lock"
        self._busy = f"{path}: another process is training in this folder. Wait for it."

    def check(self) -> None:
        """Before anything is read: whether a run can be made, or gone on with, here.

        Raises:
            InputError: the run has ended, the folder holds other things, or it cannot be written.
        """
        if self.checkpoint.exists():
            raise InputError(f"{self.path}: this run has ended; its result is {self.checkpoint}. Choose another `out`.")
        # An unfinished run is gone on with; anything else in the way is refused.
        check_target(self.checkpoint if self._run.is_file() else self.path)

    def facts(self, hierarchy: Path, config: FitConfig, inputs: Mapping[str, str | None]) -> dict[str, Any]:
        """What makes a run, as `run.json` has it: options as a configuration file has them, inputs, versions."""
        return {
            "options": plain({"hierarchy": hierarchy, "out": self.path, **asdict(config)}),
            "inputs": dict(inputs),
            "made_by": {**code_version(), **package_versions(_PACKAGES)},
        }

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Before photos are read: whether what these facts make can go on here.

        Raises:
            InputError: the folder holds a run of other options or inputs, or another process trains in it.
            ArtifactError: what says so is damaged.
        """
        before = self._before(facts)
        if before is None:
            return
        code = [
            f"{name} {old}, now {new}"
            for name, old in before["made_by"].items()
            if (new := facts["made_by"].get(name)) != old
        ]
        if code:
            log.warning("%s: the run began under other code: %s", self.path, "; ".join(code))
        if is_held(self._lock):
            raise InputError(self._busy)

    @contextlib.contextmanager
    def begun(self, facts: Mapping[str, Any]) -> Iterator[None]:
        """Write what this run is, unless that is there, and keep other processes from training here.

        They are kept out for as long as the block runs; the death of this process frees the folder. Raises as
        `check_same`.
        """
        if self._before(facts) is None:
            write_file(self._run, json.dumps(facts, indent=2).encode())
        if not self._config.is_file():
            write_file(self._config, yaml.safe_dump(facts["options"], sort_keys=False).encode())
        with alone(self._lock, busy=self._busy):
            yield

    def _before(self, now: Mapping[str, Any]) -> dict[str, Any] | None:
        """The facts of the run that is here, which differ from those of now in nothing that counts; None: none is."""
        if not self._run.is_file():
            return None
        try:
            found = json.loads(self._run.read_text())
            before = {name: dict(found[name]) for name in ("options", "inputs", "made_by")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{self._run}: cannot be read ({error}). Remove the folder, or choose another `out`."
            ) from None
        for part, advice in (("options", "Give the same option"), ("inputs", "Bring the same input back")):
            old, new = _flat(before[part]), _flat(now[part])
            for name in old | new:
                if name not in _FREE | _BY_DIGEST and old.get(name) != new.get(name):
                    raise InputError(
                        f"{self.path}: its run began with {name} {old.get(name)}, this one has {new.get(name)}. "
                        f"{advice}, or choose another `out`."
                    )
        return before

    def next_log(self) -> str:
        """Name of the folder below `logs` for this start."""
        logs = self.path / "logs"
        return str(sum(1 for _ in logs.iterdir()) if logs.is_dir() else 0)

    def end(self) -> None:
        """Remove what only an unfinished run needs."""
        for file in (self.resume, self.best):
            file.unlink(missing_ok=True)


def plain(values: Any) -> Any:
    """Values as YAML and JSON can hold them: lists for tuples, text for paths."""
    return json.loads(json.dumps(values, default=str))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result
