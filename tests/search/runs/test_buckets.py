"""Photos in a bucket, answered from there: an S3 that runs here."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
import s3fs
from fsspec import AbstractFileSystem
from moto.server import ThreadedMotoServer

from tests.search.test_commands import search


@pytest.fixture(scope="module")
def bucket() -> Iterator[AbstractFileSystem]:
    """A file system with an empty bucket `photos`; processes started meanwhile find the store by the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "AKIAWHOEVER",
            "AWS_SECRET_ACCESS_KEY": "S3CRET",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem()
        system.mkdir("photos")
        yield system
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def run(world: Path, photos: str, out: Path, *more: object) -> int:
    common = ["--registry", world / "R", "--checkpoint", world / "C", "--out", out, "--batch-size", 2]
    return search("run", *common, "--photos", photos, *more)


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet", "bytes"])
def test_a_bucket_is_answered_as_a_folder_is(
    bucket: AbstractFileSystem, world: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{row}.png" for row in range(5)]
    home = f"photos/{kind}"
    for name in names:
        bucket.pipe(f"{home}/{name}", (world / name).read_bytes())
    source = f"s3://{home}"
    if kind != "folder":
        table = pyarrow.table({"photo": [*names, "absent.png"]})
        if kind == "bytes":
            images = [(world / name).read_bytes() for name in names]
            table = pyarrow.table({"photo": [*names, "absent.png"], "image": [*images, None]})
        source += "/table.csv" if kind == "csv" else "/table.parquet"
        content = io.BytesIO()
        if kind == "csv":
            content.write("\n".join(["photo", *table["photo"].to_pylist()]).encode())
        else:
            pyarrow.parquet.write_table(table, content)
        bucket.pipe(source.removeprefix("s3://"), content.getvalue())
    assert run(world, source, tmp_path / "O", "--shard-rows", 2) == 0
    here = world if kind == "folder" else tmp_path
    if kind != "folder":
        (tmp_path / "photos.csv").write_text("\n".join(["photo", *(str(world / name) for name in names), "absent"]))
        here = tmp_path / "photos.csv"
    assert run(world, str(here), tmp_path / "local", "--shard-rows", 2) == 0
    theirs, ours = (pyarrow.parquet.read_table(tmp_path / each).to_pydict() for each in ("O", "local"))
    assert theirs["status"] == ours["status"]
    assert theirs["s2_id"] == ours["s2_id"]
    assert theirs["score"] == ours["score"]
    printed = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in (tmp_path / "O").rglob("*") if path.is_file())
    assert "S3CRET" not in printed.out + printed.err
    assert b"S3CRET" not in written


def test_a_bucket_that_is_not_there_is_said_so(
    bucket: AbstractFileSystem, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world, "s3://nowhere/photos.csv", tmp_path / "O") == 2
    assert "s3://nowhere/photos.csv" in capsys.readouterr().err
    assert not (tmp_path / "O").exists()
