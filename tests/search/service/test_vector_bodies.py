"""Vectors as they are sent: read as they were written, and nothing that would take more memory than was let in."""

import asyncio
import io
import json
import tracemalloc
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import InputError
from search.service.admission import Admission, Full
from search.service.uploads import BadUpload
from search.service.vector_bodies import VectorBody
from tests.conftest import unit_rows

WIDTH, MOST = 12, 100
NPY, JSON = "application/x-npy", "application/json; charset=utf-8"


def read(content: bytes, kind: str = NPY, *, step: int | None = None, room: Admission | None = None) -> np.ndarray:
    async def pieces() -> AsyncIterator[bytes]:
        size = step or max(1, len(content))
        for begin in range(0, len(content), size):
            yield content[begin : begin + size]

    room = room or Admission(MOST, most_bytes=10**9, now=lambda: 0.0)
    with room.visit() as visit:
        rows = asyncio.run(VectorBody(WIDTH, MOST).read(pieces(), kind, visit))
        assert visit.rows == (1 if rows.ndim == 1 else len(rows))
        return rows


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


@given(st.integers(1, MOST), st.sampled_from(["<f4", ">f4", "<f8", "<f2", "i1"]), st.booleans(), st.integers(1, 300))
def test_npy_files_are_read_as_numpy_reads_them(rows: int, kind: str, fortran: bool, step: int) -> None:
    array = np.asarray(unit_rows(rows, WIDTH, seed=rows) * 100, kind, order="F" if fortran else "C")
    np.testing.assert_array_equal(read(npy(array), step=step), array.astype(np.float32))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_and_one_vector_alone(version: tuple[int, int]) -> None:
    row = unit_rows(1, WIDTH, seed=0)[0]
    np.testing.assert_array_equal(read(npy(row, version)), row)


def test_json_is_read_as_it_was_written() -> None:
    rows = unit_rows(7, WIDTH, seed=0)
    for given_json in ({"vectors": rows.tolist()}, rows.tolist(), rows[0].tolist()):
        for indent in (None, 2):
            text = json.dumps(given_json, indent=indent).encode()
            want = rows if isinstance(given_json, dict) or isinstance(given_json[0], list) else rows[0]
            np.testing.assert_array_equal(read(text, JSON, step=13), want)


HEADER = b"\x93NUMPY\x01\x00"


def header(text: str) -> bytes:
    return HEADER + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Not a .npy file"),
        (b"\x93NUMPY", "Not a .npy file"),
        (b"x" * 40_000, "Not a .npy file"),
        (b"\x93NUMPY\x09\x00" + b"x" * 200, "Not a .npy file"),
        (header("(" * 9000), "Not a .npy file"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, "), "Not a .npy file"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 12)}"), "vectors"),
        (header("__import__('os').abort()"), "Not a .npy file"),
        (npy(np.zeros((2, WIDTH), complex)), "Not a .npy file of numbers"),
        (npy(np.array([["a"] * WIDTH])), "Not a .npy file of numbers"),
        (npy(np.zeros((2, WIDTH), bool)), "Not a .npy file of numbers"),
        (npy(np.zeros(3, [("a", "f4")])), "Not a .npy file of numbers"),
        (npy(np.zeros((2, WIDTH)))[:-1], "192 bytes of numbers should follow its header, not 191"),
        (npy(np.zeros((2, WIDTH))) + b"x", "192 bytes of numbers should follow its header, not 193"),
        (npy(np.zeros((0, WIDTH))), "0 vectors"),
        (npy(np.zeros((MOST + 1, WIDTH), np.float16)), "101 vectors"),
    ],
)
def test_npy_files_that_are_none_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(BadUpload, match=message) as refused:
        read(content, step=1000)
    assert 400 <= refused.value.status < 500


def test_a_pickle_is_never_opened() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BadUpload, match=r"Not a \.npy file of numbers"):
        read(stream.getvalue())


@pytest.mark.parametrize("shape", [(2, WIDTH + 1), (2,), (2, 3, WIDTH), (), (10, 2**62), (2**40, 2)])
def test_vectors_of_another_width_are_refused_before_anything_is_taken(shape: tuple[int, ...]) -> None:
    text = header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}")
    with pytest.raises(InputError, match=r"this bundle takes \(n, 12\)"):
        read(text + b"\x00" * 100)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "nul", "5", "{}", '"x"', '{"vectors": 5}', '{"vector": [[1]]}', '{"vectors": {"a": 1}}'),
        *('[["1"]]', "[[1], [1, 2]]", "[[1], 2]", "[[null]]", '{"vectors": [[1]], "more": "x"}', "[[1e]]", "[[1,]]"),
        *("[" * 101 + "]" * 101, f"[[1{'0' * 400}]]", "[[true]]", "[]", "[[]]", "[[1]] x"),
    ],
)
def test_json_of_another_form_is_refused(text: str) -> None:
    with pytest.raises((BadUpload, InputError)):
        read(text.encode(), JSON)


@pytest.mark.parametrize("bomb", ["[],", "{},", '"ab",', "0,", "1.5,", " ", "[[0],"])
def test_json_takes_no_more_memory_than_its_bytes_say(bomb: str) -> None:
    text = ("[" + bomb * 3_000_000).encode()
    with pytest.raises(BadUpload, match="larger than"):
        read(text, JSON, step=65_536)
    small = ("[" + bomb * (30_000 // len(bomb))).encode()  # within the limit of bytes
    tracemalloc.start()
    with pytest.raises(BadUpload):
        read(small, JSON)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 32 * MOST * (WIDTH + 1)


def test_other_kinds_of_bodies_are_refused() -> None:
    for kind in ("", "text/plain", "multipart/form-data", "image/jpeg"):
        with pytest.raises(BadUpload) as refused:
            read(b"", kind)
        assert refused.value.status == 415


def test_values_too_large_are_not_finite_and_no_warning() -> None:
    assert np.isinf(read(npy(np.full((1, WIDTH), 1e300)))).all()
    assert np.isinf(read(json.dumps([[1e300] * WIDTH]).encode(), JSON)).all()


@pytest.mark.parametrize("kind", [NPY, JSON])
def test_rows_are_let_in_before_they_are_made(kind: str) -> None:
    room = Admission(5, most_bytes=10**9, now=lambda: 0.0)
    rows = unit_rows(6, WIDTH, seed=0)
    with pytest.raises(Full):
        read(npy(rows) if kind == NPY else json.dumps(rows.tolist()).encode(), kind, room=room)
    assert room.inside == 0
