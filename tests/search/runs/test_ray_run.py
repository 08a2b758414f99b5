"""The same answers from a cluster, here of one machine: begun by one engine, ended by the other, whatever dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from encoder.config import EncoderOptions, FeedOptions
from indexer.bundles.registry import Registry
from indexer.errors import GeoError, InputError, WorkError
from indexer.jobs.job_folder import read_job, read_marks
from indexer.jobs.stages import Line
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.runs.local_run import run_here
from search.runs.photo_vectors import VectorSource
from search.runs.run_spec import RunConfig, RunSpec
from search.runs.vectors import StoredVectors, VectorShard
from tests.kills import ONE_THREAD, ROOT
from tests.search.conftest import features
from tests.search.runs.test_job_kills import TERMINATED, marked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Deadly(StoredVectors):
    """Its vectors end the process that makes them, of some shards once and of others always."""

    once: dict[int, Path]
    always: set[int]

    def vectors(self, task: int, line: Line) -> Iterator[VectorShard]:
        marker = self.once.get(task)
        if task in self.always or (marker is not None and not marker.exists()):
            if marker is not None:
                marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().vectors(task, line)


@dataclass(frozen=True, kw_only=True)
class DeadlySpec(RunSpec):
    scratch: Path = Path()
    always: tuple[int, ...] = ()

    def open(self, out: Path) -> tuple[Engine, VectorSource]:
        engine, source = super().open(out)
        assert isinstance(source, StoredVectors)
        deadly = Deadly(engine, source._source, shard_rows=source.shard_rows)
        deadly.once = {shard: self.scratch / f"died-{shard}" for shard in (1, 3)}
        deadly.always = set(self.always)
        return engine, deadly


class Slow(StoredVectors):
    """Each of its shards takes a while."""

    def vectors(self, task: int, line: Line) -> Iterator[VectorShard]:
        time.sleep(0.7)
        return super().vectors(task, line)


@dataclass(frozen=True)
class SlowSpec(RunSpec):
    def open(self, out: Path) -> tuple[Engine, VectorSource]:
        engine, source = super().open(out)
        assert isinstance(source, StoredVectors)
        return engine, Slow(engine, source._source, shard_rows=source.shard_rows)


def of_photos(world: Path, **changes: Any) -> RunSpec:
    """Of the world's five photos, two in a shard."""
    photos, checkpoint = str(world / "photos.csv"), str(world / "C")
    feed = FeedOptions(batch_size=2, workers=changes.pop("workers", 0))
    encoder = EncoderOptions(precision="float32")
    common: dict[str, Any] = {"encoder": encoder, "shard_rows": 2, "feed": feed} | changes
    return RunSpec(registry=world / "R", photos=photos, checkpoint=checkpoint, **common)


@dataclass(frozen=True, kw_only=True)
class LocalSpec(RunSpec):
    """What it is made of is seen by the process that started the job, and by no other."""

    driver: int = 0

    def open(self, out: Path) -> tuple[Engine, VectorSource]:
        if os.getpid() != self.driver:
            raise InputError(f"{self.registry}: there is no registry.")
        return super().open(out)


def with_more_gpus_than_room(world: str, out: str) -> None:
    """A job from photos where there is an actor for each of two GPUs, and room for one of them."""
    from search.runs.ray_run import run_on_ray

    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    run_on_ray(of_photos(Path(world), workers=2), Path(out), RunConfig())


def slowly(registry: str, source: str, out: str) -> None:
    """A job in a process of its own, on a cluster that it starts; ends as a command does."""
    from search.runs.ray_run import run_on_ray

    spec = SlowSpec(registry=Path(registry), features=Path(source), shard_rows=7)
    try:
        run_on_ray(spec, Path(out), RunConfig(top_k=2))
    except GeoError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def child(work: str, *arguments: object) -> subprocess.Popen[str]:
    """A function of this module in a process of its own."""
    code = f"import sys; from {__name__} import {work}; {work}(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ONE_THREAD | {"PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return features(tmp_path_factory.mktemp("ray") / "F", [30, 17], bad={3, 30})


