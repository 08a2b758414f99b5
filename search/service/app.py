"""The service as an ASGI application: its routes, the doorkeeper before them, and its parts as long as it lives.

Nothing here knows of sockets: `search.service.server` listens.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from indexer.errors import GeoError
from search.service import page, routes
from search.service.access import Refused
from search.service.admission import Full
from search.service.batcher import StageDied
from search.service.doorkeeper import Doorkeeper, explained
from search.service.service import Service
from search.service.uploads import BadUpload


def make_app(service: Service) -> FastAPI:
    """The application, which starts its parts when it is started, and ends them with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.following = asyncio.create_task(service.versions.follow(), name="follow")
        try:
            yield
        finally:
            service.following.cancel()
            await service.stages.close()

    app = FastAPI(
        title="GeoSURGE",
        description="Where on Earth photos were taken.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # its page fetches scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(page.router)
    for kind in (GeoError, Refused, Full, BadUpload, StageDied, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, explained)
    app.add_middleware(Doorkeeper, service=service)
    return app
