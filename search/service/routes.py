"""The routes of version 1, each: read what was sent, ask, answer as JSON."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, TypeVar, get_args

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.requests import ClientDisconnect

from encoder.config import CropName
from indexer.bundles.bundle_facts import bundle_facts
from indexer.cells.hierarchy import Hierarchy
from indexer.choices import check_choice
from indexer.errors import GeoError, InputError, WorkError
from indexer.photos.photo import Photo
from search.answers.constraints import names_file
from search.locate import given_photos, given_vectors
from search.runs.audit_log import log_request
from search.service import openapi
from search.service.admission import Visit
from search.service.service import Service, service_of
from search.service.stages import Drawn, PhotoVectors, Question
from search.service.tokens import Asker
from search.service.uploads import BadUpload, Form, Upload, read_form, within
from search.service.vector_bodies import VectorBody
from search.service.versions import OpenedVersion

log = logging.getLogger(__name__)

router = APIRouter()
T = TypeVar("T")

GEOJSON, HTML = "application/geo+json", "text/html"
# Its style and pictures are inside it, and it runs nothing.
_PAGE_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
_DRAWN = 200_000  # cells of all photos of a request as GeoJSON, some 100 MB


@router.post("/v1/locate", openapi_extra=openapi.LOCATE)
async def locate(request: Request) -> Response:
    """Say where photos were taken."""
    service, asker = service_of(request), _asker(request)
    with service.admission.visit() as visit:
        form = await _form(request, service, asker, visit)
        crops, wanted = _crops(form.fields), _wanted(request, form.fields)
        photos = _photos(form)
        with service.versions.lease() as version:
            question = service.question(version, asker, crops, wanted)
            _check_drawn(question, len(photos))
            await _log(service, "locate", asker, version, photos=[each.name for each in photos], crops=crops, **wanted)
            result = await _photo_result(request, service, question, photos)
    service.metrics.rows.labels("/v1/locate").inc(len(photos))
    return result


@router.post("/v1/check", openapi_extra=openapi.CHECK)
async def check(request: Request) -> Response:
    """Say whether photos may have been taken where they are said to have been."""
    service, asker = service_of(request), _asker(request)
    with service.admission.visit() as visit:
        form = await _form(request, service, asker, visit)
        crops, place = _crops(form.fields), form.fields.get("claim", "").strip()
        if not place:
            raise InputError("`claim` is missing: a place as lat,lng in degrees, or the name of a city.")
        within_km, photos = _number(form.fields, "within_km"), _photos(form)
        names = [each.name for each in photos]
        with service.versions.lease() as version:
            question = service.question(version, asker, crops, {"claim": (place, within_km)})
            await _log(service, "check", asker, version, photos=names, crops=crops, claim=place, within_km=within_km)
            result = await _photo_result(request, service, question, photos)
    service.metrics.rows.labels("/v1/check").inc(len(photos))
    return result


@router.post("/v1/vectors", openapi_extra=openapi.VECTORS)
async def vectors(request: Request) -> Response:
    """Say where photos were taken whose vectors are known."""
    service, asker = service_of(request), _asker(request)
    crops, wanted = _crops(request.query_params), _wanted(request, request.query_params)
    with service.admission.visit() as visit:
        service.access.check_rate(asker)
        body = VectorBody(service.width, service.options.max_vectors)
        pieces, kind = _pieces(request, service, visit), request.headers.get("content-type", "")
        batch = given_vectors(await body.read(pieces, kind, visit), width=body.width)
        service.access.spend(asker, len(batch))
        with service.versions.lease() as version:  # of the same encoder, whatever was published meanwhile
            question = service.question(version, asker, crops, wanted)
            _check_drawn(question, len(batch))
            await _log(service, "vectors", asker, version, vectors=len(batch), crops=crops, **wanted)
            result = await _result(request, service, question, PhotoVectors(batch))
    service.metrics.rows.labels("/v1/vectors").inc(len(batch))
    return result


@router.get("/v1/bundle", openapi_extra=openapi.BUNDLE)
async def bundle(request: Request) -> Response:
    """Say what the bundle that answers is made of."""
    with service_of(request).versions.lease() as version:
        return JSONResponse(await asyncio.to_thread(bundle_facts, version.bundle))


@router.get("/v1/cells/{key:path}", openapi_extra=openapi.CELL)
async def cell(request: Request, key: str) -> Response:
    """Say what is known of a cell, by its key."""
    with service_of(request).versions.lease() as version:
        found = await asyncio.to_thread(_cell, version.bundle.hierarchy, key)
    if found is None:
        return JSONResponse({"error": f"No cell {key[:80]!r} in this bundle."}, 404)
    return JSONResponse({"bundle": version.version, **found})


@router.get("/healthz", include_in_schema=False)
async def healthz() -> Response:
    """Whether the process lives."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", openapi_extra=openapi.READY)
