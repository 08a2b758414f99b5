"""Routes: what the command line answers, by HTTP; and what cannot be answered, with a reason."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image

from indexer.bundles.registry import Registry
from indexer.cli import main
from indexer.errors import InputError
from search.__main__ import COMMANDS
from search.answers.options import SearchOptions
from search.locate import Locator
from search.service.options import ServeOptions
from search.service.tokens import add_token, read_tokens
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH
from tests.search.service.conftest import Encoders, Running, photo, served

NAMES = ["0.png", "3.png", "1.png"]  # the second one is no image


def photos_of(world: Path, names: list[str] = NAMES) -> list[tuple[str, bytes]]:
    return [(name, (world / name).read_bytes()) for name in names]


def printed(capsys: pytest.CaptureFixture[str], command: str, world: Path, registry: str, *arguments: object) -> Any:
    """What a command prints as JSON of these photos, with their names in place of paths."""
    options = ("--registry", world / registry, "--checkpoint", world / "C", "--device", "cpu", "--json")
    main("search", "test", COMMANDS, argv=[str(each) for each in (command, *options, *arguments)])
    data = json.loads(capsys.readouterr().out)
    for rows in data.values():
        for row in rows if isinstance(rows, list) else []:
            row["photo"] = Path(row["photo"]).name
    return data


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, []),
        ({"k": 3, "crops": "five"}, ["--top-k", 3, "--crops", "five"]),
        ({"region": "-60,-170,70,170", "not_region": "FR", "point": "medoid"},
         ["--region=-60,-170,70,170", "--not-region", "FR", "--point", "medoid"]),
    ],
)  # fmt: skip
def test_answers_are_those_of_query(
    world: Path, encoders: Encoders, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], flags: list[Any]
) -> None:
    want = printed(capsys, "query", world, "R", *flags, *(world / name for name in NAMES))

    async def test(running: Running) -> None:
        response = await running.post("/v1/locate", photos_of(world), **fields)
        assert response.status_code == 200
        assert response.json() == want

    served(test, world / "R", encoders)


def test_checks_are_those_of_check(checkable: Path, encoders: Encoders, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [checkable / name for name in NAMES]
    for claim, within_km in (("48.8584,2.2945", 300), ("Lyon", None)):
        flags = [f"--claim={claim}", *([] if within_km is None else ["--within-km", within_km])]
        want = printed(capsys, "check", checkable, "Q", *flags, *paths)

        async def test(running: Running) -> None:
            fields = {"claim": claim} | ({} if within_km is None else {"within_km": within_km})  # noqa: B023
            response = await running.post("/v1/check", photos_of(checkable), **fields)
            assert (response.status_code, response.json()) == (200, want)  # noqa: B023

        served(test, checkable / "Q", encoders)


def test_vectors_are_answered_as_from_python_however_they_are_sent(world: Path, encoders: Encoders) -> None:
    rows = unit_rows(5, WIDTH, seed=3)
    locator = Locator.open(world / "R", device="cpu", options=SearchOptions(region="-60,-170,70,170"))
    want = json.loads(json.dumps([answer.to_dict() for answer in locator.locate_vectors(rows, k=2)]))
    npy = io.BytesIO()
    np.save(npy, rows)

    async def test(running: Running) -> None:
        query = {"k": 2, "region": "-60,-170,70,170"}
        for content, kind in (
            (npy.getvalue(), "application/x-npy"),
            (npy.getvalue(), "application/octet-stream"),
            (json.dumps({"vectors": rows.tolist()}).encode(), "application/json"),
        ):
            sent = {"content": content, "headers": {"content-type": kind}, "params": query}
            response = await running.client.post("/v1/vectors", **sent)
            assert response.status_code == 200
            assert response.json()["answers"] == want
        one = await running.client.post("/v1/vectors", json=rows[0].tolist(), params=query)
        (answer,) = one.json()["answers"]
        assert answer == want[0] | {"score": answer["score"], "probability": answer["probability"]} | {
            name: answer[name]
            for name in ("path", "top", "entropy", "lat", "lng")  # other sums round otherwise
        }

    served(test, world / "R", encoders)


def test_a_posterior_is_geojson_with_shares_that_add_up(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        geojson = {"accept": "application/geo+json"}
        response = await running.post("/v1/locate", photos_of(world), headers=geojson)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/geo+json"
        data = response.json()
        assert data["bundle"] == running.service.versions.served
        shares: dict[str, float] = {}
        for feature in data["features"]:
            facts = feature["properties"]
            assert "s2_id" not in facts
            shares[facts["photo"]] = shares.get(facts["photo"], 0) + facts["share"]
        assert shares == {"0.png": pytest.approx(1), "1.png": pytest.approx(1)}
        answers = (await running.post("/v1/locate", photos_of(world))).json()["answers"]
        best = {each["properties"]["photo"]: each["properties"]["key"] for each in reversed(data["features"])}
        assert best == {answer["photo"]: answer["key"] for answer in answers if answer["status"] == "ok"}
        nothing = await running.post("/v1/locate", photos_of(world, ["3.png"]), headers=geojson)
        assert nothing.status_code == 422
        assert "3.png" in nothing.json()["error"]
        vectors = await running.client.post("/v1/vectors", json=unit_rows(2, WIDTH, 0).tolist(), headers=geojson)
        assert {each["properties"]["photo"] for each in vectors.json()["features"]} == {"0", "1"}

    served(test, world / "R", encoders)


def test_geojson_of_too_many_cells_is_refused(world: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.service.routes._DRAWN", 1)

    async def test(running: Running) -> None:
        geojson = {"accept": "application/geo+json"}
        assert (await running.post("/v1/locate", photos_of(world, ["0.png"]), headers=geojson)).status_code == 200
        response = await running.post("/v1/locate", photos_of(world, ["0.png", "1.png"]), headers=geojson)
        assert response.status_code == 413
        assert "ask for 1 at once" in response.json()["error"]

    served(test, world / "R", encoders)


def test_photos_of_many_requests_are_never_swapped(world: Path, encoders: Encoders) -> None:
    files = [(f"{seed}.png", photo(seed)) for seed in range(24)]
    locator = Locator.open(world / "R", checkpoint=world / "C", device="cpu")
    scores = {name: locator.locate([content])[0].score for name, content in files}
    assert len(set(scores.values())) > 20

    async def test(running: Running) -> None:
        parts = [files[begin : begin + size] for begin, size in ((0, 1), (1, 5), (6, 2), (8, 9), (17, 7))]
        responses = await asyncio.gather(*(running.post("/v1/locate", part) for part in parts))
        for part, response in zip(parts, responses, strict=True):
            answers = response.json()["answers"]
            assert [answer["photo"] for answer in answers] == [name for name, _ in part]
            assert [answer["row"] for answer in answers] == list(range(len(part)))
            for answer in answers:
                assert answer["score"] == pytest.approx(scores[answer["photo"]], abs=1e-4)
        assert await running.metric('geosurge_rows_total{route="/v1/locate"}') == 24
        assert await running.metric('geosurge_batch_rows_sum{stage="encode"}') == 24
        assert await running.metric('geosurge_batch_rows_count{stage="encode"}') < 24  # some went together

    served(test, world / "R", encoders)


def test_only_the_orientation_of_metadata_counts(world: Path, encoders: Encoders) -> None:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    tags.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    plain = photo(1)
    turned = io.BytesIO()
    Image.open(io.BytesIO(plain)).save(turned, "PNG", exif=tags)
    upright = io.BytesIO()
    Image.open(io.BytesIO(plain)).transpose(Image.Transpose.ROTATE_270).save(upright, "PNG")

    async def test(running: Running) -> None:
        files = [("a", turned.getvalue()), ("a", upright.getvalue()), ("a", plain)]
        first, second, third = (await running.post("/v1/locate", files)).json()["answers"]
        assert first | {"row": 1} == second
        assert first["score"] != third["score"]

    served(test, world / "R", encoders)


POINT = {"type": "Polygon", "coordinates": [[[-80, -60], [80, -60], [80, 70], [-80, 70], [-80, -60]]]}


@pytest.mark.parametrize(
    ("route", "fields", "status", "message"),
    [
        ("/v1/locate", {"k": 0}, 400, "`k` must be a whole number from 1"),
        ("/v1/locate", {"k": 10**9}, 400, "`k` must be a whole number from 1"),
        ("/v1/locate", {"k": "two"}, 400, "`k` must be a whole number"),
        ("/v1/locate", {"k": "9" * 5000}, 400, "`k` must be a whole number"),
        ("/v1/locate", {"crops": "six"}, 400, "crops"),
        ("/v1/locate", {"point": "there"}, 400, "point"),
        ("/v1/locate", {"region": "XX"}, 400, "XX"),
        ("/v1/locate", {"region": "10,20,5,30"}, 400, "region"),
        ("/v1/locate", {"region": "/etc/secrets.json"}, 400, "country codes, a box"),
        ("/v1/locate", {"not_region": "..\\a.geojson"}, 400, "country codes, a box"),
        ("/v1/locate", {"region": "{"}, 400, "not GeoJSON"),
        ("/v1/locate", {"region": '{"type": "Point", "coordinates": [1, 2]}'}, 400, "polygons"),
        ("/v1/locate", {"region": "[" * 100_000}, 400, "region"),
        ("/v1/locate", {"region": '{"a":' * 40_000}, 400, "not GeoJSON"),
        ("/v1/locate", {"region": "41,-9,54,9"}, 400, "no cell of this bundle overlaps it"),
        ("/v1/check", {}, 400, "`claim` is missing"),
        ("/v1/check", {"claim": "95,2"}, 400, "latitude is 95"),
        ("/v1/check", {"claim": "1,nan"}, 400, "longitude"),
        ("/v1/check", {"claim": "Qwerville"}, 400, "Qwerville"),
        ("/v1/check", {"claim": "1,2", "within_km": "far"}, 400, "`within_km` must be a number"),
        ("/v1/check", {"claim": "1,2", "within_km": "-1"}, 400, "within_km"),
        ("/v1/check", {"claim": "1,2", "within_km": "nan"}, 400, "within_km"),
        ("/v1/check", {"claim": "1,2", "crops": "ten"}, 400, "not calibrated for ten crops"),
    ],
)
def test_questions_that_make_no_sense_are_refused_before_photos_are_decoded(
    checkable: Path, encoders: Encoders, route: str, fields: dict[str, Any], status: int, message: str
) -> None:
    async def test(running: Running) -> None:
        async def never() -> None:
            raise AssertionError

        running.decoding.before = never
        response = await running.post(route, photos_of(checkable, ["0.png"]), **fields)
        assert (response.status_code, message in response.json()["error"]) == (status, True), response.text[:300]

    served(test, checkable / "Q", encoders)


def test_geojson_is_a_region_and_names_no_file(world: Path, encoders: Encoders, tmp_path: Path) -> None:
    file = tmp_path / "area.geojson"
    file.write_text(json.dumps(POINT))
    names = ["0.png", "1.png"]
    locator = Locator.open(world / "R", checkpoint=world / "C", device="cpu", options=SearchOptions(region=str(file)))
    want = [answer.key for answer in locator.locate([world / name for name in names])]

    async def test(running: Running) -> None:
        response = await running.post("/v1/locate", photos_of(world, names), region=json.dumps(POINT))
        assert [answer["key"] for answer in response.json()["answers"]] == want
        assert (await running.post("/v1/locate", photos_of(world, names), region=str(file))).status_code == 400

    served(test, world / "R", encoders)


def test_an_uncalibrated_bundle_has_no_p_values(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        response = await running.post("/v1/check", photos_of(world, ["0.png"]), claim="1,2")
        assert response.status_code == 400
        assert "was not calibrated" in response.json()["error"]

    served(test, world / "R", encoders)


def test_photos_that_cannot_be_read_are_rows_and_none_is_422(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        response = await running.post("/v1/locate", [("a", b""), ("b", b"no image")])
        assert response.status_code == 422
        assert [each["status"] for each in response.json()["answers"]] == ["empty", "not_an_image"]
        form = b'--b\r\nContent-Disposition: form-data; name="photos"\r\n\r\ntext\r\n--b--\r\n'
        response = await running.client.post("/v1/locate", content=form, headers={"content-type": TYPE})
        assert response.status_code == 400
        form = b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n1\r\n--b--\r\n'
        response = await running.client.post("/v1/locate", content=form, headers={"content-type": TYPE})
        assert response.status_code == 400
        assert "No photo" in response.json()["error"]

    served(test, world / "R", encoders)


TYPE = "multipart/form-data; boundary=b"


def test_limits_of_a_request_are_413(world: Path, encoders: Encoders) -> None:
    options = ServeOptions(max_photos=2, max_vectors=3, max_mb=0.05)

    async def test(running: Running) -> None:
        three = [(str(seed), photo(seed, size=(20, 20))) for seed in range(3)]
        response = await running.post("/v1/locate", three)
        assert response.status_code == 413
        assert "More than 2 photos" in response.json()["error"]
        response = await running.post("/v1/locate", [("a", b"x" * 60_000)])
        assert response.status_code == 413
        assert "larger than 50,000 bytes" in response.json()["error"]
        response = await running.client.post("/v1/vectors", json=unit_rows(4, WIDTH, seed=0).tolist())
        assert response.status_code == 413
        files = [("class_maps", ("a", b"x")), ("photos", ("a", b"x"))]
        response = await running.client.post("/v1/locate", files=files)
        assert response.status_code == 400
        assert "after its photo" in response.json()["error"]
        response = await running.client.post("/v1/locate", files=[("other", ("a", b"x"))])
        assert response.status_code == 400

    served(test, world / "R", encoders, options=options)


def test_who_comes_when_it_is_full_is_asked_to_come_again(world: Path, encoders: Encoders) -> None:
    options = ServeOptions(max_waiting=3, max_photos=3, max_vectors=3, max_waiting_mb=1, max_mb=1)
    go = asyncio.Event()

    async def test(running: Running) -> None:
        running.decoding.before = go.wait
        first = asyncio.create_task(running.post("/v1/locate", [("a", photo(0)), ("b", photo(1))]))
        await asyncio.sleep(0.1)
        assert running.service.admission.inside == 2
        assert await running.metric("geosurge_rows_inside") == 2
        for response in (
            await running.post("/v1/locate", [("c", photo(2)), ("d", photo(3))]),
            await running.client.post("/v1/vectors", json=unit_rows(2, WIDTH, seed=0).tolist()),
        ):
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert "try again" in response.json()["error"]
        assert running.service.admission.inside == 2
        go.set()
        assert (await first).status_code == 200
        running.service.admission.bytes_inside += 990_000
        assert (await running.post("/v1/locate", [("a", b"x" * 20_000)])).status_code == 429
        running.service.admission.bytes_inside -= 990_000

    served(test, world / "R", encoders, options=options)


def test_the_rate_of_a_token_is_429_before_anything_is_read(world: Path, encoders: Encoders, tmp_path: Path) -> None:
    desk, press = (add_token(tmp_path / "T", name) for name in ("desk", "press"))
    clock = [0.0]

    async def test(running: Running) -> None:
        two = [("a", photo(0)), ("b", photo(1))]
        mine, theirs = ({"authorization": f"Bearer {token}"} for token in (desk, press))
        assert (await running.post("/v1/locate", two)).status_code == 401
        assert (await running.post("/v1/locate", two, headers=mine)).status_code == 200
        response = await running.client.post("/v1/locate", content=b"nothing that is read", headers=mine)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "30"  # until one is left
        response = await running.client.post("/v1/vectors", json=[[1.0]], headers=mine)
        assert response.status_code == 429
        assert (await running.post("/v1/locate", two, headers=theirs)).status_code == 200
        assert (await running.client.get("/v1/bundle", headers=mine)).status_code == 200
        clock[0] = 61
        assert (await running.post("/v1/locate", two, headers=mine)).status_code == 200

    tokens = read_tokens(tmp_path / "T")
    served(test, world / "R", encoders, options=ServeOptions(rate=2), tokens=tokens, now=lambda: clock[0])


def test_a_token_may_have_a_precision_cap_of_its_own(world: Path, encoders: Encoders, tmp_path: Path) -> None:
    free, capped = add_token(tmp_path / "T", "free"), add_token(tmp_path / "T", "capped", precision_cap=9000)
    options = SearchOptions(precision_cap=9000)
    want = Locator.open(world / "R", checkpoint=world / "C", device="cpu", options=options).locate([world / "0.png"])

    async def test(running: Running) -> None:
        found = []
        for token in (capped, free):
            headers = {"authorization": f"Bearer {token}"}
            response = await running.post("/v1/locate", photos_of(world, ["0.png"]), headers=headers)
            found.append(response.json()["answers"][0])
        assert found[0]["key"] == want[0].key != found[1]["key"]
        headers = {"authorization": f"Bearer {capped}", "accept": "application/geo+json"}
        response = await running.post("/v1/locate", photos_of(world, ["0.png"]), headers=headers)
        keys = {each["properties"]["key"] for each in response.json()["features"]}
        assert want[0].key in keys
        assert found[1]["key"] not in keys

    served(test, world / "R", encoders, tokens=read_tokens(tmp_path / "T"))


def test_the_audit_log_names_who_asked_and_is_written_first(world: Path, encoders: Encoders, tmp_path: Path) -> None:
    log, token = tmp_path / "log.jsonl", add_token(tmp_path / "T", "desk")

    async def test(running: Running) -> None:
        await running.post("/v1/locate", [("a.png", photo(0)), ("b.png", b"")], region="FR", k=2)
        await running.post("/v1/check", [("a.png", photo(0))], claim="Lyon")
        await running.client.post("/v1/vectors", json=unit_rows(2, WIDTH, seed=0).tolist())
        await running.post("/v1/locate", [("a.png", photo(0))], k="x")  # nothing was asked

    headers = {"authorization": f"Bearer {token}"}
    options, tokens = ServeOptions(audit_log=log), read_tokens(tmp_path / "T")
    served(test, world / "R", encoders, options=options, tokens=tokens, headers=headers)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["command"] for line in lines] == ["locate", "check", "vectors"]
    assert {line["user"] for line in lines} == {"desk"}
    assert {line["bundle"] for line in lines} == {Registry(world / "R").current}
    assert (lines[0]["photos"], lines[0]["region"], lines[0]["k"]) == (["a.png", "b.png"], "FR", "2")
    assert (lines[1]["claim"], lines[1]["within_km"]) == ("Lyon", None)
    assert token not in log.read_text()


def test_a_log_that_cannot_be_written_means_no_answer(world: Path, encoders: Encoders, tmp_path: Path) -> None:
    async def test(running: Running) -> None:
        response = await running.post("/v1/locate", [("a.png", photo(0))])
        assert response.status_code == 503
        assert "audit log" in response.json()["error"]
        assert "absent" not in response.text

    served(test, world / "R", encoders, options=ServeOptions(audit_log=tmp_path / "absent" / "log"))


def test_cells_and_the_bundle_are_told(world: Path, encoders: Encoders, capsys: pytest.CaptureFixture[str]) -> None:
    from indexer.__main__ import COMMANDS as INDEXER

    assert main("indexer", "test", INDEXER, argv=["info", "--registry", str(world / "R"), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)

    async def test(running: Running) -> None:
        facts = (await running.client.get("/v1/bundle")).json()
        assert facts == {name: info[name] for name in facts}
        assert facts["version"] == running.service.versions.served
        with running.service.versions.lease() as version:
            levels = version.bundle.hierarchy.levels
        seen = 0
        for number, level in enumerate(levels):
            for row in (0, len(level) - 1):
                told = (await running.client.get(f"/v1/cells/{level.keys[row]}")).json()
                assert number in told["levels"]
                assert (told["key"], told["n_photos"]) == (level.keys[row], level.n_photos[row])
                assert told["lat"] == pytest.approx(level.lat_deg[row])
                assert told["lng"] == pytest.approx(level.lng_deg[row])
                assert (told["ancestor"] is None) == (0 in told["levels"])
                assert (told["cells"] == 0) == (len(levels) - 1 in told["levels"])
                if told["ancestor"] is not None:
                    above = (await running.client.get(f"/v1/cells/{told['ancestor']}")).json()
                    assert above["levels"][-1] == told["levels"][0] - 1
                    assert above["leaves"] > told["leaves"]
                seen += 1
        assert seen == 2 * len(levels)
        for key in ("absent", "", "%00", "..%2f..%2fetc%2fpasswd", "x" * 3000, "%ff", "'%22<script>"):
            response = await running.client.get(f"/v1/cells/{key}")
            assert response.status_code == 404
            assert "error" in response.json()

    served(test, world / "R", encoders)


def test_a_client_that_goes_away_gives_its_rows_back(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        never = asyncio.Event()
        cancelled = asyncio.Event()

        async def wait() -> None:
            try:
                await never.wait()
            finally:
                cancelled.set()

        running.decoding.before = wait
        request = httpx.Request("POST", "http://127.0.0.1:8000/v1/locate", files=[("photos", ("a", photo(0)))])
        messages = asyncio.Queue[dict[str, Any]]()
        messages.put_nowait({"type": "http.request", "body": request.read(), "more_body": False})
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {"type": "http", "method": "POST", "path": "/v1/locate", "raw_path": b"/v1/locate", "scheme": "http"}
        scope |= {"headers": headers, "query_string": b"", "root_path": "", "http_version": "1.1"}
        asked = asyncio.create_task(running.app(scope, messages.get, send))
        await asyncio.sleep(0.1)
        assert running.service.admission.inside == 1
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(asked, 5)  # and raises nothing that a server would log
        assert running.service.admission.inside == 0
        assert cancelled.is_set()
        assert await running.metric('geosurge_requests_total{route="/v1/locate",status="499"}') == 1

        cut = dict(scope)
        messages.put_nowait({"type": "http.request", "body": request.content[:100], "more_body": True})
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(running.app(cut, messages.get, send), 5)
        assert await running.metric('geosurge_requests_total{route="/v1/locate",status="499"}') == 2

    served(test, world / "R", encoders)


def test_health_and_readiness(world: Path, encoders: Encoders, tmp_path: Path) -> None:
    token = add_token(tmp_path / "T", "desk")

    async def test(running: Running) -> None:
        assert (await running.client.get("/healthz")).text == "ok\n"
        ready = await running.client.get("/readyz")
        state = {"version": running.service.versions.served, "refused": None, "swaps": 0}
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "faults": {}} | state)
        running.service.stages.searching._fail("search has ended: /srv/secret")
        for headers, why in (({}, "the log says why"), ({"authorization": f"Bearer {token}"}, "/srv/secret")):
            ready = await running.client.get("/readyz", headers=headers)
            assert ready.status_code == 503
            assert not ready.json()["ready"]
            assert why in ready.json()["faults"]["search"]
        running.service.stages.searching._died = None
        running.service.versions.refused = ("9" * 64, "/srv/secret")
        for headers, why in (({}, "the log says why"), ({"authorization": f"Bearer {token}"}, "/srv/secret")):
            ready = await running.client.get("/readyz", headers=headers)
            assert (ready.status_code, ready.json()["refused"]) == (200, {"version": "9" * 64, "reason": why})

    served(test, world / "R", encoders, tokens=read_tokens(tmp_path / "T"))


def test_work_that_fails_is_503_and_comes_again(world: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        def fail(*_: Any) -> Any:
            raise InputError("of this batch")

        running.service.stages.encoding._work = fail
        response = await running.post("/v1/locate", [("a", photo(0))])
        assert (response.status_code, response.json()["error"]) == (400, "Of this batch.")

        def die(*_: Any) -> Any:
            raise ZeroDivisionError

        running.service.stages.encoding._work = die
        response = await running.post("/v1/locate", [("a", photo(0))])
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert (await running.client.get("/readyz")).status_code == 503
        assert await running.metric('geosurge_stage_deaths{stage="encode"}') == 1

    served(test, world / "R", encoders, options=replace(ServeOptions(), batch_ms=0))
