"""What can be chosen of a service. Fields of options become flags of `python -m search serve`."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from encoder.config import DECODERS, check_bounds
from indexer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a service listens, who may ask, and how much at a time. InputError for values that make no sense.

    Args:
        host: address to listen at. Beyond this machine it wants `tokens`, or `no_auth`.
        port: to listen at; 0: any that is free.
        names: host names that a proxy, or a name server of yours, calls it by; requests by other names are refused.
        tokens: file of who may ask, as `python -m search token` writes it.
        no_auth: anybody who reaches it may ask.
        tls_cert: certificate to encrypt with, PEM.
        tls_key: its key, PEM.
        batch_ms: how long a photo waits for others to be encoded with, in milliseconds.
        max_batch: photos, or vectors, that go through a model or a search together.
        max_waiting: photos, or vectors, that are in the service at one time; more are asked to come again.
        max_waiting_mb: of their requests, in millions of bytes; the same.
        max_photos: of one request.
        max_vectors: of one request.
        max_mb: of one request, in millions of bytes.
        timeout_s: that a request may take, its arrival included.
        rate: photos, or vectors, a minute, of each token; with none, of everybody together. None: any number.
        workers: processes that decode photos.
        audit_log: file to add a line to for each request: who asked, when, for which photos, by the names they came by.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    tokens: Path | None = None
    no_auth: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    batch_ms: float = 5.0
    max_batch: int = 32
    max_waiting: int = 1024
    max_waiting_mb: float = 1024.0
    max_photos: int = 32
    max_vectors: int = 1024
    max_mb: float = 64.0
    timeout_s: float = 60.0
    rate: float | None = None
    workers: int = DECODERS
    audit_log: Path | None = None

    def __post_init__(self) -> None:
        check_bounds(self, "port", low=0, high=65_535)
        check_bounds(self, "batch_ms", low=0, high=10_000)
        check_bounds(self, "max_batch", "max_waiting", "max_photos", "max_vectors", "workers", low=1)
        check_bounds(self, "max_mb", "max_waiting_mb", "timeout_s", "rate", low=0.001)
        if self.max_mb > self.max_waiting_mb:
            raise InputError(
                f"`max_waiting_mb` ({self.max_waiting_mb:g}) must not be below `max_mb` ({self.max_mb:g}): such a "
                "request would never be let in."
            )
        if self.max_photos > self.max_waiting or self.max_vectors > self.max_waiting:
            raise InputError(
                f"`max_waiting` ({self.max_waiting}) must not be below `max_photos` ({self.max_photos}) and "
                f"`max_vectors` ({self.max_vectors}): such a request would never be let in."
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("`tls_cert` and `tls_key` go together.")
        if self.tokens is not None and self.no_auth:
            raise InputError("`tokens` says who may ask, and `no_auth` that anybody may: give one of them.")
        if not self.loopback and self.tokens is None and not self.no_auth:
            raise InputError(
                f"`host` {self.host} can be reached from other machines. Give `tokens`, which python -m search token "
                "writes, or `no_auth` where everybody who reaches it may ask."
            )

    @property
    def loopback(self) -> bool:
        """Whether it is reached from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:  # a name, which may mean any machine's address
            return False
