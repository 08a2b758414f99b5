"""Offline jobs: photos or their vectors in, a folder of Parquet answers out, every row exactly once."""

from pathlib import Path

from indexer.errors import InputError
from indexer.jobs.job_folder import check_job_target
from indexer.photos.shard_cut import WHOLE, JobPart
from search.runs.audit_log import log_request
from search.runs.local_run import run_here
from search.runs.run_report import RunReport
from search.runs.run_spec import RunConfig, RunSpec

DEFAULT_RUN = RunConfig()


def run(spec: RunSpec, out: str | Path, *, config: RunConfig = DEFAULT_RUN) -> RunReport:
    """Answer every photo in the folder `out`, or go on with what is missing there.

    Raises:
        InputError: spec and config do not go together; something cannot be had or read, or is not what it was; `out`
            holds other things or a job of other options or inputs, or cannot be written; or vectors do not fit the
            bundle.
        MissingBackend: `engine` is ray, which is not installed.
        WorkError: the disk is full, memory ran out, decoding processes died again and again, or shards were given up
            after several actors of a cluster were lost over them.
        Stopped: the process was asked to end; shards that are done are kept.
    """
    part, out = JobPart.parse(config.part), Path(out)
    if spec.album is not None and (part != WHOLE or config.engine != "local"):
        raise InputError("`album` goes with `engine` local and the whole job: photos of one album may lie in any part.")
    check_job_target(out)
    albums = spec.read_albums()
    named = {"registry": spec.registry, "version": spec.version, "crops": spec.crops, "out": out, **spec.search.given}
    log_request(config.audit_log, "run", photos=spec.photos or spec.features, **named)
    if config.engine == "ray":
        from search.runs.ray_run import run_on_ray  # an extra, asked for by those who use it

        return run_on_ray(spec, out, config)
    engine, source = spec.open(out)
    engine.check_k(config.top_k, name="top_k")
    return run_here(engine, source, out, config, albums=albums, owners=spec.read_owners(engine))
