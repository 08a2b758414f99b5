"""Two thousand requests that mean harm, or are broken: each is refused with a reason, and the service goes on."""

import asyncio
import io
import json
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.service.options import ServeOptions
from tests.search.conftest import WIDTH
from tests.search.service.conftest import Encoders, Running, photo, served

TOTAL, AT_ONCE, SECONDS = 2000, 8, 60
TYPE = "multipart/form-data; boundary=bound"
OPTIONS = ServeOptions(max_mb=1, max_waiting_mb=50, max_photos=4, max_vectors=16, timeout_s=20)
Draw = random.Random
Hostile = Callable[[Draw], dict[str, Any]]  # a request that must be refused


def part(name: str, content: bytes, file: str | None = None, *, more: str = "") -> bytes:
    named = f'; filename="{file}"' if file is not None else ""
    head = f'--bound\r\nContent-Disposition: form-data; name="{name}"{named}\r\n{more}\r\n'
    return head.encode("utf-8", "surrogateescape") + content + b"\r\n"


def form(*parts: bytes, route: str = "/v1/locate", kind: str = TYPE) -> dict[str, Any]:
    content = b"".join(parts) + b"--bound--\r\n"
    return {"method": "POST", "url": route, "content": content, "headers": {"content-type": kind.encode("latin-1")}}


GOOD = photo(0)


def cut_short(draw: Draw) -> dict[str, Any]:
    request = form(part("k", b"1"), part("photos", GOOD, "a.png"))
    request["content"] = request["content"][: draw.randrange(len(request["content"]) - 8)]
    return request


def noise(draw: Draw) -> dict[str, Any]:
    request = form()
    request["content"] = draw.randbytes(draw.randrange(2000))
    return request


def damaged_heads(draw: Draw) -> dict[str, Any]:
    request = form(part("photos", GOOD, "a.png"))
    head = bytearray(request["content"][:70])
    del head[draw.randrange(9, 20) : draw.randrange(20, 60)]  # the name, or the header's own
    head[draw.randrange(2, 7)] = 0  # the boundary
    request["content"] = bytes(head) + request["content"][70:]
    return request


def many_parts(draw: Draw) -> dict[str, Any]:
    return draw.choice(
        [
            form(*(part(f"f{number}", b"") for number in range(draw.randrange(33, 500)))),
            form(*[part("photos", b"", "a")] * draw.randrange(5, 500)),
            form(*[part("class_maps", b"x", "a")] * draw.randrange(1, 50), part("photos", GOOD, "a")),
            form(part("photos", GOOD, "a"), part("x" * draw.randrange(1, 3000), b"", "a")),
            form(part("photos", GOOD, "a", more="X: y\r\n" * draw.randrange(20, 2000))),
            form(part("k", b"1"), part("k", b"2"), part("photos", GOOD, "a")),
        ]
    )


def other_kinds(draw: Draw) -> dict[str, Any]:
    kinds = ["", "text/plain", "multipart/form-data", "multipart/form-data; boundary=", "application/json", "*/*"]
    kinds += ["multipart/form-data; boundary=" + "b" * draw.randrange(300, 5000), "multipart/mixed; boundary=bound"]
    kinds += ["multipart/form-data; boundary=other", "\xff\xfe", "multipart/form-data; boundary*=utf-8''%ff", ";;;="]
    return form(part("photos", GOOD, "a"), kind=draw.choice(kinds))


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of so many pixels, of which there are none."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    end = (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    text = b"\x89PNG\r\n\x1a\n"
    for name, content in (head, *chunks, *end):
        text += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return text


BOMB = zlib.compress(b"\x00" * 50_000_000, 9)  # 50 kB


def bombs(draw: Draw) -> dict[str, Any]:
    size = draw.randrange(20_000, 2**31 - 1)
    files = [
        png(size, draw.randrange(20_000, 2**31 - 1)),
        png(size, 1),
        png(10, 10, (b"zTXt", b"a\x00\x00" + BOMB)),
        png(10, 10, (b"iCCP", b"a\x00\x00" + BOMB)),
        b"P6 %d %d 255\n" % (size, size),
        b"GIF89a\xff\xff\xff\xff\xf0\x00\x00" + b"\x00" * 60,
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, size, size, 1, 24, 0, 0, 1, 1, 0, 0),
        b"II*\x00\x08\x00\x00\x00\xff\xff" + draw.randbytes(400),
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + draw.randbytes(60),
        b"\xff\xd8\xff\xe1\xff\xffExif\x00\x00" + draw.randbytes(200),
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS\n(%pipe%id) (w) file",
        b"",
        GOOD[: draw.randrange(1, 60)],
    ]
    return form(*(part("photos", draw.choice(files), "a.jpg") for _ in range(draw.randrange(1, 4))))


