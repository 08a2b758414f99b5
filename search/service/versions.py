"""The bundle that a service answers from: the current one of a registry, taken up as soon as it is published.

A request leases the version that is served when it comes, and ends with it, whatever is published meanwhile. Two
bundles are in memory at most: the next one is opened when nobody holds the one before the present any more. A version
that does not open, or is of another encoder, is refused, and the old one stays.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.config import CropName, DeviceName, ReadOptions
from encoder.encode import PhotoEncoder
from indexer.bundles.bundle import Bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.errors import GeoError
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.locate import Locator

log = logging.getLogger(__name__)

_AGAIN_S = 30.0  # between attempts to open what was refused: a disk may have been away
_KEPT = 8  # locators of one version: each of other options takes memory of its own


class OpenedVersion:
    """One version with a locator for each way to ask it. Locators are made and used in the search's thread alone."""

    def __init__(
        self,
        bundle: Bundle,
        encoders: dict[CropName, PhotoEncoder],
        *,
        device: DeviceName,
        options: SearchOptions,
        read: ReadOptions,
    ) -> None:
        """encoders: that photos go through. Raises GeoError where they do not go together, or as `Engine`."""
        self.bundle = bundle
        self._encoders, self._device, self._read = encoders, device, read
        self._locators = OrderedDict[tuple[CropName, SearchOptions], Locator]()
        self.locator("one", options)  # what most ask for, so that the first of them does not wait

    @property
    def version(self) -> str:
        """Digest of the bundle."""
        return self.bundle.version

    def locator(self, crops: CropName, options: SearchOptions) -> Locator:
        """What answers such questions. Raises as `Engine`, and where the encoder is another than the bundle's."""
        key = crops, options
        if key in self._locators:
            self._locators.move_to_end(key)
            return self._locators[key]
        engine = Engine(self.bundle, device=self._device, options=options, protocol=crops)
        encode = self._encoders[crops]
        engine.check_encoder(encode.encoder.digest, source="the checkpoint")
        self._locators[key] = locator = Locator(engine, encode, read=self._read)
        while len(self._locators) > _KEPT:
            self._locators.popitem(last=False)
        return locator


@dataclass(slots=True, eq=False)
class _Holder:
    opened: OpenedVersion
    requests: int = 0  # that hold it


class Versions:
    """Follows the current version of a registry."""

    def __init__(self, registry: Path, open_version: Callable[[Bundle], OpenedVersion], *, look_s: float = 0.5) -> None:
        """open_version: what a bundle is served by. look_s: between looks at what is current."""
        self._home, self._open, self._look_s = Registry(registry), open_version, look_s
        self._served: _Holder | None = None
        self._before: _Holder | None = None  # where requests still hold it
        self._let_go = asyncio.Event()  # set when they no longer do
        self.refused: tuple[str, str] | None = None  # the version that is current and is not served, and why
        self._refused_at = 0.0  # by the monotonic clock
        self.swaps = 0

    async def start(self) -> None:
        """Open what is current. Raises GeoError where there is nothing, or it cannot be served."""
        self._served = _Holder(await asyncio.to_thread(self._opened, None))

    @contextmanager
    def lease(self) -> Iterator[OpenedVersion]:
        """The version that is served now, for as long as a block runs."""
        holder = self._served
        assert holder is not None, "it was started"
        holder.requests += 1
        try:
            yield holder.opened
        finally:
            holder.requests -= 1
            if not holder.requests and holder is self._before:
                self._before = None
                self._let_go.set()

    @property
    def served(self) -> str:
        """Digest of the version that is served."""
        assert self._served is not None, "it was started"
        return self._served.opened.version

    async def follow(self) -> None:
        """Take up what is published, for ever. Nothing that a registry holds ends it."""
        while True:
            await asyncio.sleep(self._look_s)
            current = await asyncio.to_thread(self._current)
            if current is None or current == self.served:
                self.refused = None  # what was published before and failed is no longer current
            elif self.refused is None or self.refused[0] != current or time.monotonic() > self._refused_at + _AGAIN_S:
                await self._take_up(current)

    async def _take_up(self, version: str) -> None:
        while self._before is not None:
            self._let_go.clear()
            await self._let_go.wait()
        try:
            opened = await asyncio.to_thread(self._opened, version)
        except Exception as error:  # noqa: BLE001 (whatever is wrong with it: the one that is served stays)
            why = str(error) if isinstance(error, GeoError) else f"{type(error).__name__}: {error}"
            if self.refused != (version, why):
                log.error("version %s is current and cannot be served: %s", version[:12], why)
            self.refused, self._refused_at = (version, why), time.monotonic()
            return
        before, self._served, self.refused = self._served, _Holder(opened), None
        self._before = before if before is not None and before.requests else None
        self.swaps += 1
        log.info("version %s is served", version[:12])

    def _current(self) -> str | None:
        try:
            return self._home.current
        except OSError as error:  # a disk that went away, for a while
            log.warning("the registry cannot be read: %s", error)
            return None

    def _opened(self, version: str | None) -> OpenedVersion:
        return self._open(open_bundle(self._home.resolve(version)))

    def state(self) -> dict[str, Any]:
        """For readiness and metrics."""
        refused = None if self.refused is None else {"version": self.refused[0], "reason": self.refused[1]}
        return {"version": self.served, "refused": refused, "swaps": self.swaps}
