"""The page: photos in a browser, answers on a map. All of it is served from here; it fetches nothing from elsewhere."""

import json
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from indexer.earth.places import countries, largest_cities
from search.pages.base_map import geojson
from search.pages.page import render
from search.service.access import COOKIE
from search.service.service import service_of

router = APIRouter(include_in_schema=False)

# Scripts, styles and data are files of ours; MapLibre makes its worker from a blob, and draws photos chosen here.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _POLICY}
_TOWNS = 4_000  # the largest: names on the map
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_OWN = ("service.js", "api.js", "map.js", "words.js", "service.css", "icon.svg")
_MAPLIBRE = ("maplibre-gl.js", "maplibre-gl.css")
_FRESH = {"cache-control": "no-cache"}  # asked for again each time: a newer service has other files
_SESSION_S = 12 * 3600


@router.get("/")
async def page() -> Response:
    """The page."""
    return HTMLResponse(render("service.html", package="search.service"), headers=_HEADERS)


@router.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """A file of the page."""
    made = _FILES.get(name)
    if made is None:
        return JSONResponse({"error": f"There is no file {name!r}."}, 404)
    content, kind = made()
    return Response(content, media_type=kind, headers=_FRESH)


@router.post("/v1/session")
async def log_in(request: Request) -> Response:
    """Keep the token that came with it in a cookie that no script reads; whoever has none was not let in."""
    token = request.headers.get("authorization", "").partition(" ")[2].strip()
    response = JSONResponse({"name": request.state.asker.name})
    secure = service_of(request).options.tls_cert is not None or request.url.scheme == "https"
    response.set_cookie(COOKIE, token, max_age=_SESSION_S, httponly=True, samesite="strict", secure=secure, path="/")
    return response


@router.get("/v1/session")
async def session(request: Request) -> Response:
    """Who asks, by the name that the file of tokens has."""
    return JSONResponse({"name": request.state.asker.name})


@router.delete("/v1/session")
async def log_out() -> Response:
    """Forget it."""
    response = JSONResponse({})
    response.delete_cookie(COOKIE, path="/")
    return response


def _file(package: str, folder: str, name: str) -> tuple[bytes, str]:
    content = files(package).joinpath(folder, name).read_bytes()
    return content, f"{_KINDS[name[name.rindex('.') :]]}; charset=utf-8"


def _world() -> tuple[bytes, str]:
    return json.dumps(geojson("low"), separators=(",", ":")).encode(), "application/json"


def _places() -> tuple[bytes, str]:
    """Names and places of the largest towns, the largest first, and all country codes."""
    rows = [(city.name, round(city.lat_deg, 3), round(city.lng_deg, 3)) for city in largest_cities(_TOWNS)]
    known = {"towns": rows, "countries": sorted(countries())}
    return json.dumps(known, separators=(",", ":")).encode(), "application/json"


_FILES: dict[str, Callable[[], tuple[bytes, str]]] = {
    **{name: cache(partial(_file, "search.service", "static", name)) for name in _OWN},
    **{name: cache(partial(_file, "maplibre", "srcjs", name)) for name in _MAPLIBRE},
    "world.json": cache(_world),
    "places.json": cache(_places),
}
