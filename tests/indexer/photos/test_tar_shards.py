"""Tar shards: which photos they hold, what is passed over and said, and what damage leaves."""

import io
import json
import logging
import math
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError, ShardsMissing
from indexer.photos.photo import FileRange, Photo
from indexer.photos.sources import open_photos
from indexer.photos.tar_shards import expand_braces
from indexer.photos.uris import SCHEMES
from tests.web import served

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
ANYWHERE = (*SCHEMES, "memory", "http")


def packed(files: dict[str, bytes] | list[tuple[str, bytes]], kind: str = "pax") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[kind]) as tar:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def shard(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], kind: str = "pax") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(files, kind))
    return path


def content(data: FileRange | bytes | None) -> bytes:
    if isinstance(data, FileRange):
        return Path(data.uri).read_bytes()[data.offset : data.offset + (data.size or 0)]
    return data or b""


def place(lat: float, lng: float) -> bytes:
    return json.dumps({"lat": lat, "lng": lng}).encode()


SAMPLES = {
    "dir/000.jpg": b"first photo",
    "dir/000.json": place(1.5, -2.5),
    "dir/000.txt": b"a caption",
    "dir/001.json": json.dumps({"LATITUDE": "3.5", "Lon": 4}).encode(),
    "dir/001.map.png": b"a map",
    "dir/001.PNG": b"second photo",
    "002.v2.jpeg": b"third photo",
    "002.cls": b"7",
    "003.seg.png": b"another map",
    "003.webp": b"",
}


def test_photos_with_their_places_and_maps(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", SAMPLES)
    photos = list(open_photos(path))
    assert [p.name for p in photos] == ["s.tar/dir/000.jpg", "s.tar/dir/001.PNG", "s.tar/002.v2.jpeg", "s.tar/003.webp"]
    assert [(p.lat_deg, p.lng_deg) for p in photos[:2]] == [(1.5, -2.5), (3.5, 4.0)]
    assert all(math.isnan(p.lat_deg) for p in photos[2:])
    assert [content(p.data) for p in photos] == [b"first photo", b"second photo", b"third photo", b""]
    assert [content(p.class_map) for p in photos] == [b"", b"a map", b"", b"another map"]
    assert all(isinstance(p.data, FileRange) and p.data.uri == str(path) for p in photos)


@pytest.mark.parametrize("kind", FORMATS)
def test_ranges_hold_what_tarfile_extracts(tmp_path: Path, kind: str) -> None:
    files = {f"{'d' * 80}/é{row}{'n' * 60}.jpg": os.urandom(400 * row) for row in range(6)}
    path = shard(tmp_path / "s.tar", files, kind)
    photos = list(open_photos(path))
    with tarfile.open(path) as tar:
        want = {f"s.tar/{m.name}": tar.extractfile(m).read() for m in tar}
    assert {p.name: content(p.data) for p in photos} == want


def test_an_archive_of_the_system_s_tar_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / "in" / name).write_bytes(name.encode())
    subprocess.run(["tar", "-C", tmp_path / "in", "-cf", tmp_path / "s.tar", "."], check=True)
    photos = {p.name: content(p.data) for p in open_photos(tmp_path / "s.tar")}
    assert photos == {"s.tar/a.jpg": b"a.jpg", "s.tar/b.jpg": b"b.jpg"}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(3):
        shard(tmp_path / "shards" / f"{number:04d}.tar", {f"{number}.jpg": bytes([number])})
    return tmp_path / "shards"


def names(source: str | Path, **options: object) -> list[str]:
    return [photo.name for photo in open_photos(source, **options)]


def test_folders_braces_and_globs_of_shards_are_alike(shards: Path) -> None:
    want = ["0000.tar/0.jpg", "0001.tar/1.jpg", "0002.tar/2.jpg"]
    (shards / "0000_stats.json").write_text("{}")
    for source in (shards, f"{shards}/*.tar", f"{shards}/{{0000..0002}}.tar", f"{shards}/000{{0,1,2}}.tar"):
        assert names(source) == want
    opened = open_photos(shards)
    assert (opened.n_photos, opened.digest) == (None, None)
    assert list(opened) == list(opened)


def test_shards_that_are_there_are_known_where_others_are_missing(shards: Path) -> None:
    (shards / "0001.tar").unlink()
    with pytest.raises(ShardsMissing) as error:
        open_photos(f"{shards}/{{0000..0003}}.tar")
    assert error.value.there == (f"{shards}/0000.tar", f"{shards}/0002.tar")


