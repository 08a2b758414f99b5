"""`search.serve`: a registry, a checkpoint and options in; a service that listens until it is told to end.

It binds before anything is loaded, so that a port in use is known at once. SIGTERM and Ctrl-C let requests that are
under way end; new ones are not taken.
"""

import asyncio
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from encoder.config import CropName, EncoderOptions, ReadOptions
from encoder.encode import PhotoEncoder, open_encoder
from indexer.bundles.bundle import Bundle
from indexer.bundles.registry import Registry
from indexer.errors import InputError
from search.answers.options import DEFAULT_OPTIONS, SearchOptions
from search.runs.audit_log import check_log
from search.service.access import Access
from search.service.admission import Admission
from search.service.app import make_app
from search.service.connection import Connection
from search.service.metrics import Metrics
from search.service.options import ServeOptions
from search.service.service import Service
from search.service.stages import Stages
from search.service.tokens import Tokens, read_tokens
from search.service.versions import OpenedVersion, Versions

log = logging.getLogger(__name__)

_CROPS: tuple[CropName, ...] = ("one", "five", "ten")
_DEFAULT_SERVE, _DEFAULT_ENCODER, _DEFAULT_READ = ServeOptions(), EncoderOptions(), ReadOptions()
_BACKLOG = 128
_CONNECTIONS = 900  # at one time, below the 1024 files that a process may have open as a rule


def serve(
    registry: str | Path,
    checkpoint: str | Path,
    *,
    options: ServeOptions = _DEFAULT_SERVE,
    search: SearchOptions = DEFAULT_OPTIONS,
    encoder: EncoderOptions = _DEFAULT_ENCODER,
    read: ReadOptions = _DEFAULT_READ,
) -> None:
    """Answer photos by HTTP until SIGTERM or Ctrl-C.

    Args:
        registry: folder with a published bundle; what is published there later is taken up.
        checkpoint: the one the bundle was built from, a folder or hf:<hub id or folder>.
        options: where it listens, who may ask, how much at a time.
        search: how places are searched for; a request may add a region, or say where answers point.
        encoder: which maps photos are seen with, and where models run.
        read: which photos are read.

    Raises:
        InputError: an address in use, a file of tokens that others can read, nothing that is published, or as
            `Locator.open`.
        ArtifactError: a bundle or a checkpoint that is damaged, or none.
        BundleMismatch: the bundle was built for another encoder.
    """
    tokens = None if options.tokens is None else read_tokens(options.tokens)
    check_log(options.audit_log)
    Registry(registry).resolve()  # before a model is loaded
    _check_certificate(options)
    with _bound(options) as bound:
        scheme = "http" if options.tls_cert is None else "https"
        address = f"{scheme}://{_shown(options.host)}:{bound.getsockname()[1]}"
        log.info("loading the encoder and the current version; then it listens at %s", address)
        first = open_encoder(checkpoint, encoder)
        encoders = {crops: PhotoEncoder(first.encoder, crops=crops, maps=first.maps) for crops in _CROPS}

        def opened(bundle: Bundle) -> OpenedVersion:
            return OpenedVersion(bundle, encoders, device=encoder.device, options=search, read=read)

        versions = Versions(Path(registry), opened)
        asyncio.run(_serve(bound, address, versions, encoders, tokens, options, search, read))


async def _serve(
    bound: socket.socket,
    address: str,
    versions: Versions,
    encoders: dict[CropName, PhotoEncoder],
    tokens: Tokens | None,
    options: ServeOptions,
    search: SearchOptions,
    read: ReadOptions,
) -> None:
    now, metrics, port = asyncio.get_running_loop().time, Metrics(), bound.getsockname()[1]
    stages = Stages(
        encoders,
        encoders["one"].reader(read),
        workers=options.workers,
        most=options.max_batch,
        wait_s=options.batch_ms / 1000,
        observe=metrics.observe,
    )
    try:
        await versions.start()
        await stages.start()
        access = Access(options, tokens, port=port, now=now)
        room = Admission(options.max_waiting, most_bytes=int(options.max_waiting_mb * 1e6), now=now)
        service = Service(options, search, versions, stages, access, room, metrics)
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(service),
                http=Connection,
                ws="none",
                proxy_headers=False,  # nothing here depends on who asks by what address
                limit_concurrency=_CONNECTIONS,
                log_config=None,
                access_log=False,  # it names paths and addresses
                server_header=False,
                timeout_graceful_shutdown=int(options.timeout_s) + 1,
                ssl_certfile=options.tls_cert,
                ssl_keyfile=options.tls_key,
            )
        )
        log.info("version %s is served at %s", versions.served[:12], address)
        with _signals_heard_once():
            await server.serve(sockets=[bound])
    finally:
        await stages.close()


@contextmanager
def _signals_heard_once() -> Iterator[None]:
    """Uvicorn drains at SIGTERM and Ctrl-C, and raises them again when it is done: nothing is left to end then."""
    if threading.current_thread() is not threading.main_thread():  # where nobody may say what a signal does
        yield
        return
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _check_certificate(options: ServeOptions) -> None:
    """Raise InputError for a certificate that cannot be used."""
    if options.tls_cert is None or options.tls_key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            options.tls_cert, options.tls_key, password=_no_password
        )
    except (OSError, ValueError) as error:  # ssl's own are among them
        raise InputError(
            f"`tls_cert` {options.tls_cert} and `tls_key` {options.tls_key} cannot be used: {error}. They are PEM "
            "files, the key without a password."
        ) from None


def _no_password() -> str:
    """Nobody is there to type one in."""
    raise ValueError("the key has a password")


def _bound(options: ServeOptions) -> socket.socket:
    """A socket at the address. InputError where it cannot be had."""
    try:
        found = socket.getaddrinfo(
            options.host.strip("[]"), options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(_BACKLOG)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise InputError(
            f"Nothing can listen at {options.host}, port {options.port} ({error.strerror or error}). Choose another "
            "`port`, or end what listens there."
        ) from None
    return bound


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
