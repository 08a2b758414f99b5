"""What the progress line of a job says beside its stages: failures, and how busy the GPU is."""

from encoder.device import gpu_share
from indexer.jobs.stages import Line


def job_remarks(line: Line, known: int) -> list[str]:
    """Short texts; known: rows that failed in shards that were done before."""
    share = gpu_share()
    return [f"{known + line.failed:,} failed", *([] if share is None else [f"GPU {share:.0%}"])]
