"""The OpenAPI description: true of the routes, and its examples have the form of answers."""

import re
from pathlib import Path
from typing import Any

from search.service.routes import router
from tests.search.service.conftest import Encoders, Running, photo, served


def described(world: Path, encoders: Encoders) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    async def test(running: Running) -> None:
        found.append((await running.client.get("/v1/openapi.json")).json())

    served(test, world / "R", encoders)
    return found[0]


def test_every_route_of_version_1_is_described_with_its_errors(world: Path, encoders: Encoders) -> None:
    paths = described(world, encoders)["paths"]
    routes = {re.sub(":path", "", route.path) for route in router.routes}  # type: ignore[attr-defined]
    assert set(paths) == routes - {"/healthz", "/metrics"}
    for path, operations in paths.items():
        for operation in operations.values():
            assert operation["summary"]
            assert "200" in operation["responses"]
            if path != "/readyz":
                assert {"400", "401", "421"} <= set(operation["responses"])
        if "post" in operations:
            assert {"413", "415", "429", "503", "504"} <= set(operations["post"]["responses"])
            assert operations["post"]["requestBody"]["required"]


def example(description: dict[str, Any], path: str) -> dict[str, Any]:
    (operation,) = description["paths"][path].values()
    return operation["responses"]["200"]["content"]["application/json"]["example"]


def test_examples_have_the_fields_of_answers(checkable: Path, encoders: Encoders) -> None:
    async def test(running: Running) -> None:
        description = (await running.client.get("/v1/openapi.json")).json()
        files = [("a.png", photo(0))]
        located = (await running.post("/v1/locate", files)).json()
        checked = (await running.post("/v1/check", files, claim="1,2")).json()
        with running.service.versions.lease() as version:
            key = version.bundle.hierarchy.leaves.keys[0]
        for path, answer in (
            ("/v1/locate", located),
            ("/v1/vectors", located),
            ("/v1/check", checked),
            ("/v1/bundle", (await running.client.get("/v1/bundle")).json()),
            ("/v1/cells/{key}", (await running.client.get(f"/v1/cells/{key}")).json()),
            ("/readyz", (await running.client.get("/readyz")).json()),
        ):
            shown = example(description, path)
            assert set(shown) <= set(answer), path
            for name in {"answers", "checks"} & set(shown):
                assert set(shown[name][0]) <= set(answer[name][0])
                types = {field: type(value) for field, value in answer[name][0].items() if value is not None}
                for field, value in shown[name][0].items():
                    assert field not in types or isinstance(value, types[field] | int), field

    served(test, checkable / "Q", encoders)
