"""A job's folder: every shard once, whatever dies, and what is there is always whole."""

import json
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.disk.manifest import FileEntry, file_digest, read_manifest
from indexer.errors import ArtifactError, InputError, WorkError
from indexer.jobs.job_folder import (
    Job,
    Mark,
    check_ended,
    check_job_target,
    is_running,
    names_digest,
    open_job,
    part_name,
    read_job,
    read_marks,
    totals_of,
)
from tests.kills import KILLED, Forks

JOB = Job("rows", 1, {"size": 3, "limits": {"schemes": ("file", "s3")}}, {"photos": "a" * 64, "maps": None})
N = 3  # shards
ROWS = 4  # in each


def shard(number: int, *, rows: int = ROWS) -> pa.Table:
    """Some rows; the second of each shard failed."""
    status = ["missing" if row == 1 else "ok" for row in range(rows)]
    reason = ["there is no such file" if row == 1 else "" for row in range(rows)]
    names = [f"{number}-{row}" for row in range(rows)]
    return pa.table({"photo": names, "shard": [number] * rows, "status": status, "reason": reason})


def do(
    path: Path, *, job: Job = JOB, n: int = N, at_most: int = N, make: Callable[[int], pa.Table] = shard
) -> list[int]:
    """Start the job: do so many of the shards that are missing; which ones they were. It ends when none is left."""
    with open_job(path, job) as folder:
        missing = [number for number in range(n) if number not in folder.done]
        for number in missing[:at_most]:
            folder.add(number, make(number), first_row=number * ROWS)
        if len(missing) <= at_most:
            folder.finish({"width": 7})
    return missing[:at_most]


