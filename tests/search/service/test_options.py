"""What can be chosen of a service: what makes no sense, or would be open to everybody unasked, is refused at start."""

from pathlib import Path
from typing import Any

import pytest

from indexer.errors import InputError
from search.service.options import ServeOptions


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_this_machine_may_ask_without_tokens(host: str) -> None:
    assert ServeOptions(host=host).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "geo.example.org", "localhost.example.org", ""])
def test_others_may_only_where_somebody_said_so(host: str) -> None:
    with pytest.raises(InputError, match="`tokens`, which python -m search token writes, or `no_auth`"):
        ServeOptions(host=host)
    assert not ServeOptions(host=host, no_auth=True).loopback
    assert not ServeOptions(host=host, tokens=Path("T")).loopback


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": -1}, "`port` must be from 0 to 65535"),
        ({"port": 65_536}, "`port`"),
        ({"batch_ms": -1}, "`batch_ms`"),
        ({"batch_ms": float("nan")}, "`batch_ms`"),
        ({"max_batch": 0}, "`max_batch`"),
        ({"workers": 0}, "`workers`"),
        ({"timeout_s": 0}, "`timeout_s`"),
        ({"rate": 0}, "`rate`"),
        ({"max_mb": float("inf")}, "`max_mb`"),
        ({"max_photos": 2000}, "`max_waiting` .* must not be below"),
        ({"max_vectors": 2000}, "`max_waiting` .* must not be below"),
        ({"max_mb": 2000}, "`max_waiting_mb` .* must not be below"),
        ({"tls_cert": Path("a")}, "go together"),
        ({"tls_key": Path("a")}, "go together"),
        ({"tokens": Path("T"), "no_auth": True}, "give one of them"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServeOptions(**options)
