"""Who may ask, how often, and by what name and page: looked at before anything of a request's body is read.

A page on the web can make a browser send requests to a service on its own machine. So a request is refused whose Host
is not a name of this service (a name server that lies would have it so: DNS rebinding), and one that changes something
or carries a photo and comes from a page of another origin.
"""

import ipaddress
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from search.service.options import ServeOptions
from search.service.tokens import ANYBODY, Asker, Tokens

COOKIE = "geosurge_token"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Refused(Exception):
    """A request that is not let in: the HTTP status, a sentence, and headers that go with it."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a request before its body is read."""

    method: str
    scheme: str
    headers: Mapping[str, str]  # by lower-case names; of a name that came twice, both with a comma between


class Access:
    """Lets requests in, or says why not. Only for one event loop."""

    def __init__(self, options: ServeOptions, tokens: Tokens | None, *, port: int, now: Callable[[], float]) -> None:
        """tokens: of who may ask; None: anybody. port: that it listens at. now: seconds, of a clock that only rises."""
        self._tokens, self._now = tokens, now
        self._port = port
        self._any_address = options.host in ("0.0.0.0", "::")
        self._names = _LOOPBACK_NAMES | {options.host.strip("[]").lower(), *(name.lower() for name in options.names)}
        self._proxied = frozenset(name.lower() for name in options.names)
        self._rates = _Rates(options.rate)

    def check_host(self, caller: Caller) -> None:
        """Raises Refused, 421, where the request was meant for somebody else."""
        host = caller.headers.get("host", "")
        name, port = _host_and_port(host)
        known = name in self._names or (self._any_address and _is_address(name))
        # A proxy has a port of its own; otherwise it is ours.
        right_port = name in self._proxied or (port or _DEFAULT_PORTS.get(caller.scheme)) == self._port
        if not (known and right_port):
            raise Refused(421, f"This service is not {host[:80]!r}. Its operator can add that name to `names`.")

    def check_origin(self, caller: Caller) -> None:
        """Raises Refused, 403, where a page of another origin sent it."""
        if caller.method in _SAFE_METHODS:
            return
        site = caller.headers.get("sec-fetch-site")
        origin = caller.headers.get("origin")
        if site is not None:
            foreign = site not in ("same-origin", "none")
        else:
            foreign = (
                origin is not None and origin.partition("://")[2].lower() != caller.headers.get("host", "").lower()
            )
        if foreign:
            raise Refused(403, "A page of another origin may not ask this service.")

    def known(self, caller: Caller) -> Asker | None:
        """Who asks; None where a token is wanted and this is nobody's."""
        return ANYBODY if self._tokens is None else self._tokens.asker(_token(caller.headers))

    def asker(self, caller: Caller) -> Asker:
        """Who asks. Raises Refused, 401, where that is not known."""
        asker = self.known(caller)
        if asker is None:
            raise Refused(
                401,
                "Give a token of this service: Authorization: Bearer ...",
                {"WWW-Authenticate": 'Bearer realm="geosurge"'},
            )
        return asker

    def check_rate(self, asker: Asker) -> None:
        """Raises Refused, 429, where an asker has used up what the rate allows; before anything of a body is read."""
        wait_s = self._rates.wait_s(asker.name, self._now())
        if wait_s > 0:
            reason = f"{asker.name} has asked for as many photos as it may at present: try again later."
            raise Refused(429, reason, {"Retry-After": str(math.ceil(wait_s))})

    def spend(self, asker: Asker, rows: int) -> None:
        """Count photos or vectors that an asker sent, all of a request together."""
        self._rates.spend(asker.name, rows, self._now())


class _Rates:
    """So many a minute of each name.

    How many a request has is known when it was read. So one is let in as long as anything is left, and what it had too
    many is made good before the next one: requests larger than a minute's worth come through, too.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._per_minute = per_minute
        self._left = dict[str, tuple[float, float]]()  # of a name: rows it may ask for, below 0 too, and when

    def wait_s(self, name: str, now: float) -> float:
        """Until anything is left; 0: now."""
        if self._per_minute is None:
            return 0.0
        enough = min(1.0, self._per_minute)
        return max(0.0, (enough - self._now_left(name, now)) * 60 / self._per_minute)

    def spend(self, name: str, rows: int, now: float) -> None:
        if self._per_minute is not None:
            self._left[name] = self._now_left(name, now) - rows, now

    def _now_left(self, name: str, now: float) -> float:
        assert self._per_minute is not None
        left, at = self._left.get(name, (self._per_minute, now))
        return min(self._per_minute, left + (now - at) * self._per_minute / 60)


def _token(headers: Mapping[str, str]) -> str:
    """The token of a request: of its Authorization, else of the page's cookie; empty where there is none."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookie[COOKIE].value if COOKIE in cookie else ""


def _host_and_port(host: str) -> tuple[str, int | None]:
    """Name and port of a Host header, also of `[::1]:8000`; an empty name where it is none."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return "", None
    return name.lower().rstrip("."), int(port) if port else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def header_map(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers of an ASGI scope by lower-case names."""
    found = dict[str, str]()
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
