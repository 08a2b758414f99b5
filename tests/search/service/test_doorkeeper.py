"""Before every route: hosts, origins, headers, times; and errors that nobody foresaw."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import BundleMismatch, InputError, WorkError
from search.service.access import Refused
from search.service.admission import Full
from search.service.batcher import StageDied
from search.service.doorkeeper import sentence_of, status_of
from search.service.options import ServeOptions
from search.service.tokens import add_token, read_tokens
from search.service.uploads import BadUpload
from tests.search.service.conftest import Encoders, Running, photo, served

ROUTES = ("/v1/bundle", "/v1/openapi.json", "/healthz", "/readyz", "/metrics", "/nothing", "/v1/cells/1")


def test_every_answer_has_headers_that_keep_browsers_safe(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        responses = [await running.client.get(route) for route in ROUTES]
        responses.append(await running.client.get("/", headers={"host": "evil.example"}))
        responses.append(await running.client.post("/v1/locate", headers={"origin": "null"}))
        responses.append(await running.post("/v1/locate", [("a", photo(0))]))
        for response in responses:
            headers = response.headers
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert not {"access-control-allow-origin", "server", "set-cookie"} & set(headers)

    served(test, world / "R", encoders)


def test_hosts_and_origins_are_looked_at_on_every_route_before_a_body(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        for route in ROUTES:
            response = await running.client.get(route, headers={"host": "evil.example:8000"})
            assert response.status_code == 421
            assert "evil.example" in response.json()["error"]
        for route in (*ROUTES, "/v1/locate", "/v1/check", "/v1/vectors"):
            for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
                response = await running.client.post(route, headers=headers, content=unread())
                assert response.status_code == 403
        own = await running.post("/v1/locate", [("a", photo(0))], headers={"origin": "http://127.0.0.1:8000"})
        assert own.status_code == 200
        assert await running.metric('geosurge_requests_total{route="none",status="421"}') == len(ROUTES)

    async def unread() -> Any:
        raise AssertionError("nothing of the body is read")
        yield b""

    served(test, world / "R", encoders)


def test_without_a_token_only_health_is_told(world: Path, encoders: Encoders, tmp_path: Path) -> None:
    token = add_token(tmp_path / "T", "desk")

    async def test(running: Running) -> None:
        for route in ROUTES:
            status = (await running.client.get(route)).status_code
            assert status == (200 if route in ("/healthz", "/readyz") else 401)
            headers = {"authorization": f"Bearer {token}"}
            assert (await running.client.get(route, headers=headers)).status_code in (200, 404)
        refused = await running.client.post("/v1/locate", content=b"x" * 10)
        assert refused.status_code == 401
        assert "Bearer" in refused.headers["www-authenticate"]

    served(test, world / "R", encoders, tokens=read_tokens(tmp_path / "T"))


def test_head_is_get_without_the_body(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        for route in ("/healthz", "/readyz", "/v1/bundle", "/v1/openapi.json"):
            head, get = await running.client.head(route), await running.client.get(route)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == get.headers["content-length"]

    served(test, world / "R", encoders)


def test_what_takes_too_long_is_504_and_what_does_not_arrive_408(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        running.decoding.before = asyncio.Event().wait
        response = await running.post("/v1/locate", [("a", photo(0))])
        assert response.status_code == 504
        assert "longer than 0.3 s" in response.json()["error"]
        assert running.service.admission.inside == 0

        async def slow() -> Any:
            yield b"--b\r\n"
            await asyncio.sleep(5)

        headers = {"content-type": "multipart/form-data; boundary=b"}
        response = await running.client.post("/v1/locate", content=slow(), headers=headers)
        assert response.status_code == 408
        assert response.headers["connection"] == "close"
        assert running.service.admission.bytes_inside == 0

    served(test, world / "R", encoders, options=ServeOptions(timeout_s=0.3))


def test_an_error_that_nobody_foresaw_is_500_in_the_log_and_counted(
    world: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(_: object) -> None:
        raise ZeroDivisionError("what only the log says")

    monkeypatch.setattr("search.service.routes.bundle_facts", wrong)

    async def test(running: Running) -> None:
        response = await running.client.get("/v1/bundle")
        assert response.status_code == 500
        assert "log" in response.json()["error"]
        assert "only" not in response.text
        assert await running.metric('geosurge_requests_total{route="/v1/bundle",status="500"}') == 1
        assert (await running.client.get("/healthz")).status_code == 200

    served(test, world / "R", encoders)
    assert "what only the log says" in caplog.text


def test_logs_hold_no_photo_place_or_token(
    world: Path, encoders: Encoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = add_token(tmp_path / "T", "desk")

    async def test(running: Running) -> None:
        with caplog.at_level(logging.DEBUG):
            await running.post("/v1/locate", [("secret-photo.png", photo(0))], region="secret-place")
            await running.post("/v1/locate", [("secret-photo.png", b"secret-content")])
            await running.client.get("/", headers={"host": "secret-host"})

    headers = {"authorization": f"Bearer {token}"}
    served(test, world / "R", encoders, tokens=read_tokens(tmp_path / "T"), headers=headers)
    for record in caplog.records:
        if record.name.partition(".")[0] not in ("httpx", "httpcore"):  # the client
            assert "secret" not in record.getMessage()
            assert token not in record.getMessage()


def test_websockets_are_closed(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        await running.app({"type": "websocket", "path": "/", "headers": []}, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1008}]

    served(test, world / "R", encoders)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (Refused(421, "not here"), 421, "Not here."),
        (BadUpload(413, "Too much."), 413, "Too much."),
        (Full(7), 429, "As much as may wait is waiting; try again in 7 s."),
        (InputError("`k` is wrong."), 400, "`k` is wrong."),
        (BundleMismatch("no"), 400, "No."),
        (WorkError("memory ran out"), 503, "Memory ran out."),
        (StageDied("gone"), 503, "Gone."),
    ],
)
def test_an_error_is_a_status_and_a_sentence(error: Exception, status: int, text: str) -> None:
    assert (status_of(error)[0], sentence_of(error)) == (status, text)
    assert (status in (429, 503)) == ("Retry-After" in status_of(error)[1])