async def readyz(request: Request) -> Response:
    """Whether it answers, and from which version; 503 where a stage does not work.

    A version that is current and was refused does not make it 503, for the one before it still answers: who publishes a
    damaged one would else end all services at once. Why something failed is told to those who may ask.
    """
    service = service_of(request)
    faults, state = service.faults, service.versions.state()
    if request.state.asker is None:
        faults = dict.fromkeys(faults, "the log says why")
        state["refused"] = state["refused"] and state["refused"] | {"reason": "the log says why"}
    return JSONResponse({"ready": not faults, "faults": faults, **state}, 503 if faults else 200)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """What it has counted, for Prometheus."""
    service = service_of(request)
    counts, state = service.metrics, service.versions.state()
    counts.inside.set(service.admission.inside)
    counts.bytes_inside.set(service.admission.bytes_inside)
    for stage, waiting in service.stages.waiting.items():
        counts.waiting.labels(stage).set(waiting)
    counts.swaps.set(state["swaps"])
    counts.refused.set(state["refused"] is not None)
    for stage, deaths in service.stages.deaths.items():
        counts.deaths.labels(stage).set(deaths)
    counts.version.clear()
    counts.version.labels(state["version"]).set(1)
    return PlainTextResponse(counts.text(), media_type="text/plain; version=0.0.4")


def _asker(request: Request) -> Asker:
    asker = request.state.asker
    assert isinstance(asker, Asker)
    return asker


def _pieces(request: Request, service: Service, visit: Visit) -> AsyncIterator[bytes]:
    """The body as it comes, its bytes let in before they are kept."""

    async def held() -> AsyncIterator[bytes]:
        async for piece in request.stream():
            visit.hold(len(piece))
            yield piece

    max_bytes = int(service.options.max_mb * 1e6)
    return within(held(), request.headers.get("content-length", ""), max_bytes=max_bytes)


async def _form(request: Request, service: Service, asker: Asker, visit: Visit) -> Form:
    """The form of a request; its photos are counted, and let in, one by one."""
    most, maps = service.options.max_photos, 0

    def admit(field: str) -> None:
        nonlocal maps
        if field == "photos":
            if visit.rows >= most:
                raise BadUpload(413, f"More than {most} photos in one request: send several requests.")
            visit.enter()
        elif field == "class_maps":
            maps += 1
            if maps > visit.rows:
                raise BadUpload(400, "More class maps than photos so far: send each map after its photo.")
        else:
            raise BadUpload(
                400, f"A file in the field {field[:80]!r}: send photos in `photos`, their maps in `class_maps`."
            )

    service.access.check_rate(asker)
    form = await read_form(_pieces(request, service, visit), request.headers.get("content-type", ""), admit=admit)
    service.access.spend(asker, visit.rows)
    return form


def _photos(form: Form) -> list[Photo]:
    """The photos of a form, with their class maps where it has some."""
    photos, maps = list[Upload](), list[Upload]()
    for upload in form.files:
        (photos if upload.field == "photos" else maps).append(upload)
    if not photos:
        raise InputError("No photo: send one or several files in the field `photos`.")
    given = given_photos([each.content for each in photos], [each.content for each in maps] or None)
    return [
        Photo(upload.name, photo.data, photo.lat_deg, photo.lng_deg, photo.class_map)
        for upload, photo in zip(photos, given, strict=True)
    ]


def _wanted(request: Request, fields: Mapping[str, str]) -> dict[str, Any]:
    """What a request wants to be told of its photos, as `Service.question` takes it."""
    k, album, drawn = _whole(fields, "k", 1), _switch(fields, "album"), _drawn(request, fields)
    return {**_search_fields(fields), "k": k, "album": album, "drawn": drawn}


def _search_fields(fields: Mapping[str, str]) -> dict[str, Any]:
    """What a request says of where answers may lie and point. Files of this machine are never regions."""
    found = {name: fields[name].strip() for name in ("region", "not_region", "point") if fields.get(name, "").strip()}
    for name in ("region", "not_region"):
        if name in found and names_file(found[name]):
            raise InputError(f"`{name}` is country codes, a box as south,west,north,east, or GeoJSON itself.")
    return found


def _crops(fields: Mapping[str, str]) -> CropName:
    crops = fields.get("crops", "").strip() or "one"
    check_choice("crops", crops, CropName)
    return next(name for name in get_args(CropName) if name == crops)


def _whole(fields: Mapping[str, str], name: str, usual: int) -> int:
    text = fields.get(name, "").strip()
    try:
        return int(text) if text else usual
    except ValueError:
        raise InputError(f"`{name}` must be a whole number, not {text[:40]!r}.") from None