def test_a_pattern_must_lead_to_shards(shards: Path) -> None:
    (shards / "a.csv").write_text("photo\n")
    for pattern, message in {
        "{0000..0003}.tar": "0003.tar: no such file\\.$",
        "{0000..0005}.tar": r"0003.tar: no such file. 3 shards are missing; the others: 0004\.tar, 0005\.tar\.$",
        "{0000..0099}.tar": r"97 shards are missing; the others: 0004\.tar, .*, 0022\.tar and 77 more\.$",
        "x*.tar": "nothing matches",
        "*": "must match .tar files only",
        "{a..c}.tar": "a range is of two numbers",
        "{0{1,2}}.tar": "not inside each other",
        "{0000.tar*": "come in pairs",
    }.items():
        with pytest.raises(InputError, match=message):
            open_photos(f"{shards}/{pattern}")


def test_a_file_that_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    assert names(shard(tmp_path / "a[1]{2}::3.tar", {"x.jpg": b""})) == ["a[1]{2}::3.tar/x.jpg"]


def test_shards_beside_images_are_ambiguous(shards: Path) -> None:
    (shards / "a.jpg").touch()
    with pytest.raises(InputError, match=r"holds both images \(a\.jpg\) and shards \(0000\.tar\)"):
        open_photos(shards)


def bash(pattern: str) -> list[str]:
    script = f"printf '%s\\n' {pattern}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()


numbers = st.integers(0, 120).flatmap(lambda n: st.sampled_from([str(n), f"{n:03d}", f"0{n}"]))
braces = st.one_of(
    st.tuples(numbers, numbers).map(lambda ends: f"{{{ends[0]}..{ends[1]}}}"),
    st.lists(st.text("ab", min_size=1, max_size=2), min_size=2, max_size=3).map(lambda parts: f"{{{','.join(parts)}}}"),
)


@pytest.mark.slow
@given(st.lists(st.one_of(braces, st.text("xy/.", max_size=2)), min_size=1, max_size=2).map("".join))
def test_braces_are_those_of_a_shell(pattern: str) -> None:
    assert [text for text in expand_braces(pattern) if text] == [text for text in bash(pattern) if text]


def test_braces() -> None:
    assert list(expand_braces("a/{08..11}-{x,y}.tar"))[:3] == ["a/08-x.tar", "a/08-y.tar", "a/09-x.tar"]
    assert list(expand_braces("{2..0}")) == ["2", "1", "0"]
    assert list(expand_braces("{a}")) == ["{a}"]
    assert next(expand_braces("{0..99999999999999}")) == "0"


def test_what_is_passed_over_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "s.tar"
    with tarfile.open(out, "w") as tar:
        for name, kind in (("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE), ("d.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("/abs.jpg", "../up.jpg", "a/../../up.jpg", "._mac.jpg", "n.txt", "good.jpg"):
            info = tarfile.TarInfo(name)
            tar.addfile(info)
    with caplog.at_level(logging.WARNING):
        assert names(out) == ["s.tar/good.jpg"]
    assert [line.partition("s.tar: ")[2] for line in caplog.messages] == [
        "3 links, devices and sparse files are passed over, the first 'l.jpg'",
        "3 names that lead out of the archive are passed over, the first '/abs.jpg'",
        "1 keys have no image, the first 'n'",
    ]


def test_keys_that_come_again_are_said_and_lose_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [("a.jpg", b"1"), ("a.png", b"2"), ("a.json", place(1, 2)), ("b.jpg", b"3"), ("a.jpg", b"4")]
    photos = list(open_photos(shard(tmp_path / "s.tar", files)))
    assert [(p.name, content(p.data), p.lat_deg) for p in photos[:3]] == [
        ("s.tar/a.jpg", b"1", 1.0),
        ("s.tar/a.png", b"2", 1.0),
        ("s.tar/b.jpg", b"3", pytest.approx(math.nan, nan_ok=True)),
    ]
    assert (photos[3].name, content(photos[3].data)) == ("s.tar/a.jpg", b"4")
    assert "1 keys have several images; each is a photo, the first 'a'" in caplog.text
    assert "1 keys come again after others" in caplog.text


def test_a_key_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than 100 members of the key 'a'"):
        names(shard(tmp_path / "s.tar", {f"a.{number}": b"" for number in range(101)}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"lat": 95, "lng": 0}', r"s\.tar/a\.json: lat is 95\.0. It must be a number from -90 to 90"),
        (b'{"lat": 5, "lng": "east"}', r"s\.tar/a\.json: lng must be a number in degrees, not 'east'"),
        (b'{"lat": [5], "lng": 0}', "lat must be a number"),
        (b'{"lat": true, "lng": 0}', "lat must be a number"),
        (b'{"lat": 1e999, "lng": 0}', "lat is inf"),
    ],
)
def test_places_that_are_not_on_earth_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        names(shard(tmp_path / "s.tar", {"a.jpg": b"", "a.json": text}))


@pytest.mark.parametrize(
    "text", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"lat": null}', b" " * (1 << 20) + b"{}"]
)
def test_other_json_is_passed_over_unless_places_are_needed(tmp_path: Path, text: bytes) -> None:
    path = shard(tmp_path / "s.tar", {"a.jpg": b"", "a.json": text})
    (photo,) = open_photos(path)
    assert math.isnan(photo.lat_deg)
    with pytest.raises(InputError, match=r"a\.jpg has no lat and lng. Put them in a\.json"):
        names(path, coordinates=True)


