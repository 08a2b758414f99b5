"""`python -m search serve` as it runs: one process that listens, drains, and says at start what is wrong."""

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from indexer.bundles.bundle import build_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from search.locate import Locator
from search.service.options import ServeOptions
from search.service.server import serve
from search.service.tokens import add_token
from tests.conftest import random_geocells
from tests.search.conftest import WIDTH
from tests.search.service.conftest import photo
from tests.search.service.self_signed import write_certificate
from tests.search.service.server_process import server

_SECONDS = 120


def test_it_serves_beyond_this_machine_encrypted_and_drains(
    world: Path, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    files = [("photos", (f"{seed}.png", photo(seed))) for seed in range(8)]
    locator = Locator.open(world / "R", checkpoint=world / "C", device="cpu")
    want = [answer.key for answer in locator.locate([content for _, (_, content) in files])]
    cert, key = write_certificate(tmp_path)
    trusted, token = ssl.create_default_context(cafile=str(cert)), add_token(tmp_path / "T", "desk")
    flags = ("--host", "0.0.0.0", "--tokens", tmp_path / "T", "--tls-cert", cert, "--tls-key", key)
    with server(world, *flags) as it, ExitStack() as opened:
        assert "loading" in it.lines[0]  # before a model is loaded
        address = it.url.replace("0.0.0.0", "localhost")
        mine = {"authorization": f"Bearer {token}"}
        client = opened.enter_context(httpx.Client(base_url=address, verify=trusted, headers=mine, timeout=60))
        assert client.post("/v1/locate", files=files, headers={"authorization": ""}).status_code == 401
        with pytest.raises(httpx.TransportError):
            httpx.get(address.replace("https", "http") + "/healthz")
        response = client.post("/v1/locate", files=files)
        assert [answer["key"] for answer in response.json()["answers"]] == want
        assert client.get("/readyz").status_code == 200
        assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 421

        # A body that is too large is refused while it comes, and the answer arrives.
        def endless() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\n'
            for _ in range(200):
                yield b"x" * 1_000_000

        headers = {"content-type": "multipart/form-data; boundary=b"}
        response = client.post("/v1/locate", content=endless(), headers=headers)
        assert response.status_code == 413

        # A publish is noticed within a second or so, and the next answers are from it.
        home = Registry(world / "R")
        geocells = random_geocells(hierarchy, WIDTH, 5, locator.encoder_digest)
        built = build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name
        home.publish(built)
        deadline = time.monotonic() + 20
        while client.get("/readyz").json()["version"] != built and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.post("/v1/locate", files=files).json()["bundle"] == built

        # SIGTERM: a request that is under way is answered, new connections are not taken.
        body = httpx.Request("POST", address + "/v1/locate", files=files)
        content = body.read()
        begun, answers = threading.Event(), list[httpx.Response]()

        def slowly() -> Iterator[bytes]:
            yield content[:1000]
            begun.set()
            time.sleep(1.5)
            yield content[1000:]

        def ask() -> None:
            headers = {"content-type": body.headers["content-type"]}
            answers.append(client.post("/v1/locate", content=slowly(), headers=headers))

        asking = threading.Thread(target=ask)
        asking.start()
        begun.wait()
        time.sleep(0.2)
        it.process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        with pytest.raises(httpx.ConnectError):
            httpx.get(address + "/healthz", verify=trusted)
        asking.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["answers"]) == 8
        assert it.process.wait(_SECONDS) == 0
    assert "Traceback" not in "".join(it.lines)
    assert not [line for line in it.lines if ".png" in line or token in line]


def test_what_is_wrong_is_told_before_a_model_is_loaded(world: Path, tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    (tmp_path / "T").write_text("")
    (tmp_path / "T").chmod(0o644)
    (tmp_path / "pem").write_text("no certificate")
    pem = tmp_path / "pem"
    cases = [
        (ServeOptions(port=port), f"Nothing can listen at 127.0.0.1, port {port}"),
        (ServeOptions(host="no.such.name.invalid", no_auth=True), "Nothing can listen at no.such.name.invalid"),
        (ServeOptions(tokens=tmp_path / "T"), "chmod 600"),
        (ServeOptions(tls_cert=pem, tls_key=pem), "cannot be used"),
        (ServeOptions(tls_cert=tmp_path / "absent", tls_key=pem), "cannot be used"),
        (ServeOptions(audit_log=tmp_path / "absent" / "log"), "log"),
    ]
    try:
        for options, message in cases:
            with pytest.raises(InputError, match=message):
                serve(world / "R", "no checkpoint: it is not reached", options=options)
        with pytest.raises(InputError, match="not a registry"):
            serve(tmp_path / "R", "no checkpoint")
    finally:
        taken.close()


def test_an_encoder_that_does_not_fit_is_refused_at_start(
    world: Path, hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    home = Registry(tmp_path / "R")
    geocells = random_geocells(hierarchy, WIDTH, 5, "f" * 64)
    home.publish(build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name)
    with pytest.raises(InputError, match="ffffffff"):
        serve(home.path, world / "C", options=ServeOptions(port=0))
