"""Stages with real processes: photos pass them as they pass `embed`, and a process that dies is seen and comes back."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from encoder.config import ReadOptions
from indexer.errors import InputError, WorkError
from indexer.photos.photo import Photo
from search.answers.options import DEFAULT_OPTIONS, SearchOptions
from search.locate import Locator
from search.service.batcher import StageDied
from search.service.stages import Decoding, Question, Stages
from search.service.versions import OpenedVersion
from tests.encoder.deadly import Deadly
from tests.search.service.conftest import Encoders, photo

Seen = list[tuple[str, int]]


def run(encoders: Encoders, test: Callable[[Stages, Seen], Awaitable[None]]) -> None:
    async def with_stages() -> None:
        seen, read = Seen(), encoders["one"].reader(ReadOptions())
        deadly = Deadly(*(getattr(read, name) for name in read.__dataclass_fields__))
        observe = lambda name, rows, _: seen.append((name, rows))  # noqa: E731
        stages = Stages(encoders, deadly, workers=2, most=16, wait_s=0.01, observe=observe)
        try:
            assert stages.faults == {"decode": "its processes are starting"}
            await stages.start()
            assert not stages.faults
            await asyncio.wait_for(test(stages, seen), 120)
        finally:
            await stages.close()

    asyncio.run(with_stages())


def test_photos_pass_as_they_do_elsewhere_and_a_death_is_seen_and_passes(world: Path, encoders: Encoders) -> None:
    photos = [Photo(str(seed), photo(seed)) for seed in range(5)] + [Photo("bad", b"no image")]
    locator = Locator.open(world / "R", checkpoint=world / "C", device="cpu")

    async def test(stages: Stages, seen: Seen) -> None:
        for crops in ("one", "ten"):
            batch = (await stages.vectors(photos, crops)).batch  # type: ignore[arg-type]
            want = Locator(locator.engine, encoders[crops]).embed(photos)  # type: ignore[index]
            assert (batch.photo, batch.status) == (want.photo, want.status)
            np.testing.assert_allclose(batch.embedding, want.embedding, atol=1e-6)
        assert ("decode", 6) in seen
        assert ("encode", 6) in seen

        deadly = [Photo("deadly", photo(0))]
        results = await asyncio.gather(
            *(stages.vectors(each, "one") for each in (deadly, photos, photos)), return_exceptions=True
        )
        assert isinstance(results[0], StageDied)
        assert "died" in str(results[0])
        assert stages.faults == {"decode": "its processes are starting"}
        assert stages.deaths["decode"] == 1
        with pytest.raises(StageDied, match="try again"):  # at once
            await stages.vectors(photos, "one")
        while stages.faults:
            await asyncio.sleep(0.05)
        np.testing.assert_allclose(
            (await stages.vectors(photos, "one")).batch.embedding, locator.embed(photos).embedding, atol=1e-6
        )

        # Killed from outside while nothing is under way: noticed with the next photo at the latest.
        pool = stages.decoding._pool
        assert pool is not None
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        while not stages.deaths["decode"] == 2:
            await asyncio.gather(stages.vectors(photos[:1], "one"), return_exceptions=True)
            await asyncio.sleep(0.05)
        while stages.faults:
            await asyncio.sleep(0.05)
        assert (await stages.vectors(photos, "one")).batch.status[:5] == ["ok"] * 5

    run(encoders, test)


def test_processes_that_do_not_start_are_tried_again(monkeypatch: pytest.MonkeyPatch, encoders: Encoders) -> None:
    monkeypatch.setattr("search.service.stages.REST_S", 0.01)
    attempts: list[int] = []

    async def start(self: Decoding) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise WorkError("no memory")

    monkeypatch.setattr(Decoding, "start", start)

    async def test() -> None:
        decoding = Decoding(encoders["one"].reader(ReadOptions()), workers=1, observe=lambda *_: None)
        await asyncio.wait_for(decoding._restart(), 5)

    asyncio.run(test())
    assert len(attempts) == 3


def test_questions_of_two_versions_are_never_answered_together(world: Path, encoders: Encoders) -> None:
    bundle = Locator.open(world / "R", device="cpu").engine.bundle
    one, other = (
        OpenedVersion(bundle, encoders, device="cpu", options=DEFAULT_OPTIONS, read=ReadOptions()) for _ in range(2)
    )
    assert Question(one, "one", DEFAULT_OPTIONS) == Question(one, "one", SearchOptions())
    assert Question(one, "one", DEFAULT_OPTIONS) != Question(other, "one", DEFAULT_OPTIONS)
    assert Question(one, "one", DEFAULT_OPTIONS, k=2) != Question(one, "one", DEFAULT_OPTIONS)


def test_what_makes_no_sense_is_told_before_photos_are_decoded(world: Path, encoders: Encoders) -> None:
    bundle = Locator.open(world / "R", device="cpu").engine.bundle
    version = OpenedVersion(bundle, encoders, device="cpu", options=DEFAULT_OPTIONS, read=ReadOptions())

    async def test() -> None:
        read = encoders["one"].reader(ReadOptions())
        stages = Stages(encoders, read, workers=1, most=4, wait_s=0, observe=lambda *_: None)  # never started
        try:
            await stages.check(Question(version, "one", DEFAULT_OPTIONS))
            await stages.check(Question(version, "one", SearchOptions(region="-60,-170,70,170"), k=2))
            for question in (
                Question(version, "one", DEFAULT_OPTIONS, k=10**6),
                Question(version, "one", SearchOptions(region="XX")),
                Question(version, "one", DEFAULT_OPTIONS, claim=("Lyon", None)),
                Question(version, "one", DEFAULT_OPTIONS, k=0, drawn="map"),
            ):
                with pytest.raises(InputError):
                    await stages.check(question)
        finally:
            await stages.close()

    asyncio.run(test())