def test_shards_without_images_or_with_splits_are_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"a.txt": b""})
    with pytest.raises(InputError, match=r"no image in it \(\.jpg"):
        names(path)
    with pytest.raises(InputError, match="shards have no splits"):
        open_photos(path, split="train")
    for name in ("a.tar.gz", "a.tgz"):
        with pytest.raises(InputError, match="compressed tar is read from its beginning only"):
            open_photos(tmp_path / name)


def test_photos_before_the_damage_are_kept(tmp_path: Path) -> None:
    whole = packed({f"{row}.jpg": bytes(1000) for row in range(5)})
    (tmp_path / "s.tar").write_bytes(whole[:4000])
    found = []
    with pytest.raises(InputError, match=r"s\.tar: damaged at byte 3,072: a member of 1,000 bytes begins here"):
        found.extend(photo.name for photo in open_photos(tmp_path / "s.tar"))
    assert found == ["s.tar/0.jpg"]  # the second may lack members of its key, which the damage took


def test_a_shard_is_opened_when_its_turn_comes(shards: Path) -> None:
    photos = iter(open_photos(shards))
    next(photos)
    (shards / "0002.tar").write_bytes(b"broken")
    next(photos)
    with pytest.raises(InputError, match=r"0002\.tar: damaged at byte 0"):
        next(photos)


@pytest.fixture
def bucket(shards: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for path in shards.iterdir():
        system.pipe_file(f"/tars/{path.name}", path.read_bytes())
    system.pipe_file("/tars/one/s.tar", packed(SAMPLES))
    yield "memory://tars"
    system.rm("/tars", recursive=True)


def test_shards_in_a_bucket_are_those_on_disk(bucket: str, shards: Path, tmp_path: Path) -> None:
    want = names(shards)
    for source in (bucket, f"{bucket}/*.tar", f"{bucket}/{{0000..0002}}.tar", f"{bucket}/000[012].tar"):
        assert names(source, schemes=ANYWHERE) == want
    local = list(open_photos(shard(tmp_path / "s.tar", SAMPLES)))
    remote = list(open_photos(f"{bucket}/one/s.tar", schemes=ANYWHERE))
    for one, other in zip(local, remote, strict=True):
        assert isinstance(other.data, bytes)
        assert (one.name, content(one.data), content(one.class_map)) == (
            other.name,
            other.data,
            content(other.class_map),
        )
    with pytest.raises(InputError, match=r"absent\.tar: no such file"):
        names(f"{bucket}/absent.tar", schemes=ANYWHERE)
    with pytest.raises(InputError, match="scheme 'memory' is not allowed"):
        names(bucket)


def test_a_shard_on_the_web_is_fetched_once_and_large_photos_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.photos.tar_shards._REMOTE_BLOCK", 20_000)
    files = {f"{row:03d}.jpg": os.urandom(3000) for row in range(100)}
    files["050.jpg"] = os.urandom(150_000)
    data = packed(files)
    with served(files={"/s.tar": data}) as web:
        photos = {p.name: p.data for p in open_photos(f"{web.root}/s.tar?sig=S3CRET", schemes=ANYWHERE)}
        assert list(photos) == [f"s.tar/{name}" for name in files]
        large = photos.pop("s.tar/050.jpg")
        assert isinstance(large, FileRange)
        assert "S3CRET" not in repr(large)
        assert data[large.offset : large.offset + (large.size or 0)] == files["050.jpg"]
        assert all(photos[f"s.tar/{name}"] == files[name] for name in files if name != "050.jpg")
        assert sum(sent for _, _, sent in web.asked) < len(data) - 150_000 + 4 * 20_000
        web.ranges = False
        with pytest.raises(InputError, match=r"sig=\*\*\*: cannot be read \(The HTTP server doesn't appear to support"):
            names(f"{web.root}/s.tar?sig=S3CRET", schemes=ANYWHERE)


def test_a_photo_is_small_to_send(tmp_path: Path) -> None:
    import pickle

    (photo,) = open_photos(shard(tmp_path / "s.tar", {"a.jpg": bytes(10_000)}))
    sent = pickle.dumps(photo, pickle.HIGHEST_PROTOCOL)
    assert len(sent) < 400
    received: Photo = pickle.loads(sent)
    assert (received.name, received.data) == (photo.name, photo.data)