def too_large(draw: Draw) -> dict[str, Any]:
    return form(part("photos", b"x" * draw.randrange(1_000_001, 1_200_000), "a"))


def endless(draw: Draw) -> dict[str, Any]:
    request, seed = form(), draw.random()

    async def pieces() -> AsyncIterator[bytes]:
        yield part("photos", b"", "a")[: -2 if seed < 0.5 else -4]  # its content, or its header, does not end
        while True:
            yield b"x" * 50_000

    request["content"] = pieces()
    return request


TEXTS = ["", "-1", "0", "1e3", "nan", "inf", "9" * 400, "1;drop", "\x00", "../../etc/passwd", "{{7*7}}", "${x}", "٣٣"]


def wrong_fields(draw: Draw) -> dict[str, Any]:
    word = "".join(chr(draw.randrange(32, 0x2FFF)) for _ in range(draw.randrange(1, 40)))
    fields = {
        "k": [*TEXTS[1:-1], "100000000", word],
        "crops": [*TEXTS[1:], word],
        "point": [*TEXTS[1:], word],
        "region": ["XX", "/etc/passwd.json", "a.geojson", "{", "{}", "[]", "1,2,3", "91,0,92,1", "nan,0,1,1", word],
        "not_region": ["-90,-180,90,180", '{"type":"Polygon","coordinates":[]}', '{"a":' * 9000, word],
    }
    name = draw.choice(list(fields))
    text = draw.choice(fields[name]).encode()
    return form(part(name, text), part("photos", GOOD, "a"))


def wrong_claims(draw: Draw) -> dict[str, Any]:
    word = "".join(chr(draw.randrange(32, 0x2FFF)) for _ in range(draw.randrange(12, 40)))
    # Nan is a city in Thailand.
    claims = [
        *(text for text in TEXTS if text != "nan"),
        "95,2",
        "1,181",
        "nan,nan",
        "1,inf",
        "1,2,3",
        ",",
        word,
        "x" * 200_000,
    ]
    radii = ["-1", "0", "nan", "inf", "1e9", word]
    claim, radius = (draw.choice(claims), "1") if draw.random() < 0.7 else ("1,2", draw.choice(radii))
    parts = part("claim", claim.encode()), part("within_km", radius.encode()), part("photos", GOOD, "a")
    return form(*parts, route="/v1/check")