def local(spec: RunSpec, out: Path, *, top_k: int = 2) -> pa.Table:
    engine, vectors = spec.open(out)
    run_here(engine, vectors, out, RunConfig(top_k=top_k))
    return pyarrow.parquet.read_table(out)


def test_owners_are_left_out_on_a_cluster_as_here(cluster: None, owned: Path, tmp_path: Path) -> None:
    from search.runs.ray_run import run_on_ray

    spec = RunSpec(
        registry=owned / "R",
        features=owned / "F",
        shard_rows=7,
        owner_column="who",
        search=SearchOptions(gallery_photos=40),
    )
    report = run_on_ray(spec, tmp_path / "ray", RunConfig())
    engine, source = spec.open(tmp_path / "here")
    run_here(engine, source, tmp_path / "here", RunConfig(), owners=spec.read_owners(engine))
    assert report.options["owner_column"] == "who"
    assert pyarrow.parquet.read_table(tmp_path / "ray").equals(pyarrow.parquet.read_table(tmp_path / "here"))


def test_a_cluster_gives_the_same_rows_and_either_engine_goes_on_with_the_others_job(
    cluster: None, registry: Registry, source: Path, tmp_path: Path
) -> None:
    from search.runs.ray_run import run_on_ray

    spec = RunSpec(registry=registry.path, features=source, shard_rows=7)
    expected = local(spec, tmp_path / "local")
    report = run_on_ray(spec, tmp_path / "O", RunConfig(top_k=2))
    assert (report.rows, report.failed) == (47, {"truncated": 2})
    assert {stage.name: stage.rows for stage in report.stages} == {"read": 47, "search": 47, "write": 47}
    assert pyarrow.parquet.read_table(tmp_path / "O").equals(expected)

    for number in (0, 4):
        (tmp_path / "O" / "_done" / f"{number:05d}.json").unlink()
    (tmp_path / "O" / "_manifest.json").unlink()
    assert local(spec, tmp_path / "O").equals(expected)


def test_an_actor_that_is_lost_costs_only_time(cluster: None, registry: Registry, source: Path, tmp_path: Path) -> None:
    from search.runs.ray_run import run_on_ray

    spec = DeadlySpec(registry=registry.path, features=source, shard_rows=7, scratch=tmp_path)
    run_on_ray(spec, tmp_path / "O", RunConfig(top_k=2))
    assert {path.name for path in tmp_path.glob("died-*")} == {"died-1", "died-3"}
    plain = RunSpec(registry=registry.path, features=source, shard_rows=7)
    assert pyarrow.parquet.read_table(tmp_path / "O").equals(local(plain, tmp_path / "local"))


def test_a_shard_that_ends_actor_after_actor_is_given_up_and_the_others_are_done(
    cluster: None, registry: Registry, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.runs.ray_run import run_on_ray

    monkeypatch.setattr("search.runs.ray_run._RESTARTS", 1)  # each takes seconds; shards 1 and 3 take one each
    spec = DeadlySpec(registry=registry.path, features=source, shard_rows=7, scratch=tmp_path, always=(2,))
    with pytest.raises(WorkError, match="1 shards were given up, the first 2"):
        run_on_ray(spec, tmp_path / "O", RunConfig())
    assert set(read_marks(tmp_path / "O")) == {0, 1, 3, 4, 5, 6}


def test_errors_in_our_own_words_arrive_as_they_are(
    cluster: None, registry: Registry, source: Path, tmp_path: Path
) -> None:
    from search.runs.ray_run import run_on_ray

    spec = RunSpec(registry=registry.path, features=source, shard_rows=7)
    with pytest.raises(InputError, match="`top_k` must be"):
        run_on_ray(spec, tmp_path / "O", RunConfig(top_k=10**6))


def test_sigterm_finishes_the_shard_in_hand(cluster: None, registry: Registry, source: Path, tmp_path: Path) -> None:
    out, deadline = tmp_path / "O", time.monotonic() + 120
    with child("slowly", registry.path, source, out) as process:
        while not marked(out, 2)():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)  # into the third
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == TERMINATED, errors
    assert errors.endswith(
        f"error: {out}: stopped as asked, after a whole shard. Run the same command again to go on.\n"
    )
    assert set(read_marks(out)) == {0, 1, 2}
    assert len(list(out.glob("*.parquet"))) == 3

    from search.runs.ray_run import run_on_ray

    spec = RunSpec(registry=registry.path, features=source, shard_rows=7)
    run_on_ray(spec, out, RunConfig(top_k=2))
    assert pyarrow.parquet.read_table(out).equals(local(spec, tmp_path / "local"))


