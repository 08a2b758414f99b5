"""What a look at a run before it begins has found: problems, remarks, and what the run will take."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from indexer.errors import GeoError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    subject: str  # what was looked at, as the configuration names it
    text: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take of each process's device, of time, and of the disk; arithmetic on what was tried."""

    train_photos: int
    validation_photos: int
    photos_at_once: int
    need_bytes: int
    have_bytes: int | None  # None where the device is not here
    step_s: float | None  # of one photo of a process; None where the device is not here
    read_s: float | None  # the same to decode it, by all its decoding processes; None where none could be decoded
    hours: float | None  # at most: all epochs, each with a validation, and the gallery
    disk_bytes: int


@dataclass(slots=True)
class CheckReport:
    """What a check found."""

    problems: list[Finding] = field(default_factory=list)  # which `fit` would end at, or learn less because of
    remarks: list[Finding] = field(default_factory=list)
    estimate: Estimate | None = None  # None where no batch could be tried

    def text(self) -> str:
        """All of it, for people."""
        wrong = (
            f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}" if self.problems else "no problem"
        )
        lines = [wrong, *(f"  {finding}" for finding in self.problems)]
        return "\n".join([*lines, *self._expected(), *(f"  (also {finding})" for finding in self.remarks)])

    def _expected(self) -> Iterator[str]:
        what = self.estimate
        if what is None:
            yield "  memory, time and disk are not known: no batch could be tried"
            return
        if what.train_photos or what.validation_photos:
            yield f"  {what.train_photos:,} photos to learn from, {what.validation_photos:,} to measure with"
        else:
            yield "  photos are not known: none could be looked at"
        has = "" if what.have_bytes is None else f", of {gigabytes(what.have_bytes)}"
        yield f"  memory of a process: {what.photos_at_once:,} photos at once, about {gigabytes(what.need_bytes)}{has}"
        if what.hours is None or what.step_s is None:
            yield "  time: not known, since the device or the photos are not here"
        else:
            read = "" if what.read_s is None else f", {1000 * what.read_s:.2f} ms to decode it"
            yield (
                f"  time: {1000 * what.step_s:.2f} ms a photo forward and backward{read}: at most {what.hours:.1f} h"
            )
        yield f"  disk: about {gigabytes(what.disk_bytes)}"

    @contextlib.contextmanager
    def of(self, subject: str) -> Iterator[None]:
        """Whatever cannot be had in the block is a problem of this subject, told once."""
        try:
            yield
        except (GeoError, OSError, torch.OutOfMemoryError) as error:
            self.add(subject, str(error))

    def add(self, subject: str, text: str) -> None:
        """Add a problem, unless the same was found already."""
        if text not in {finding.text for finding in self.problems}:
            self.problems.append(Finding(subject, text))

    def remark(self, subject: str, text: str) -> None:
        """Add what is worth knowing, and stops nothing."""
        self.remarks.append(Finding(subject, text))


def gigabytes(n_bytes: float) -> str:
    """Bytes for people."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
