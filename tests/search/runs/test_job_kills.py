"""Runs that are killed, stopped or lose a worker: no row lost, none double, and what comes out is what would have."""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

# What the commands import when they run, so that forks find it imported.
import encoder.embedding  # noqa: F401
import search.pages.pictures
import search.runs.job
import search.runs.photo_vectors  # noqa: F401
from encoder.__main__ import COMMANDS as ENCODER
from indexer.bundles.bundle import build_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from indexer.jobs.job_folder import JobFolder, Mark, part_name, read_job, read_marks
from search.__main__ import COMMANDS
from tests.conftest import random_geocells
from tests.kills import KILLED, ONE_THREAD, ROOT, Forks, die_after, kill_when
from tests.photo_files import jpeg, picture
from tests.search.conftest import WIDTH

TERMINATED = 128 + signal.SIGTERM


def search_(*arguments: str) -> None:
    """A command, in a fork; its exit code is the fork's."""
    os._exit(main("search", "", COMMANDS, argv=arguments))


def encoder_(*arguments: str) -> None:
    os._exit(main("encoder", "", ENCODER, argv=arguments))


def _at_shard(count: int, act: Callable[[], None]) -> None:
    """Do something in the middle of a run: when so many shards are about to be written."""
    add, left = JobFolder.add, [count]

    def acting(folder: JobFolder, number: int, table: pa.Table, *, first_row: int) -> Mark:
        left[0] -= 1
        if not left[0]:
            act()
        return add(folder, number, table, first_row=first_row)

    JobFolder.add = acting  # type: ignore[method-assign]


def dying(shard: int, changes: int, *arguments: str) -> None:
    """A command that is killed so many changes of the file system after it began to write its n-th shard.

    Counted from there: how many changes it takes to start depends on what was imported before.
    """
    _at_shard(shard, lambda: die_after(changes))
    {"run": search_, "embed": encoder_}[arguments[0]](*arguments)


def publishing(version: str, *arguments: str) -> None:
    """A run while which a version is published."""
    registry = arguments[arguments.index("--registry") + 1]
    _at_shard(3, lambda: print(Registry(Path(registry)).publish(version)))  # noqa: T201
    search_(*arguments)


def losing_a_worker(*arguments: str) -> None:
    """A run one of whose decoding processes is killed."""
    _at_shard(3, lambda: os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL))
    search_(*arguments)


def keeping_errors(file: str, *arguments: str) -> None:
    """A run whose errors are kept."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main("search", "", COMMANDS, argv=arguments)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Path(file).write_text(errors.getvalue())
    os._exit(status)


def on_a_full_disk(limit_bytes: int, file: str, *arguments: str) -> None:
    """No file may grow beyond the limit, which the system reports as it does a full disk (EFBIG for ENOSPC)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    keeping_errors(file, *arguments)


