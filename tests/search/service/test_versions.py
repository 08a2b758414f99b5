"""Versions: a publish is taken up, what is under way keeps the old one, and what is damaged is refused."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder.config import ReadOptions
from indexer.bundles.bundle import Bundle, build_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import BundleMismatch, InputError
from search.answers.options import DEFAULT_OPTIONS, SearchOptions
from search.service.versions import OpenedVersion, Versions
from tests.conftest import random_geocells
from tests.search.conftest import WIDTH
from tests.search.service.conftest import Encoders

Add = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "R")


@pytest.fixture
def add(home: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, encoders: Encoders) -> Add:
    """Builds a version of a seed, and publishes it."""

    def added(seed: int, *, encoder: str = encoders["one"].encoder.digest, publish: bool = True) -> str:
        geocells = random_geocells(hierarchy, WIDTH, seed, encoder)
        name = build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name
        return home.publish(name) if publish else name

    return added


class Opener:
    """Opens versions and knows those that are in memory."""

    def __init__(self, encoders: Encoders) -> None:
        self._encoders, self._alive, self.most = encoders, list[weakref.ref[np.ndarray]](), 0

    def __call__(self, bundle: Bundle) -> OpenedVersion:
        self._alive.append(weakref.ref(bundle.model.geocells.vectors[0]))  # of what takes the memory
        self.most = max(self.most, self.alive)
        opened = OpenedVersion(bundle, self._encoders, device="cpu", options=DEFAULT_OPTIONS, read=ReadOptions())
        self.most = max(self.most, self.alive)
        return opened

    @property
    def alive(self) -> int:
        gc.collect()
        return sum(each() is not None for each in self._alive)


def follow(home: Registry, opener: Any, test: Callable[[Versions], Awaitable[None]]) -> None:
    async def run() -> None:
        versions = Versions(home.path, opener, look_s=0.01)
        await versions.start()
        following = asyncio.create_task(versions.follow())
        try:
            await asyncio.wait_for(test(versions), 60)
            assert not following.done()
        finally:
            following.cancel()

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def test_a_publish_is_taken_up_and_requests_keep_what_they_began_with(
    home: Registry, add: Add, encoders: Encoders
) -> None:
    first, opener = add(0), Opener(encoders)

    async def test(versions: Versions) -> None:
        assert versions.state() == {"version": first, "refused": None, "swaps": 0}
        with versions.lease() as held:
            second = add(1)
            await until(lambda: versions.served == second)
            assert held.version == first
            with versions.lease() as new:
                assert new.version == second
            # The first one is held, so that the third has to wait.
            third = add(2)
            await asyncio.sleep(0.2)
            assert (versions.served, opener.alive) == (second, 2)
        del held, new
        await until(lambda: versions.served == third)
        await until(lambda: opener.alive == 1)
        assert versions.swaps == 2
        home.publish(first)  # and back
        await until(lambda: versions.served == first)

    follow(home, opener, test)
    assert opener.most == 2


def test_two_versions_at_most_over_many_publishes_under_load(home: Registry, add: Add, encoders: Encoders) -> None:
    names = [add(seed, publish=False) for seed in range(4)]
    home.publish(names[0])
    opener, seen = Opener(encoders), set[str]()

    async def test(versions: Versions) -> None:
        async def ask() -> None:
            while True:
                with versions.lease() as version:
                    before = version.version
                    await asyncio.sleep(0.01)
                    assert version.version == before
                    seen.add(before)

        asking = [asyncio.create_task(ask()) for _ in range(5)]
        for name in [*names, *names]:
            home.publish(name)
            await until(lambda: versions.served == name)  # noqa: B023
            await asyncio.sleep(0.02)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    follow(home, opener, test)
    assert seen == set(names)
    assert opener.most == 2


def test_a_version_that_does_not_open_is_refused_and_one_that_does_ends_that(
    home: Registry, add: Add, encoders: Encoders, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add(0)

    async def test(versions: Versions) -> None:
        damaged = add(1, publish=False)
        file = home.versions_folder / damaged / "leaves.faiss"
        content = file.read_bytes()
        (home.path / "next").symlink_to(Path("versions") / damaged)  # as publishing does it, but nothing is checked
        file.write_bytes(content[:-10])
        (home.path / "next").rename(home.path / "current")
        await until(lambda: versions.refused is not None)
        assert versions.refused is not None
        assert versions.refused[0] == damaged
        assert "leaves.faiss" in versions.refused[1]
        assert versions.served == first
        await asyncio.sleep(0.1)
        file.write_bytes(content)  # the disk came back
        monkeypatch.setattr("search.service.versions._AGAIN_S", 0.05)
        await until(lambda: versions.served == damaged)
        assert versions.refused is None

    follow(home, Opener(encoders), test)
    assert caplog.text.count("cannot be served") == 1


def test_a_version_of_another_encoder_is_refused_and_going_back_ends_that(
    home: Registry, add: Add, encoders: Encoders
) -> None:
    first = add(0)

    async def test(versions: Versions) -> None:
        foreign = add(1, encoder="f" * 64)
        await until(lambda: versions.refused is not None)
        assert versions.refused is not None
        assert versions.refused[0] == foreign
        assert "ffffffff" in versions.refused[1]
        assert (versions.served, versions.swaps) == (first, 0)
        home.publish(first)
        await until(lambda: versions.refused is None)

    follow(home, Opener(encoders), test)


def test_anything_that_goes_wrong_at_opening_is_a_reason_and_ends_nothing(
    home: Registry, add: Add, encoders: Encoders
) -> None:
    first, opener = add(0), Opener(encoders)

    def open_version(bundle: Bundle) -> OpenedVersion:
        if bundle.version != first:
            raise MemoryError("no room")
        return opener(bundle)

    async def test(versions: Versions) -> None:
        add(1)
        await until(lambda: versions.refused is not None)
        assert versions.refused is not None
        assert versions.refused[1] == "MemoryError: no room"
        with versions.lease() as version:
            assert version.version == first

    follow(home, open_version, test)


def test_a_registry_that_goes_away_and_comes_back(home: Registry, add: Add, encoders: Encoders) -> None:
    first = add(0)

    async def test(versions: Versions) -> None:
        away = home.path.with_name("away")
        home.path.rename(away)
        await asyncio.sleep(0.1)
        assert versions.served == first
        away.rename(home.path)
        second = add(1)
        await until(lambda: versions.served == second)

    follow(home, Opener(encoders), test)


def test_it_does_not_start_where_there_is_nothing_to_serve(home: Registry, add: Add, encoders: Encoders) -> None:
    with pytest.raises(InputError):
        asyncio.run(Versions(home.path, Opener(encoders)).start())
    add(0, encoder="f" * 64)
    with pytest.raises(BundleMismatch):
        asyncio.run(Versions(home.path, Opener(encoders)).start())


def test_locators_of_the_latest_questions_are_kept(home: Registry, add: Add, encoders: Encoders) -> None:
    add(0)

    async def test(versions: Versions) -> None:
        with versions.lease() as version:
            first = version.locator("one", DEFAULT_OPTIONS)
            assert version.locator("one", SearchOptions()) is first
            assert version.locator("ten", DEFAULT_OPTIONS) is not first
            for cap in range(1, 20):
                version.locator("one", SearchOptions(precision_cap=cap * 100.0))
                assert version.locator("one", DEFAULT_OPTIONS) is first  # it is asked for again and again
            assert len(version._locators) == 8

    follow(home, Opener(encoders), test)