def files(path: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder but the lock: which file it is, and when it was written."""
    found = (file for file in path.rglob("*") if file.is_file() and file.name != "_lock")
    return {str(file.relative_to(path)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in found}


def seen(path: Path) -> list[str]:
    """The photos that readers of Parquet see, which must agree on it."""
    found = pa.dataset.dataset(path, format="parquet")
    names = found.to_table(columns=["photo"])["photo"].to_pylist() if found.files else []
    for pattern in ("*.parquet", "**/*.parquet"):
        if names:
            query = f"select photo from read_parquet('{path}/{pattern}') order by photo"
            assert duckdb.sql(query).fetchall() == [(name,) for name in sorted(names)]
        else:
            assert not list(path.glob(pattern))
    return names


def expected(shards: Sequence[int]) -> list[str]:
    return [name for number in shards for name in shard(number)["photo"].to_pylist()]


def check_whole(path: Path) -> None:
    """What is there is whole shards, and what is marked is there as it was written."""
    names = seen(path) if path.is_dir() else []
    assert names == expected(sorted({int(name.partition("-")[0]) for name in names}))
    for number, mark in read_marks(path).items():
        assert file_digest(path / part_name(number)) == mark.sha256


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "O"
    assert do(path) == [0, 1, 2]
    return path


def check_done(path: Path, undisturbed: Path) -> None:
    """The same as if nothing had happened, and nothing is left of what did."""
    assert {name for name in files(path) if "_status" not in name} == set(files(undisturbed))
    for file in (undisturbed / "_manifest.json", undisturbed / "_job.json", *undisturbed.glob("part-*")):
        assert (path / file.name).read_bytes() == file.read_bytes()
    ended = {number: replace(mark, ended_at=0.0) for number, mark in read_marks(path).items()}
    assert ended == {number: replace(mark, ended_at=0.0) for number, mark in read_marks(undisturbed).items()}
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_rows_marks_and_manifest_agree(undisturbed: Path) -> None:
    assert seen(undisturbed) == expected(range(N))
    manifest = read_manifest(undisturbed, kind="rows", schema_version=1, name="_manifest.json")
    assert manifest.facts == {"rows": 12, "ok": 9, "failed": {"missing": 3}, "width": 7}
    assert manifest.config == {"size": 3, "limits": {"schemes": ["file", "s3"]}}
    assert manifest.inputs == JOB.inputs
    marks = read_marks(undisturbed)
    assert sorted(marks) == [0, 1, 2]
    for number, mark in marks.items():
        part = undisturbed / part_name(number)
        assert manifest.files[part.name] == FileEntry(file_digest(part), part.stat().st_size)
        assert (mark.sha256, mark.size_bytes) == (file_digest(part), part.stat().st_size)
        assert (mark.shard, mark.first_row, mark.rows, mark.ok) == (number, 4 * number, 4, 3)
        assert mark.failed == {"missing": 1}
        assert mark.examples == {"missing": [f"{number}-1", "there is no such file"]}
        assert mark.names == names_digest(expected([number]))


def test_a_second_start_does_what_is_missing_and_rewrites_nothing(tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "O"
    assert do(out, at_most=2) == [0, 1]
    before = files(out)
    assert do(out) == [2]
    after = files(out)
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"part-00002.parquet", "_done/00002.json", "_manifest.json"}
    for _ in range(2):  # the job has ended
        assert do(out) == []
        assert files(out) == after
    check_done(out, undisturbed)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2), max_size=6))
def test_the_manifest_does_not_depend_on_how_often_a_job_was_started(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: Path, starts: list[int]
) -> None:
    out = tmp_path_factory.mktemp("job") / "O"
    for at_most in starts:
        do(out, at_most=at_most)
    do(out)
    check_done(out, undisturbed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"options": JOB.options | {"size": 4}}, "the option size 3, this one has 4"),
        ({"options": JOB.options | {"new": True}}, "the option new None, this one has True"),
        ({"options": {"size": 3}}, r"the option limits .*'s3'.* this one has None"),
        ({"inputs": JOB.inputs | {"maps": "b" * 64}}, "the input maps None, this one has bbbb"),
        ({"inputs": {"photos": "a" * 64, "bundle": "c"}}, "the input bundle None, this one has c"),
        ({"kind": "features"}, "holds rows, not features"),
    ],
)
def test_another_job_is_refused_and_the_difference_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    do(tmp_path / "O", at_most=1)
    before = files(tmp_path / "O")
    with pytest.raises(InputError, match=message):
        do(tmp_path / "O", job=replace(JOB, **changed))
    assert files(tmp_path / "O") == before
    assert not is_running(tmp_path / "O")


def test_a_start_that_was_refused_before_its_first_shard_claims_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vectors of another width"), open_job(tmp_path / "O", JOB):
        raise InputError("vectors of another width")
    other = replace(JOB, options={**JOB.options, "shard_rows": 99})
    assert do(tmp_path / "O", job=other) == [0, 1, 2]
    begun = read_job(tmp_path / "O")
    assert begun is not None
    assert begun.options["shard_rows"] == 99


def test_files_that_are_no_shards_are_left_alone(tmp_path: Path) -> None:
    do(tmp_path / "O", at_most=1)
    for name in ("part-mine.parquet", "part-1.parquet"):
        (tmp_path / "O" / name).write_text("mine")
    do(tmp_path / "O")
    assert (tmp_path / "O" / "part-mine.parquet").read_text() == "mine"
    assert (tmp_path / "O" / "part-1.parquet").read_text() == "mine"


def test_a_job_says_what_it_began_as(tmp_path: Path) -> None:
    assert read_job(tmp_path / "O") is None
    do(tmp_path / "O", at_most=0)
    assert read_job(tmp_path / "O") == Job(**json.loads(json.dumps(asdict(JOB))))


def hold(path: str) -> None:
    with open_job(Path(path), JOB) as folder:
        folder.add(0, shard(0), first_row=0)
        (Path(path).parent / "holds it").touch()
        time.sleep(60)


def test_one_process_at_a_time_and_death_frees_the_folder(started: Forks, tmp_path: Path, undisturbed: Path) -> None:
    out, ready = tmp_path / "O", tmp_path / "holds it"
    assert not is_running(out)
    process = started.start("hold", out)
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    ready.unlink()
    assert is_running(out)
    before = files(out)
    with pytest.raises(InputError, match="another process is writing to it"):
        do(out)
    assert files(out) == before
    os.kill(process, signal.SIGKILL)
    assert started.end() == KILLED
    assert not is_running(out)
    assert do(out) == [1, 2]
    check_done(out, undisturbed)


GOOD = {"shard": 1, "first_row": 4, "rows": 4, "ok": 3, "failed": {"missing": 1}, "examples": {}, "names": "n"}
GOOD |= {"sha256": "s", "size_bytes": 5, "ended_at": 0.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps(GOOD | {"rows": 5}).encode(),
        json.dumps(GOOD | {"shard": 2}).encode(),
        json.dumps(GOOD | {"failed": None}).encode(),
        json.dumps(GOOD | {"failed": {"missing": "1"}}).encode(),
        json.dumps(GOOD | {"more": 1}).encode(),
    ],
)
def test_a_damaged_mark_is_named_and_removing_it_helps(tmp_path: Path, undisturbed: Path, content: bytes) -> None:
    do(tmp_path / "O")
    mark = tmp_path / "O" / "_done" / "00001.json"
    mark.write_bytes(content)
    for act in (read_marks, do):
        with pytest.raises(ArtifactError, match=r"_done/00001\.json: damaged mark .*Remove it; its shard is then done"):
            act(tmp_path / "O")
    mark.unlink()
    assert do(tmp_path / "O") == [1]
    check_done(tmp_path / "O", undisturbed)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"kind": "rows", "schema_version": 1, "options": "x"}'])
def test_a_damaged_job_is_named(tmp_path: Path, content: bytes) -> None:
    do(tmp_path / "O", at_most=1)
    (tmp_path / "O" / "_job.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"_job\.json: damaged .*choose another `out`"):
        do(tmp_path / "O")


def test_names_that_are_no_marks_are_passed_over(tmp_path: Path) -> None:
    do(tmp_path / "O")
    for name in ("notes.json", "00001.json.new", "1.json"):
        (tmp_path / "O" / "_done" / name).write_text("no mark")
    assert sorted(read_marks(tmp_path / "O")) == [0, 1, 2]


def cut(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-1])


def unmark(part: Path) -> None:
    (part.parent / "_done" / f"{part.stem.removeprefix('part-')}.json").unlink()


@pytest.mark.parametrize("lose", [Path.unlink, cut, unmark, lambda part: (unmark(part), part.unlink())])
def test_what_was_lost_is_done_again_and_the_manifest_with_it(
    tmp_path: Path, undisturbed: Path, lose: Callable[[Path], None]
) -> None:
    out = tmp_path / "O"
    do(out)
    before = files(out)
    lose(out / part_name(1))
    assert do(out, at_most=0) == []
    with pytest.raises(InputError, match="has not ended"):  # as long as it is not whole, nobody takes it for that
        check_ended(out)
    assert seen(out) == expected([0, 2])
    assert do(out) == [1]
    after = files(out)
    redone = {"part-00001.parquet", "_done/00001.json", "_manifest.json"}
    assert {name for name in before if before[name] != after[name]} == redone
    check_done(out, undisturbed)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"files": 5}'])
def test_a_damaged_manifest_is_written_again(tmp_path: Path, undisturbed: Path, content: bytes) -> None:
    do(tmp_path / "O")
    (tmp_path / "O" / "_manifest.json").write_bytes(content)
    assert do(tmp_path / "O") == []
    check_done(tmp_path / "O", undisturbed)


def test_a_part_that_the_input_no_longer_reaches_is_not_left_to_readers(tmp_path: Path) -> None:
    """Rows without a mark, as a kill between the two leaves them; and then an input of fewer shards."""
    do(tmp_path / "O")
    unmark(tmp_path / "O" / part_name(2))
    do(tmp_path / "O", n=2)
    assert seen(tmp_path / "O") == expected([0, 1])


def test_a_job_that_goes_on_past_its_end_gets_a_new_manifest(tmp_path: Path) -> None:
    do(tmp_path / "O", n=2)
    assert do(tmp_path / "O", n=3) == [2]
    manifest = read_manifest(tmp_path / "O", kind="rows", schema_version=1, name="_manifest.json")
    assert (len(manifest.files), manifest.facts["rows"]) == (3, 12)


def test_a_job_of_which_there_is_a_part_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    do(tmp_path / "O", at_most=2)
    with pytest.raises(InputError, match=r"has not ended\. Run its command again"):
        check_ended(tmp_path / "O")
    do(tmp_path / "O")
    check_ended(tmp_path / "O")
    check_ended(tmp_path)  # no job at all


def mine(path: Path) -> None:
    path.mkdir()
    (path / "diary.txt").write_text("x")


def parts_of_others(path: Path) -> None:
    path.mkdir()
    pyarrow.parquet.write_table(pa.table({"photo": ["a"]}), path / part_name(0))


def lock_of_others(path: Path) -> None:
    mine(path)
    (path / "_lock").touch()


def marks_without_a_job(path: Path) -> None:
    do(path, at_most=1)
    (path / "_job.json").unlink()


@pytest.mark.parametrize(
    "make",
    [
        mine,
        parts_of_others,
        lock_of_others,
        marks_without_a_job,
        Path.touch,
        lambda path: (path / "folder").mkdir(parents=True),
        lambda path: path.symlink_to(path.parent / "nowhere"),
        lambda path: (path.parent / "file").touch() or path.symlink_to(path.parent / "file"),
    ],
)
def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "O")
    before = files(tmp_path)
    for act in (check_job_target, do):
        with pytest.raises(InputError, match=r"exists already|cannot be written"):
            act(tmp_path / "O")
    assert files(tmp_path) == before
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        check_job_target(tmp_path / "file" / "O")


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    check_job_target(tmp_path / "a" / "O")
    assert not list(tmp_path.iterdir())
    do(tmp_path / "O", at_most=1)
    before = files(tmp_path)
    check_job_target(tmp_path / "O")
    assert files(tmp_path) == before


def start(path: str) -> None:
    do(Path(path), n=2)


@pytest.fixture(scope="module")
def undisturbed_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards: what a third one changes is what the second one does."""
    path = tmp_path_factory.mktemp("undisturbed") / "O"
    start(str(path))
    return path


def test_a_kill_at_any_change_of_the_file_system_loses_nothing_that_was_done(
    started: Forks, tmp_path: Path, undisturbed_two: Path
) -> None:
    changes, status = 0, KILLED
    while status == KILLED:
        out = tmp_path / str(changes) / "O"
        out.parent.mkdir()
        status = started.run("start", out, changes=changes)
        check_whole(out)
        done = set(read_marks(out))
        assert started.run("start", out, changes=changes % 17) in (0, KILLED)
        check_whole(out)
        assert done <= set(read_marks(out))
        do(out, n=2)
        check_done(out, undisturbed_two)
        changes += 1
    assert status == 0
    assert changes > 50, "the changes of the file system were not counted"


def test_a_kill_at_any_change_while_a_lost_part_is_done_again(
    started: Forks, tmp_path: Path, undisturbed_two: Path
) -> None:
    changes, status = 0, KILLED
    while status == KILLED:
        out = tmp_path / str(changes) / "O"
        out.parent.mkdir()
        do(out, n=2)
        cut(out / part_name(1))
        status = started.run("start", out, changes=changes)
        if len(read_marks(out)) < 2:
            assert not (out / "_manifest.json").exists()  # which says that every shard is done
        do(out, n=2)
        check_done(out, undisturbed_two)
        changes += 1
    assert status == 0
    assert changes > 20, "the changes of the file system were not counted"


def fill_disk(path: str, limit_bytes: int) -> None:
    """No file may grow beyond the limit, which the system reports as it does a full disk (EFBIG for ENOSPC)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    sentence = r"O: no space left\. Shards that are done are kept; free some space and run again\.$"
    with pytest.raises(WorkError, match=sentence):
        do(Path(path), make=grown)


def grown(number: int) -> pa.Table:
    """Each shard needs more room than the one before it."""
    column = pa.array([bytes(range(256)) * 40 * number] * 4)
    return shard(number, rows=4).append_column("content", column)


def test_a_full_disk_is_one_sentence_and_keeps_what_is_done(started: Forks, tmp_path: Path) -> None:
    do(tmp_path / "whole" / "O", make=grown)
    sizes = [(tmp_path / "whole" / "O" / part_name(number)).stat().st_size for number in range(N)]
    limits = {0: 0, 100: 0, sizes[0] - 1: 0, sizes[0]: 1, sizes[1]: 2, sizes[2] - 1: 2}
    for limit_bytes, kept in limits.items():
        out = tmp_path / str(limit_bytes) / "O"
        assert started.run("fill_disk", out, limit_bytes) == 0, limit_bytes
        check_whole(out)
        assert len(read_marks(out)) == kept
        assert not list(out.parent.rglob("*.tmp-*"))
        assert do(out, make=grown) == list(range(kept, N))
        check_done(out, tmp_path / "whole" / "O")


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_names_have_one_digest_however_they_are_cut(one: list[str], other: list[str]) -> None:
    assert (names_digest(one) == names_digest(other)) == (one == other)


def test_names_with_halves_of_letters_have_a_digest() -> None:
    assert names_digest(["caf\udce9"]) != names_digest(["caf"])


@given(st.permutations(range(5)))
def test_totals_do_not_depend_on_the_order_of_marks(order: list[int]) -> None:
    reasons = ("missing", "empty", "missing", "damaged", "empty")
    marks = [
        Mark(number, number * 3, 3, 2, {code: 1}, {code: [f"photo {number}", "why"]}, "", "", 0, 0.0)
        for number, code in enumerate(reasons)
    ]
    totals = totals_of(iter([marks[number] for number in order]))
    assert (totals.rows, totals.ok) == (15, 10)
    assert list(totals.failed.items()) == [("damaged", 1), ("empty", 2), ("missing", 2)]
    assert {code: name for code, (name, _) in totals.examples.items()} == {
        "missing": "photo 0",
        "empty": "photo 1",
        "damaged": "photo 3",
    }


def test_a_failure_without_a_name_is_told_by_its_row(tmp_path: Path) -> None:
    table = pa.table({"photo": ["a", ""], "status": ["ok", "missing"], "reason": ["", "no name"]})
    with open_job(tmp_path / "O", JOB) as folder:
        mark = folder.add(2, table, first_row=20)
    assert mark.examples == {"missing": ["row 21", "no name"]}
