"""A web server on this machine, of good and of bad habits, that remembers what it was asked for."""

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """What is served: path -> content. `ranges`: whether parts can be asked for; `status`: path -> what is answered."""

    files: dict[str, bytes]
    ranges: bool = True
    status: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    endless: set[str] = field(default_factory=set)  # paths whose content never ends
    asked: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, bytes sent
    root: str = ""


@contextlib.contextmanager
def served(**options: object) -> Iterator[Web]:
    """Serve files until the block ends; `root` says where."""
    web = Web(**options)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            if path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[path])
                self.end_headers()
                return
            if path in web.endless:
                self.send_response(200)
                self.end_headers()
                sent = 0
                with contextlib.suppress(ConnectionError):
                    while body and sent < 1 << 28:
                        sent += self.wfile.write(bytes(1 << 16))
                web.asked.append((self.command, path, sent))
                return
            content, status = web.files.get(path, b""), web.status.get(path, 200 if path in web.files else 404)
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if match and web.ranges and status == 200:
                content, status = content[int(match[1]) : int(match[2]) + 1], 206 if content else 416
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if web.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            web.asked.append((self.command, path, len(content) if body else 0))  # before whoever asked can go on
            if body:
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.root = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
