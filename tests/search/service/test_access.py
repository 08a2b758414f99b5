"""Who is let in: by name of this service, from its own page, with a token, not too often."""

from pathlib import Path

import pytest

from search.service.access import COOKIE, Access, Caller, Refused, header_map
from search.service.options import ServeOptions
from search.service.tokens import ANYBODY, Asker, Tokens, add_token, read_tokens

PORT = 8000


def access(tokens: Tokens | None = None, *, port: int = PORT, **options: object) -> Access:
    return Access(ServeOptions(**options), tokens, port=port, now=lambda: 0.0)  # type: ignore[arg-type]


def caller(method: str = "POST", scheme: str = "http", **headers: str) -> Caller:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Caller(method, scheme, {"host": "127.0.0.1:8000"} | named)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000", "localhost.:8000", "[::1]:8000"]
)
def test_names_of_this_machine_are_known(host: str) -> None:
    access().check_host(caller(host=host))


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example:8000", "127.0.0.1:8001", "127.0.0.1", "localhost", "[::1]", "[::1]:80"),
        *("127.0.0.1.evil.example:8000", "evil@127.0.0.1:8000", "127.0.0.1:8000@evil", "127.0.0.1:", "[::1", "::1"),
        *("127.0.0.1:8000, evil.example", "localhost:٨000", "localhost:-1", "10.0.0.7:8000", "0.0.0.0:8000"),
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    with pytest.raises(Refused) as refused:
        access().check_host(caller(host=host))
    assert refused.value.status == 421
    with pytest.raises(Refused):
        access().check_host(Caller("GET", "http", {}))


def test_names_of_a_proxy_are_known_with_any_port() -> None:
    named = access(names=("geo.example.org", "Press.example.org"))
    for host in ("geo.example.org", "GEO.example.org:443", "press.example.org"):
        named.check_host(caller(host=host))
    with pytest.raises(Refused):
        named.check_host(caller(host="other.example.org"))


def test_a_port_that_is_usual_may_be_left_out() -> None:
    access(port=80).check_host(caller(host="localhost"))
    access(port=443).check_host(caller(scheme="https", host="localhost"))
    with pytest.raises(Refused):
        access(port=443).check_host(caller(host="localhost"))


def test_who_listens_at_all_addresses_answers_to_addresses_and_to_no_names() -> None:
    everywhere = access(host="0.0.0.0", no_auth=True)
    for host in ("10.0.0.7:8000", "[fd00::7]:8000", "localhost:8000"):
        everywhere.check_host(caller(host=host))
    for host in ("evil.example:8000", "10.0.0.7:8001", "999.0.0.7:8000"):
        with pytest.raises(Refused):
            everywhere.check_host(caller(host=host))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:8000"},
        {"sec_fetch_site": "none"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://LOCALHOST:8000", "host": "localhost:8000"},
        {"origin": "https://geo.example.org", "host": "geo.example.org"},
    ],
)
def test_programs_and_the_own_page_may_post(headers: dict[str, str]) -> None:
    access().check_origin(caller(**headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:8000"},
        {"sec_fetch_site": "nonsense"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:8001"},
        {"origin": "http://127.0.0.1"},
        {"origin": "null"},
        {"origin": ""},
    ],
)
def test_other_pages_may_not_post(headers: dict[str, str]) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "WHATEVER"):
        with pytest.raises(Refused) as refused:
            access().check_origin(caller(method, **headers))
        assert refused.value.status == 403
    access().check_origin(caller("GET", **headers))  # of which another page sees nothing


def test_a_token_comes_as_a_header_or_as_the_cookie_of_the_page(tmp_path: Path) -> None:
    token = add_token(tmp_path / "T", "desk")
    asking = access(read_tokens(tmp_path / "T"))
    for headers in (
        {"authorization": f"Bearer {token}"},
        {"authorization": f"bearer  {token} "},
        {"cookie": f"a=b; {COOKIE}={token}"},
        {"cookie": f'{COOKIE}="{token}"'},
    ):
        assert asking.asker(caller(**headers)).name == "desk"
    for headers in (
        {},
        {"authorization": token},
        {"authorization": f"Basic {token}"},
        {"authorization": f"Bearer {token[:-1]}"},
        {"authorization": "Bearer \udcff"},
        {"cookie": f"{COOKIE}x={token}"},
        {"cookie": "\x00; =;;"},
        {"authorization": "Bearer wrong", "cookie": f"{COOKIE}={token}"},  # who says who he is is held to it
    ):
        assert asking.known(caller(**headers)) is None
        with pytest.raises(Refused) as refused:
            asking.asker(caller(**headers))
        assert refused.value.status == 401
        assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")
        assert token not in refused.value.reason
    assert access().asker(caller()) is ANYBODY


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def seconds_left(access: Access, asker: Asker) -> int | None:
    """How long it is to wait; None: not at all."""
    try:
        access.check_rate(asker)
    except Refused as refused:
        return int(refused.headers["Retry-After"])
    return None


def test_the_rate_holds_over_time_for_requests_of_any_size() -> None:
    clock, sent = Clock(), 0
    limited = Access(ServeOptions(rate=30), None, port=PORT, now=clock)
    desk, press = Asker("desk", b""), Asker("press", b"")
    limited.spend(press, 1000)
    for _ in range(600):  # ten minutes, asking each second for more than a minute's worth
        clock.at += 1
        if wait_s := seconds_left(limited, desk):
            clock.at += wait_s - 1.01
            assert seconds_left(limited, desk) is not None
            clock.at += 1.01
            assert (
                seconds_left(limited, desk) is None
            )  # as it was seconds_left, and more than a second sooner it was not
        limited.spend(desk, 32)
        sent += 32
    assert sent <= 30 + 32 + clock.at * 0.5
    assert sent >= clock.at * 0.5 * 0.9


def test_each_asker_has_a_rate_of_its_own_and_without_one_there_is_no_limit() -> None:
    limited = access(rate=1)
    limited.spend(Asker("desk", b""), 1)
    with pytest.raises(Refused):
        limited.check_rate(Asker("desk", b""))
    limited.check_rate(Asker("press", b""))
    free = access()
    for _ in range(100):
        free.check_rate(ANYBODY)
        free.spend(ANYBODY, 10**6)


def test_headers_are_found_by_lower_case_names_and_none_is_lost() -> None:
    found = header_map([(b"Host", b"a"), (b"HOST", b"b"), (b"x", b"\xff")])
    assert found == {"host": "a, b", "x": "\xff"}
