"""The application as a whole: its parts live as long as it, and every error is JSON."""

import asyncio
import shutil
from pathlib import Path

import pytest

from indexer.bundles.bundle import build_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from search.locate import Locator
from search.service.app import make_app
from tests.conftest import random_geocells, unit_rows
from tests.search.conftest import WIDTH
from tests.search.service.conftest import Encoders, Running, running, served


def test_it_starts_its_parts_and_ends_them(world: Path, encoders: Encoders) -> None:
    async def test() -> None:
        async with running(world / "R", encoders) as it:
            service = it.service
            assert service.following is not None
            assert not service.faults
        assert service.following.done()
        assert set(service.faults) >= {"follow", "encode", "search"}

    asyncio.run(test())


def test_a_task_that_follows_no_longer_is_a_fault(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        assert running.service.following is not None
        running.service.following.cancel()
        await asyncio.sleep(0)
        response = await running.client.get("/readyz")
        assert response.status_code == 503
        assert "follow" in response.json()["faults"]

    served(test, world / "R", encoders)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/v1/locate", 405),
        ("GET", "/v1/locate/", 404),
        ("PUT", "/v1/locate", 405),
        ("DELETE", "/v1/bundle", 405),
        ("OPTIONS", "/v1/locate", 405),
        ("TRACE", "/v1/bundle", 405),
        ("NONSENSE", "/v1/bundle", 405),
        ("HEAD", "/nothing", 404),
    ],
)
def test_what_is_not_there_is_told_as_json(
    world: Path, encoders: Encoders, method: str, path: str, status: int
) -> None:
    async def test(running: Running) -> None:
        response = await running.client.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        if method != "HEAD":
            assert "/v1/openapi.json" in response.json()["error"]
        if status == 405:
            assert response.headers["allow"] in ("POST", "GET")

    served(test, world / "R", encoders)


def test_two_applications_share_nothing(world: Path, encoders: Encoders) -> None:
    async def test() -> None:
        async with running(world / "R", encoders) as one, running(world / "R", encoders) as other:
            await one.client.get("/healthz")
            line = 'geosurge_requests_total{route="/healthz",status="200"}'
            assert await one.metric(line) == 1
            assert line not in (await other.client.get("/metrics")).text
            assert make_app(one.service) is not one.app

    asyncio.run(test())


def test_requests_over_publishes_never_fail_and_are_answered_by_the_version_they_name(
    world: Path, encoders: Encoders, tmp_path: Path, hierarchy: Hierarchy, hierarchy_folder: Path
) -> None:
    home = Registry(Path(shutil.copytree(world / "R", tmp_path / "R", symlinks=True)))
    geocells = random_geocells(hierarchy, WIDTH, 9, encoders["one"].encoder.digest)
    other = build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name
    names, rows = [str(home.current), other], unit_rows(20, WIDTH, seed=4)
    want = {name: Locator.open(home.path, version=name, device="cpu").locate_vectors(rows) for name in names}
    assert [each.key for each in want[names[0]]] != [each.key for each in want[other]]

    async def test(running: Running) -> None:
        seen, ended = set[str](), False

        async def ask(number: int) -> None:
            while not ended:
                data = (await running.client.post("/v1/vectors", json=rows[number].tolist())).json()
                seen.add(data["bundle"])
                assert data["answers"][0]["key"] == want[data["bundle"]][number].key

        async def publish() -> None:
            nonlocal ended
            for number in range(1, 7):
                home.publish(names[number % 2])
                while running.service.versions.served != names[number % 2]:
                    await asyncio.sleep(0.01)
            ended = True

        await asyncio.gather(publish(), *map(ask, range(len(rows))))
        assert seen == set(names)
        assert running.service.versions.swaps == 6

    served(test, home.path, encoders)