def _number(fields: Mapping[str, str], name: str) -> float | None:
    text = fields.get(name, "").strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise InputError(f"`{name}` must be a number, not {text[:40]!r}.") from None


async def _log(service: Service, command: str, asker: Asker, version: OpenedVersion, **request: Any) -> None:
    """Say in the audit log who asked, where there is one, before anything is answered. Raises WorkError."""
    if service.options.audit_log is None:
        return
    facts = {"user": asker.name, "bundle": version.version, **request}
    try:
        await asyncio.to_thread(log_request, service.options.audit_log, command, **facts)
    except GeoError as error:  # no fault of whoever asked, who need not know where it lies
        log.error("%s", error)
        raise WorkError("The audit log cannot be written, and nothing is answered without it.") from None


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of work, which is given up when whoever waits for it goes away. Raises ClientDisconnect then."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _drawn(request: Request, fields: Mapping[str, str]) -> Drawn | None:
    """What is to be drawn: a map, asked for by Accept or beside the answers by a field, or a page; None: nothing."""
    accepted = request.headers.get("accept", "")
    if HTML in accepted:
        return "page"
    return "map" if GEOJSON in accepted or _switch(fields, "posterior") else None


def _switch(fields: Mapping[str, str], name: str) -> bool:
    text = fields.get(name, "").strip().lower()
    if text not in ("", "no", "yes"):
        raise InputError(f"`{name}` must be yes or no, not {text[:40]!r}.")
    return text == "yes"


def _check_drawn(question: Question, photos: int) -> None:
    """Raise BadUpload where a map of so many photos would be too large."""
    cells = len(question.version.bundle.hierarchy.leaves)
    most = max(1, _DRAWN // cells)
    if question.drawn is not None and not question.album and photos > most:
        raise BadUpload(413, f"GeoJSON has {cells:,} cells for each photo here: ask for {most} at once, or for JSON.")


async def _photo_result(request: Request, service: Service, question: Question, photos: list[Photo]) -> Response:
    await _unless_gone(request, service.stages.check(question))
    encoded = service.stages.vectors(photos, question.crops, pictures=question.drawn == "page")
    return await _result(request, service, question, await _unless_gone(request, encoded))


async def _result(request: Request, service: Service, question: Question, photos: PhotoVectors) -> Response:
    """What a question is answered with; 422 where no photo could be read."""
    batch = photos.batch
    answered = bool(batch.ok.any())
    alone = GEOJSON in request.headers.get("accept", "")  # the map without the answers
    if alone and not answered:
        reasons = "; ".join(f"{photo}: {reason}" for photo, reason in zip(batch.photo, batch.reason, strict=True))
        return JSONResponse({"error": f"No photo to answer. {reasons}."}, 422)
    answers, drawn = await _unless_gone(request, service.stages.answers(question, photos))
    if question.drawn == "page":
        return Response(drawn, media_type=f"{HTML}; charset=utf-8", headers=_PAGE_HEADERS)
    if alone and drawn is not None:
        return JSONResponse(drawn, media_type=GEOJSON)
    name = "answers" if question.claim is None else "checks"
    bundle = question.version.bundle
    whole = {"bundle": bundle.version, "encoder": bundle.encoder, name: answers}
    return JSONResponse(whole if drawn is None else whole | {"posterior": drawn}, 200 if answered else 422)


def _cell(hierarchy: Hierarchy, key: str) -> dict[str, Any] | None:
    """A cell, with its ancestor and how many cells lie in it; None where there is none of that key.

    A cell that no finer level divides is one of several levels: the finest of them is told.
    """
    found = {number: np.flatnonzero(level.keys == key) for number, level in enumerate(hierarchy.levels)}
    levels = [number for number, rows in found.items() if rows.size]
    if not levels:
        return None
    number, row = levels[-1], int(found[levels[-1]][0])
    level, ancestor = hierarchy.levels[number], None
    if levels[0]:
        above = int(hierarchy.parents(levels[0])[found[levels[0]][0]])
        ancestor = str(hierarchy.levels[levels[0] - 1].keys[above])
    below = number + 1 < len(hierarchy.levels)
    return {
        "key": key,
        "levels": levels,
        "lat": float(level.lat_deg[row]),
        "lng": float(level.lng_deg[row]),
        "city": str(level.city[row]),
        "country": str(level.country[row]),
        "radius_km": float(level.radius_km[row]),
        "n_photos": int(level.n_photos[row]),
        "ancestor": ancestor,
        "cells": int((hierarchy.parents(number + 1) == row).sum()) if below else 0,
        "leaves": int(level.leaf_end[row] - level.leaf_begin[row]),
    }
