"""The page of the service names every route, option and metric, and none that is not there."""

import re
from dataclasses import fields

from search.service.metrics import Metrics
from search.service.options import ServeOptions
from search.service.routes import router
from tests.docs.markdown import ROOT

PAGE = (ROOT / "docs/service.md").read_text()


def test_every_route_is_there() -> None:
    routes = {route.path.replace(":path", "") for route in router.routes}  # type: ignore[attr-defined]
    named = set(re.findall(r"`(?:GET|POST) (/[^`]*)`", PAGE))
    assert named == routes | {"/v1/openapi.json"}


def test_every_option_is_there() -> None:
    flags = {"--" + field.name.replace("_", "-") for field in fields(ServeOptions)}
    assert {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", PAGE)} == set()


def test_every_metric_is_there() -> None:
    names = re.findall(r"^# TYPE (\w+)", Metrics().text().decode(), re.MULTILINE)
    own = {name for name in names if not name.endswith("_created")}
    assert set(re.findall(r"`(geosurge_\w+)`", PAGE)) == own


def test_limits_are_those_by_default() -> None:
    options = ServeOptions()
    assert f"| {options.max_photos}, {options.max_vectors} | of one request |" in PAGE
    assert f"| `--max-mb` | {options.max_mb:g} |" in PAGE
    assert f"| {options.max_waiting}, {options.max_waiting_mb:g} | photos and vectors in the service" in PAGE
    assert f"| `--timeout-s` | {options.timeout_s:g} |" in PAGE
    assert f"`--batch-ms` ({options.batch_ms:g})" in PAGE
    assert f"`--max-batch` ({options.max_batch})" in PAGE
