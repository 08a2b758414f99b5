"""Headers of tar archives; Python's own tarfile, writing and extracting, is the oracle."""

import io
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from indexer.photos.tar import Member, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def archive(files: list[tuple[str, bytes]], kind: str = "pax") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[kind]) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def listed(data: bytes, source: str = "a.tar") -> list[Member]:
    return list(members(lambda offset, size: data[offset : offset + size], length=len(data), source=source))


def contents(data: bytes) -> list[tuple[str, bytes]]:
    return [(m.name, data[m.offset : m.offset + m.size]) for m in listed(data)]


LONG = [
    ("a.jpg", b"x" * 513),
    ("d" * 90 + "/" + "e" * 60 + ".jpg", b""),
    ("é/ü.png", b"\0" * 512),
]


@pytest.mark.parametrize("kind", FORMATS)
def test_members_are_those_of_tarfile(kind: str) -> None:
    files = [*LONG, *([("n" * 300 + "/" + "m" * 300, b"long")] if kind != "ustar" else [])]
    data = archive(files, kind)
    assert contents(data) == files
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [(m.offset_data, m.size) for m in tar] == [(m.offset, m.size) for m in listed(data)]


# tarfile takes slashes off the ends of some names.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=140)


@given(st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=5), st.sampled_from(["gnu", "pax"]))
def test_what_was_packed_comes_out(files: list[tuple[str, bytes]], kind: str) -> None:
    data = archive(files, kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        want = [(m.name, tar.extractfile(m).read() if m.isfile() else b"") for m in tar]
    assert contents(data) == want


def test_sizes_from_eight_gibibytes_on_are_binary_numbers_or_pax_fields() -> None:
    for kind in ("gnu", "pax"):
        info = tarfile.TarInfo("big.jpg")
        info.size = 9 << 30
        header = info.tobuf(FORMATS[kind])

        def read(offset: int, size: int, header: bytes = header) -> bytes:
            return (header + bytes(512))[offset : offset + size] if offset < 4096 else bytes(size)

        (member,) = members(read, length=10 << 30, source="a.tar")
        assert member.size == 9 << 30


def test_links_devices_and_folders_are_no_files(tmp_path: Path) -> None:
    out = io.BytesIO()
    kinds = {
        "folder": tarfile.DIRTYPE,
        "symlink.jpg": tarfile.SYMTYPE,
        "hardlink.jpg": tarfile.LNKTYPE,
        "device.jpg": tarfile.CHRTYPE,
        "pipe.jpg": tarfile.FIFOTYPE,
    }
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("last.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    found = listed(out.getvalue())
    assert [m.name.rstrip("/") for m in found] == [*kinds, "last.jpg"]
    assert [m.is_file for m in found] == [False] * 5 + [True]
    assert [m.is_folder for m in found] == [True] + [False] * 5


def test_global_pax_headers_hold_until_they_change() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é"}) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    assert contents(out.getvalue()) == [("a", b"")]


def test_an_archive_cut_anywhere_gives_what_is_whole_and_then_an_error() -> None:
    files = [("a.jpg", b"x" * 700), ("b.jpg", b"y" * 100), ("ü" * 80, b"z" * 600)]
    data = archive(files)
    end = len(data.rstrip(b"\0")) + 512
    for kept in range(0, end - 512, 97):
        cut = data[:kept]
        found = []
        with pytest.raises(InputError, match=r"^a\.tar: damaged at byte [\d,]+: .*Copy or make it again"):
            found.extend(m for m in members(lambda o, s, cut=cut: cut[o : o + s], length=kept, source="a.tar"))
        for member, (name, _) in zip(found, files, strict=False):
            assert member.name == name
            assert member.offset + member.size <= kept


def test_a_header_of_garbage_names_its_byte_and_what_came_before_stays() -> None:
    data = bytearray(archive([("a.jpg", b"x" * 700), ("b.jpg", b"y")]))
    data[1536 + 20] ^= 1
    found = members(lambda o, s: bytes(data[o : o + s]), length=len(data), source="a.tar")
    assert next(found).name == "a.jpg"
    with pytest.raises(InputError, match=r"a\.tar: damaged at byte 1,536: no header of a member is here"):
        next(found)


@given(st.binary(min_size=512, max_size=2048))
def test_garbage_is_an_error_of_the_input(data: bytes) -> None:
    if any(data[:512]):
        with pytest.raises(InputError):
            listed(data)


@given(st.integers(0, 4095), st.integers(0, 255))
def test_one_changed_byte_is_an_error_or_another_name_but_nothing_else(place: int, value: int) -> None:
    data = bytearray(archive([("ü" * 80, b"x" * 700), ("b.jpg", b"y")]))
    data[place] = value
    try:
        found = listed(bytes(data))
    except InputError:
        return
    assert all(0 <= m.offset <= m.offset + m.size <= len(data) for m in found)


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_compressed_archives_are_refused_by_name(mode: str, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    data = out.getvalue() + bytes(512)
    with pytest.raises(InputError, match=f"compressed with {name}.*Unpack it"):
        listed(data)


def test_an_extended_header_of_any_size_is_not_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    sizes: list[int] = []

    def read(offset: int, size: int) -> bytes:
        sizes.append(size)
        return info.tobuf(tarfile.GNU_FORMAT)

    with pytest.raises(InputError, match="at most 1,048,576 are read"):
        list(members(read, length=1 << 41, source="a.tar"))
    assert max(sizes) == 512


def test_what_is_no_tar_is_called_so() -> None:
    with pytest.raises(InputError, match="damaged at byte 0: not a tar archive"):
        listed(b"not a tar " * 100)
    with pytest.raises(InputError, match="ends here without its end mark"):
        listed(b"")
    assert listed(bytes(10240)) == []


def test_a_header_of_many_records_takes_no_long(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    records = b"6 a=b\n" * 170_000
    info.type, info.size = tarfile.XHDTYPE, len(records)
    data = info.tobuf(tarfile.GNU_FORMAT) + records + bytes(-len(records) % 512) + archive([("a.jpg", b"x")])
    started = time.process_time()
    assert [m.name for m in listed(data)] == ["a.jpg"]
    assert time.process_time() - started < 5


@pytest.mark.parametrize("records", [b"6 a=b", b"x a=b\n", b"0 a=b\n", b"99 a=b\n", b"6 abb\n", b"\n", b" 6 a=b\n"])
def test_broken_records_are_damage(records: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    data = info.tobuf(tarfile.GNU_FORMAT) + records + bytes(-len(records) % 512) + archive([("a.jpg", b"x")])
    with pytest.raises(InputError, match="damaged at byte 512: a broken extended header"):
        listed(data)


def test_sparse_files_of_every_format_are_no_files(tmp_path: Path) -> None:
    with (tmp_path / "hole.jpg").open("wb") as file:
        for at in range(40):  # more pieces than one header has room for
            file.seek(at * 1_000_000)
            file.write(b"x" * 5000)
    (tmp_path / "a.jpg").write_bytes(b"plain")
    for kind in ("gnu", "posix"):
        command = ["tar", "-C", tmp_path, f"--format={kind}", "-Scf", tmp_path / "s.tar", "hole.jpg", "a.jpg"]
        subprocess.run(command, check=True)
        data = (tmp_path / "s.tar").read_bytes()
        found = listed(data)
        assert [m.is_file for m in found] == [False, True], kind
        assert data[found[1].offset : found[1].offset + found[1].size] == b"plain"