def test_an_actor_without_room_gets_no_shard(world: Path, tmp_path: Path) -> None:
    with child("with_more_gpus_than_room", world, tmp_path / "O") as process:
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert pyarrow.parquet.read_table(tmp_path / "O").equals(local(of_photos(world), tmp_path / "local", top_k=1))


def test_a_cluster_without_room_for_any_is_an_error_that_says_what_was_asked_for(
    cluster: None, registry: Registry, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.runs import ray_run

    @ray.remote(num_cpus=2)  # type: ignore[untyped-decorator]
    class Other:
        def ready(self) -> None: ...

    other = Other.remote()
    ray.get(other.ready.remote())
    monkeypatch.setattr(ray_run, "_READY_S", 2.0)
    spec = RunSpec(registry=registry.path, features=source, shard_rows=7)
    message = "1 were asked for, each with 1 CPUs and 0 GPUs on one node; the cluster has 2 CPUs and 0 GPUs on 1 nodes"
    with pytest.raises(WorkError, match=message):
        ray_run.run_on_ray(spec, tmp_path / "O", RunConfig())
    ray.kill(other)


def test_photos_on_as_many_actors_as_there_is_room_for_and_vectors_that_are_kept_stay(
    cluster: None, world: Path, tmp_path: Path
) -> None:
    from search.runs.ray_run import run_on_ray

    spec, config = of_photos(world), RunConfig(save_features=tmp_path / "F")
    report = run_on_ray(spec, tmp_path / "O", config)
    assert (report.rows, report.ok) == (5, 4)
    assert pyarrow.parquet.read_table(tmp_path / "O").equals(local(spec, tmp_path / "local", top_k=1))

    kept = {part.name: (part.stat().st_mtime_ns, part.stat().st_ino) for part in (tmp_path / "F").glob("*.parquet")}
    assert len(kept) == 3
    (tmp_path / "O" / "_done" / "00001.json").unlink()
    run_on_ray(spec, tmp_path / "O", config)
    assert kept == {
        part.name: (part.stat().st_mtime_ns, part.stat().st_ino) for part in (tmp_path / "F").glob("*.parquet")
    }
    assert pyarrow.parquet.read_table(tmp_path / "O").equals(pyarrow.parquet.read_table(tmp_path / "local"))


def test_relative_paths_are_those_of_the_command_wherever_the_cluster_was_started(
    cluster: None, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.runs.ray_run import run_on_ray

    here = Path(shutil.copytree(world, tmp_path / "W", symlinks=True))
    monkeypatch.chdir(here)
    north = [[-170, 30], [-60, 30], [60, 30], [170, 30], [170, 85], [60, 85], [-60, 85], [-170, 85], [-170, 30]]
    Path("north.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [north]}))
    spec = of_photos(Path(), search=SearchOptions(region="north.geojson"))
    expected = local(spec, Path("local"), top_k=1)
    assert min(lat for lat in expected["lat"].to_pylist() if lat is not None) > 0
    run_on_ray(spec, Path("O"), RunConfig(save_features=Path("F")))
    assert pyarrow.parquet.read_table("O").equals(expected)
    assert set(read_marks(here / "F")) == {0, 1, 2}
    assert read_job(here / "O").options["region"] == "north.geojson"


def test_an_actor_that_cannot_begin_is_an_error_that_says_why(
    cluster: None, registry: Registry, source: Path, tmp_path: Path
) -> None:
    from search.runs.ray_run import run_on_ray

    spec = LocalSpec(registry=registry.path, features=source, shard_rows=7, driver=os.getpid())
    with pytest.raises(WorkError, match=f"could not begin on .*: {registry.path}: there is no registry"):
        run_on_ray(spec, tmp_path / "O", RunConfig())
    assert not read_marks(tmp_path / "O")
