"""Photos that could not be used: counted by reason, the first of each kind shown at once, all on the progress line."""

import logging
from collections import Counter

import torch

from indexer.jobs.stages import Line

log = logging.getLogger(__name__)


class Failures(Counter[str]):
    """How many photos failed for each reason code."""

    def add(self, name: str, code: str, reason: str) -> None:
        """Count a photo; the first of its kind is shown: hours later is late to learn of a wrong folder."""
        if code not in self:
            log.warning("%s: %s, %s (more of this kind are only counted)", name, code, reason)
        self[code] += 1


def job_remarks(line: Line, known: int) -> list[str]:
    """What the progress line of a job says beside its stages: failures, and how busy the GPU is, where one knows.

    known: rows that failed in shards that were done before.
    """
    remarks = [f"{known + line.failed:,} failed"]
    if torch.cuda.is_available():
        try:
            remarks.append(f"GPU {torch.cuda.utilization()}%")
        except (ImportError, RuntimeError):  # the driver tells it through nvidia-ml-py, which may not be installed
            pass
    return remarks
