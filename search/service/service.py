"""What the routes of a service work with, in one object."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from encoder.config import CropName
from search.answers.options import SearchOptions
from search.service.access import Access
from search.service.admission import Admission
from search.service.metrics import Metrics
from search.service.options import ServeOptions
from search.service.stages import Question, Stages
from search.service.tokens import Asker
from search.service.versions import OpenedVersion, Versions


@dataclass(slots=True, eq=False)
class Service:
    """What routes work with."""

    options: ServeOptions
    search: SearchOptions  # of all answers, but what a request says of regions and points
    versions: Versions
    stages: Stages
    access: Access
    admission: Admission
    metrics: Metrics
    following: "asyncio.Task[None] | None" = None

    def question(self, version: OpenedVersion, asker: Asker, crops: CropName, wanted: Mapping[str, Any]) -> Question:
        """What a request asks. wanted: `k`, `claim`, `album`, `drawn`, and fields of SearchOptions.

        Raises:
            InputError: they do not go together.
        """
        own: dict[str, Any] = {
            name: wanted[name] for name in ("region", "not_region", "point") if wanted.get(name) is not None
        }
        caps = [cap for cap in (self.search.precision_cap, asker.precision_cap) if cap is not None]
        own |= {"precision_cap": max(caps)} if caps and max(caps) != self.search.precision_cap else {}
        options = replace(self.search, **own) if own else self.search
        rest = {name: wanted[name] for name in ("k", "claim", "album", "drawn") if name in wanted}
        return Question(version, crops, options, **rest)

    @property
    def width(self) -> int:
        """Of the vectors that it takes."""
        with self.versions.lease() as version:
            return version.bundle.model.geocells.width

    @property
    def faults(self) -> dict[str, str]:
        """Why it cannot answer at present; empty where it can."""
        faults = self.stages.faults
        if self.following is None or self.following.done():
            faults["follow"] = "new versions are not noticed any more"
        return faults


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
