"""What the progress line of a job says beside its stages: failures, and how busy the GPU is."""

from encoder.device import gpu_share
from indexer.job_folder import JobFolder


def job_remarks(folder: JobFolder) -> list[str]:
    """Short texts. Failures are those of shards that are done, whenever they were."""
    failed, share = sum(mark.rows - mark.ok for mark in list(folder.done.values())), gpu_share()
    return [f"{failed:,} failed", *([] if share is None else [f"GPU {share:.0%}"])]