def sent_sigterm(file: str, *arguments: str) -> None:
    """A run that is sent SIGTERM while it writes its third shard."""
    _at_shard(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    keeping_errors(file, *arguments)


def write_photos(folder: Path, n: int) -> Path:
    """A table of small photos, some of them twice, some no image, some absent."""
    folder.mkdir()
    images = [jpeg(picture(seed, 24)) for seed in range(20)]
    lines = ["photo,lat,lng"]
    for row in range(n):
        name = f"{row:05d}.jpg"
        if row % 23 == 5:
            (folder / name).write_text("no image")
        elif row % 29 == 7:
            name = "absent.jpg"
        elif row % 31 == 8:
            name = "00000.jpg"
        else:
            (folder / name).write_bytes(images[row % len(images)])
        lines.append(f"{name},{row % 90},{-row % 90}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return folder / "photos.csv"


def manifest(folder: Path) -> dict[str, Any]:
    """Without the version of the code, whose commit says whether somebody works on it."""
    found: dict[str, Any] = json.loads((folder / "_manifest.json").read_text())
    del found["made_by"]
    return found


@dataclass(frozen=True)
class Runs:
    """Runs over the same photos with the same options."""

    world: Path
    photos: Path
    n: int
    shard_rows: int
    whole: Path  # of a run that nothing happened to

    @property
    def shards(self) -> int:
        return -(-self.n // self.shard_rows)

    def arguments(self, out: Path, *more: object, workers: int = 0) -> list[str]:
        common = ("--registry", self.world / "R", "--checkpoint", self.world / "C", "--photos", self.photos)
        cut = ("--shard-rows", self.shard_rows, "--batch-size", 8, "--device", "cpu", "--precision", "float32")
        return [*map(str, ("run", *common, *cut, "--workers", workers, "--out", out, *more))]

    def check_whole_shards(self, out: Path) -> set[int]:
        """Rows that are there are those of whole shards, each once, as they should be; returns which are marked."""
        files = {file.name for file in out.glob("*.parquet")}
        rows = pyarrow.parquet.read_table(out) if files else None
        marks = read_marks(out)
        assert {part_name(number) for number in marks} <= files
        for name in files:
            assert (out / name).read_bytes() == (self.whole / name).read_bytes()
        assert rows is None or len(set(rows["row"].to_pylist())) == rows.num_rows
        return set(marks)

    def check_done(self, out: Path) -> None:
        """All rows in, all rows out, the same bytes, and nothing left over."""
        assert self.check_whole_shards(out) == set(range(self.shards))
        table, whole = (pyarrow.parquet.read_table(folder) for folder in (out, self.whole))
        assert table["row"].to_pylist() == list(range(self.n))
        assert table.equals(whole)
        assert manifest(out) == manifest(self.whole)
        report = json.loads((out / "_report.json").read_text())
        assert report["rows"] == report["ok"] + sum(report["failed"].values()) == self.n
        assert {path.name for path in out.iterdir()} == {path.name for path in self.whole.iterdir()}


def runs_over(n: int, *, shard_rows: int, world: Path, home: Path, started: Forks) -> Runs:
    runs = Runs(world, write_photos(home / "P", n), n, shard_rows, home / "whole")
    assert started.run("search_", *runs.arguments(runs.whole)) == 0
    return runs


@pytest.fixture(scope="module")
def runs(encoder_world: Path, started: Forks, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    home = tmp_path_factory.mktemp("runs")
    return runs_over(200, shard_rows=16, world=encoder_world, home=home, started=started)


def test_an_undisturbed_run_has_every_row(runs: Runs) -> None:
    runs.check_done(runs.whole)
    rows = pyarrow.parquet.read_table(runs.whole)
    names = [line.partition(",")[0] for line in runs.photos.read_text().splitlines()[1:]]
    assert rows["photo"].to_pylist() == names
    status = rows["status"].to_pylist()
    assert [row for row, code in enumerate(status) if code == "not_an_image"] == list(range(5, 200, 23))
    assert {code for row, code in enumerate(status) if names[row] == "absent.jpg"} == {"missing"}
    report = json.loads((runs.whole / "_report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["decode", "encode", "search", "write"]
    assert {stage["rows"] for stage in report["stages"]} == {200}


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    runs: Runs, started: Forks, tmp_path: Path
) -> None:
    out, done = tmp_path / "O", set[int]()
    for changes in np.random.default_rng(0).integers(0, 15, 5).tolist():
        assert started.run("dying", 2, changes, *runs.arguments(out)) == KILLED
        now = runs.check_whole_shards(out)
        assert done <= now  # progress is kept
        done = now
    assert 0 < len(done) < runs.shards
    before = {number: (out / part_name(number)).stat() for number in done}
    assert started.run("search_", *runs.arguments(out)) == 0
    runs.check_done(out)
    assert before == {number: (out / part_name(number)).stat() for number in done}  # not touched again
    assert json.loads((out / "_report.json").read_text())["rows_known"] == 16 * len(done)
    assert [path.name for path in tmp_path.iterdir()] == ["O"]


def marked(out: Path, n: int) -> Callable[[], bool]:
    return lambda: len(list((out / "_done").glob("*.json"))) >= n


def command(arguments: list[str]) -> subprocess.Popen[str]:
    """The command as a person gives it, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "search", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ONE_THREAD,
        start_new_session=True,
    )


def test_sigterm_finishes_the_shard_in_hand(runs: Runs, started: Forks, tmp_path: Path) -> None:
    out, errors = tmp_path / "O", tmp_path / "errors.txt"
    assert started.run("sent_sigterm", errors, *runs.arguments(out)) == TERMINATED
    assert errors.read_text().endswith(
        f"error: {out}: stopped as asked, after a whole shard. Run the same command again to go on.\n"
    )
    assert "Traceback" not in errors.read_text()
    assert runs.check_whole_shards(out) == {0, 1, 2}
    assert started.run("search_", *runs.arguments(out)) == 0
    runs.check_done(out)


def with_another_bundle(runs: Runs, hierarchy: Hierarchy, hierarchy_folder: Path, home: Path) -> tuple[Registry, str]:
    """A copy of the registry with one more version, that is not published, and its name."""
    registry = Registry(Path(shutil.copytree(runs.world / "R", home / "R", symlinks=True)))
    encoder = registry.resolve() and read_job(runs.whole).inputs["encoder"]
    geocells = random_geocells(hierarchy, WIDTH, seed=1, encoder=encoder)
    return registry, build_bundle(hierarchy_folder, geocells, registry.versions_folder, config={}, inputs={}).name


@pytest.mark.parametrize("when", ["while it runs", "between two starts"])
def test_a_run_keeps_the_bundle_it_began_with(
    runs: Runs, started: Forks, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path, when: str
) -> None:
    registry, other = with_another_bundle(runs, hierarchy, hierarchy_folder, tmp_path)
    first, out = registry.current, tmp_path / "O"
    arguments = [str(registry.path) if each == str(runs.world / "R") else each for each in runs.arguments(out)]
    if when == "while it runs":
        assert started.run("publishing", other, *arguments) == 0
    else:
        assert started.run("dying", 4, 5, *arguments) == KILLED
        assert 0 < len(runs.check_whole_shards(out)) < runs.shards
        registry.publish(other)
        assert started.run("search_", *arguments) == 0
    assert registry.current == other
    runs.check_done(out)
    assert manifest(out)["facts"]["bundle"] == first
    if when == "while it runs":
        return
    # A new job takes the new one; the old one is refused it by name.
    assert started.run("search_", *arguments, "--version", other) == 2
    arguments[arguments.index("--out") + 1] = str(tmp_path / "new")
    assert started.run("search_", *arguments) == 0
    assert manifest(tmp_path / "new")["facts"]["bundle"] == other


def test_a_decoding_process_that_dies_costs_no_row(runs: Runs, started: Forks, tmp_path: Path) -> None:
    assert started.run("losing_a_worker", *runs.arguments(tmp_path / "O", workers=2)) == 0
    runs.check_done(tmp_path / "O")


def test_parts_are_the_whole_together(runs: Runs, started: Forks, tmp_path: Path) -> None:
    for number in (1, 2):
        assert started.run("search_", *runs.arguments(tmp_path / f"O{number}", "--part", f"{number}/2")) == 0
    one, two = (pyarrow.parquet.read_table(tmp_path / name) for name in ("O1", "O2"))
    assert (one.num_rows, two.num_rows) == (7 * 16 - 8, 6 * 16)
    assert pa.concat_tables([one, two]).sort_by("row").equals(pyarrow.parquet.read_table(runs.whole))
    for out in (tmp_path / "O1", tmp_path / "O2"):
        for part in out.glob("*.parquet"):
            assert part.read_bytes() == (runs.whole / part.name).read_bytes()
    # A part is no place for another one.
    assert started.run("search_", *runs.arguments(tmp_path / "O1", "--part", "2/2")) == 2


@pytest.fixture(scope="module")
def expected(runs: Runs, started: Forks) -> Path:
    """Features of the same photos, that nothing happened to."""
    out = runs.photos.parent.with_name("F")
    assert started.run("encoder_", "embed", *runs.arguments(out)[3:]) == 0  # without `run --registry R`
    return out


def check_features(folder: Path, expected: Path) -> None:
    """The same rows, bytes and manifest."""
    one, other = ({file.name: file.read_bytes() for file in each.glob("*.parquet")} for each in (folder, expected))
    assert one == other
    assert manifest(folder) == manifest(expected)


def test_features_on_the_way_are_those_of_embed_whatever_dies(
    runs: Runs, expected: Path, started: Forks, tmp_path: Path
) -> None:
    out, features = tmp_path / "O", tmp_path / "F"
    arguments = runs.arguments(out, "--save-features", features)
    for changes in (0, 7, 20):
        assert started.run("dying", 3, changes, *arguments) == KILLED
        assert runs.check_whole_shards(out) <= set(read_marks(features))  # vectors are kept before their answers
    assert started.run("search_", *arguments) == 0
    runs.check_done(out)
    check_features(features, expected)
    # Their answers are those of the photos.
    arguments = [
        "run",
        "--registry",
        str(runs.world / "R"),
        "--features",
        str(features),
        "--out",
        str(tmp_path / "again"),
    ]
    assert started.run("search_", *arguments, "--shard-rows", "16") == 0
    again, whole = (pyarrow.parquet.read_table(folder) for folder in (tmp_path / "again", runs.whole))
    assert again.equals(whole)


def test_embedding_that_is_killed_ends_as_if_it_had_not_been(
    runs: Runs, expected: Path, started: Forks, tmp_path: Path
) -> None:
    arguments = ["embed", *runs.arguments(tmp_path / "F")[3:]]
    for changes in (0, 7, 14):
        assert started.run("dying", 2, changes, *arguments) == KILLED
    assert read_marks(tmp_path / "F")
    assert started.run("encoder_", *arguments) == 0
    check_features(tmp_path / "F", expected)


def test_features_that_were_lost_or_not_wanted_are_made_and_answers_stay(
    runs: Runs, expected: Path, started: Forks, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(runs.whole, tmp_path / "O"))
    before = {part.name: part.stat() for part in out.glob("*.parquet")}
    assert started.run("search_", *runs.arguments(out, "--save-features", tmp_path / "F")) == 0
    check_features(tmp_path / "F", expected)
    for part in (3, 5):
        (tmp_path / "F" / part_name(part)).unlink()
    assert started.run("search_", *runs.arguments(out, "--save-features", tmp_path / "F")) == 0
    check_features(tmp_path / "F", expected)
    assert before == {part.name: part.stat() for part in out.glob("*.parquet")}
    runs.check_done(out)


@pytest.mark.parametrize("where", ["O", "O/F", "."])
def test_features_are_not_kept_where_readers_of_answers_would_find_them(
    runs: Runs, started: Forks, tmp_path: Path, where: str
) -> None:
    assert started.run("search_", *runs.arguments(tmp_path / "O", "--save-features", tmp_path / where)) == 2
    assert not list(tmp_path.iterdir())


def test_another_input_is_refused(runs: Runs, started: Forks, tmp_path: Path) -> None:
    """A folder has no digest: its names are compared."""
    photos = Path(shutil.copytree(runs.photos.parent, tmp_path / "P"))
    (photos / "photos.csv").unlink()
    out = tmp_path / "O"
    arguments = [str(photos) if each == str(runs.photos) else each for each in runs.arguments(out)]
    assert started.run("dying", 4, 5, *arguments) == KILLED
    done = read_marks(out)
    assert done
    first = sorted(photos.iterdir())[0]
    first.rename(photos / "a.jpg")
    assert started.run("search_", *arguments) == 2
    assert read_marks(out) == done
    (photos / "a.jpg").rename(first)
    assert started.run("search_", *arguments) == 0
    assert pyarrow.parquet.read_table(out).num_rows == len(list(photos.iterdir()))


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(runs: Runs, started: Forks, tmp_path: Path) -> None:
    size = (runs.whole / part_name(0)).stat().st_size
    out, errors = tmp_path / "O", tmp_path / "errors.txt"
    for limit_bytes, message in ((0, "no space left. Shards"), (size // 2, "no space left. Shards that are done")):
        assert started.run("on_a_full_disk", limit_bytes, errors, *runs.arguments(out)) == 1
        assert message in errors.read_text()
        assert "Traceback" not in errors.read_text()
        assert not runs.check_whole_shards(out)
    # There is room for rows, and none for the picture in the report.
    largest = max(part.stat().st_size for part in runs.whole.glob("*.parquet"))
    assert largest < (runs.whole / "_report.html").stat().st_size
    assert started.run("on_a_full_disk", largest, errors, *runs.arguments(out)) == 1
    assert "Every row is kept, only the report is missing" in errors.read_text()
    assert runs.check_whole_shards(out) == set(range(runs.shards))
    assert started.run("search_", *runs.arguments(out)) == 0
    assert pyarrow.parquet.read_table(out).equals(pyarrow.parquet.read_table(runs.whole))


@pytest.fixture(scope="module")
def many_runs(encoder_world: Path, started: Forks, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    home = tmp_path_factory.mktemp("many")
    return runs_over(5000, shard_rows=25, world=encoder_world, home=home, started=started)


def sooner(moment: float, ready: Callable[[], bool]) -> Callable[[], bool]:
    """Whether a moment of the monotonic clock has come, or something is true."""
    return lambda: time.monotonic() > moment or ready()


@pytest.mark.slow
@pytest.mark.timeout(3600)  # machines are busy
def test_thirty_kills_over_five_thousand_photos(many_runs: Runs, started: Forks, tmp_path: Path) -> None:
    """SIGKILL at moments nobody chose: of commands as a person gives them while they start, of forks later."""
    runs, out, done, rng = many_runs, tmp_path / "O", set[int](), np.random.default_rng(0)
    for kill in range(32):
        # Moments are counted in shards, so that 32 kills end before the work does, however fast a machine is.
        enough, delay_s = marked(out, len(done) + int(rng.integers(1, 6))), rng.uniform(0, 0.05)
        if kill % 5 == 4:  # while it starts, or soon after
            with command(runs.arguments(out, workers=2)) as process:
                ready = sooner(time.monotonic() + rng.uniform(0, 4.0), enough)
                ended = not kill_when(process, ready, delay_s=delay_s)
        else:
            fork, deadline = started.start("search_", *runs.arguments(out, workers=2)), time.monotonic() + 120
            while not enough():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(delay_s)
            os.kill(fork, signal.SIGKILL)
            ended = started.end() != KILLED
        assert not ended, f"kill {kill}: it had ended"
        now = runs.check_whole_shards(out)
        assert done <= now  # progress is kept
        done = now
    assert 50 < len(done) < runs.shards
    with command(runs.arguments(out, workers=2)) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    runs.check_done(out)


@pytest.mark.slow
def test_sigterm_to_every_process_of_a_run(many_runs: Runs, started: Forks, tmp_path: Path) -> None:
    """As Slurm sends it: decoding processes end of it, and the shard in hand does not."""
    out, deadline = tmp_path / "O", time.monotonic() + 120
    with command(many_runs.arguments(out, workers=2)) as process:
        while not marked(out, 2)():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == TERMINATED, errors
    assert output == ""
    assert f"error: {out}: stopped as asked, after a whole shard. Run the same command again to go on." in errors
    assert "Traceback" not in errors
    done = many_runs.check_whole_shards(out)
    assert 2 <= len(done) < many_runs.shards
    assert len(list(out.glob("*.parquet"))) == len(done)
    assert started.run("search_", *many_runs.arguments(out)) == 0
    many_runs.check_done(out)