def broken_text(draw: Draw) -> dict[str, Any]:
    bad = draw.choice([b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80" * 50])
    if draw.random() < 0.5:
        return form(part(draw.choice(["k", "region", "claim"]), bad), part("photos", GOOD, "a"))
    query = "".join(f"%{byte:02x}" for byte in bad)
    name = draw.choice(["k", "crops", "region"])
    headers = {"content-type": "application/json"}
    content = json.dumps([[1.0] + [0.0] * (WIDTH - 1)]).encode()
    return {"method": "POST", "url": f"/v1/vectors?{name}={query}", "content": content, "headers": headers}


def paths(draw: Draw) -> dict[str, Any]:
    pieces = [
        "..",
        "%2e%2e",
        "%2f",
        "\\",
        "%00",
        "etc",
        "passwd",
        "v1",
        "cells",
        "~root",
        "%ff",
        "%252e",
        ";",
        "'",
        "$",
    ]
    path = "/v1/" + "/".join(draw.choice(pieces) for _ in range(draw.randrange(1, 12)))
    return {"method": draw.choice(["GET", "POST", "PUT", "DELETE", "PROPFIND"]), "url": path}


def vectors(draw: Draw) -> dict[str, Any]:
    rows, kind = np.zeros((draw.randrange(1, 5), WIDTH), np.float32), draw.choice(["npy", "json"])
    rows[:, 0] = 1
    fault = draw.randrange(7)
    if fault == 0:
        rows[0, draw.randrange(WIDTH)] = draw.choice([np.nan, np.inf, -np.inf, 3e38])
    elif fault == 1:
        rows[-1] = 0
    elif fault == 2:
        rows = rows[:, : draw.randrange(WIDTH)]
    elif fault == 3:
        rows = np.repeat(rows[:1], draw.randrange(17, 400), axis=0)
    elif fault == 4:
        rows = rows[None]
    elif fault == 5:
        rows = rows * draw.uniform(1.1, 1e20)
    stream = io.BytesIO()
    np.save(stream, rows)
    content = stream.getvalue() if kind == "npy" else json.dumps({"vectors": rows.tolist()}).encode()
    if fault == 6:
        content = content[: draw.randrange(len(content) - 1)]
    headers = {"content-type": "application/x-npy" if kind == "npy" else "application/json"}
    return {"method": "POST", "url": "/v1/vectors", "content": content, "headers": headers}


def strangers(draw: Draw) -> dict[str, Any]:
    request = form(part("photos", GOOD, "a"))
    hosts = ["evil.example", "127.0.0.1:9", "127.0.0.1@evil", "[::1", "a" * 3000, "localhost:8000.evil", "0", "\xff"]
    origins = ["null", "https://evil.example", "file://", "http://127.0.0.1:8001", "x" * 3000]
    name, values = draw.choice([("host", hosts), ("origin", origins), ("sec-fetch-site", ["cross-site", "\xff"])])
    request["headers"][name] = draw.choice(values).encode("latin-1")
    return request


HOSTILE: list[Hostile] = [
    *(cut_short, noise, damaged_heads, many_parts, other_kinds, bombs, too_large, endless, wrong_fields, wrong_claims),
    *(broken_text, paths, vectors, strangers),
]


@pytest.mark.slow
def test_each_is_refused_with_a_reason_and_the_service_goes_on(checkable: Path, encoders: Encoders) -> None:
    draw, seen = Draw(0), Counter[int]()

    async def test(running: Running) -> None:
        room, slowest = asyncio.Semaphore(AT_ONCE), 0.0

        async def ask(number: int) -> None:
            nonlocal slowest
            async with room:
                kind = HOSTILE[number % len(HOSTILE)]
                request, started = kind(draw), time.perf_counter()
                response = await asyncio.wait_for(running.client.request(**request), 30)
                slowest = max(slowest, time.perf_counter() - started)
                shown = f"{kind.__name__}: {str(request)[:500]} -> {response.status_code} {response.text[:300]}"
                assert 400 <= response.status_code < 500, shown
                answer = response.json()
                reasons = [answer["error"]] if "error" in answer else [each["reason"] for each in answer["answers"]]
                assert all(len(reason) > 5 for reason in reasons), shown
                seen[response.status_code] += 1

        await asyncio.gather(*map(ask, range(TOTAL)))
        assert sum(seen.values()) == TOTAL
        assert set(seen) >= {400, 403, 404, 405, 413, 415, 421, 422}
        assert slowest < 20
        service = running.service
        assert (service.admission.inside, service.admission.bytes_inside) == (0, 0)
        assert not service.faults
        assert set(service.stages.deaths.values()) == {0}
        assert (await running.post("/v1/locate", [("a", GOOD)])).status_code == 200

    started = time.monotonic()
    served(test, checkable / "Q", encoders, options=OPTIONS)
    assert time.monotonic() - started < SECONDS


def mutated(draw: Draw, content: bytes) -> bytes:
    """The same with some bytes flipped, doubled or left out."""
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 12)):
        place = draw.randrange(len(changed))
        match draw.randrange(3):
            case 0:
                changed[place] = draw.randrange(256)
            case 1:
                del changed[place : place + draw.randrange(1, 40)]
            case 2:
                changed[place:place] = changed[place : place + draw.randrange(1, 40)]
    return bytes(changed)


@pytest.mark.slow
def test_bodies_with_a_few_wrong_bytes_are_answered_or_refused(checkable: Path, encoders: Encoders) -> None:
    draw, seen = Draw(1), Counter[int]()
    jpeg = photo(1, kind="JPEG")
    npy = io.BytesIO()
    np.save(npy, np.eye(3, WIDTH, dtype=np.float32))
    plain = form(part("k", b"2"), part("region", b"-60,-170,70,170"), part("photos", jpeg, "a.jpg"))

    async def test(running: Running) -> None:
        for _ in range(400):
            request = plain | {"content": mutated(draw, plain["content"])}
            if draw.random() < 0.3:
                headers = {"content-type": "application/x-npy"}
                request = {"method": "POST", "url": "/v1/vectors", "content": mutated(draw, npy.getvalue())}
                request["headers"] = headers
            response = await asyncio.wait_for(running.client.request(**request), 30)
            assert response.status_code < 500, (response.text, request["content"])
            seen[response.status_code] += 1
        assert not running.service.faults
        assert set(running.service.stages.deaths.values()) == {0}

    served(test, checkable / "Q", encoders, options=OPTIONS)
    assert {200, 400} <= set(seen)
