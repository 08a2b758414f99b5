"""`python -m benchmarks.serve`: the service beside what it is made of, and beside the plain way. One run, loopback.

    vectors    rows a second in requests of 256, against the engine and its answers alone; requests of one vector at
               32 clients, and how long they take at half that load
    photos     photos a second, against `encoder embed`'s own pipeline on the same photos; and how long one takes at
               half that load, against one that is alone
    plain      a FastAPI handler that runs the model for each request, beside the service, at 16 clients; for an encoder
               of TinyCLIP's size, and for the demo's where `make demo` has left one
    swaps      10,000 requests over 20 publishes: none fails, and none is answered by two versions
    memory     of the service, over 20,000 requests

Clients run in this process, the service in its own, as they would on one machine: they share its cores. Answers are
compared before anything is timed.
"""

import asyncio
import io
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser

from benchmarks.embed import TINYCLIP, make_photos, save_clip
from benchmarks.harness import Report, seconds_of
from benchmarks.run import make_registry
from benchmarks.serve_clients import Response, at_rate, form, in_turn, request
from encoder.embedding import embed_photos
from encoder.encode import PhotoEncoder
from encoder.models.checkpoint import load_encoder
from indexer.bundles.bundle import build_bundle
from indexer.bundles.leaf_index import stand_ins
from indexer.bundles.registry import Registry
from indexer.cli import Strings
from indexer.photos.sources import open_photos
from search.locate import Locator

MIN_SHARE_OF_ENGINE = 0.80
MAX_P95_MS = 20.0  # of one vector at half the load
MIN_SHARE_OF_EMBED = 0.85
MAX_P95_RATIO = 3.0  # of one photo at half the load, to one alone
MIN_RATIO_TO_PLAIN = 1.0
AIM_RATIO_TO_PLAIN = 2.0  # where none reaches it, the profile says why
MAX_GROWTH = 1.10  # of memory
PARTS = Strings(("vectors", "photos", "plain", "swaps", "memory"))
_NPY = "application/x-npy"
_WIDTH = 512
_START_S = 180.0
_SIZE = (1024, 768)  # of photos
_FIRST = 8  # photos of the pipeline that are not timed

# What somebody writes in an afternoon: one handler, one model, one lock.
PLAIN = """
import sys, threading, uvicorn
from fastapi import FastAPI, UploadFile
from search.locate import Locator
locator, lock, app = Locator.open(sys.argv[1], checkpoint=sys.argv[2], device="cpu"), threading.Lock(), FastAPI()
@app.post("/v1/locate")
def locate(photos: UploadFile) -> dict:
    content = photos.file.read()
    with lock:
        return {"answers": [answer.to_dict() for answer in locator.locate([content])]}
print("is served at http://127.0.0.1:" + sys.argv[3], file=sys.stderr, flush=True)
uvicorn.run(app, port=int(sys.argv[3]), log_level="error")
"""


@contextmanager
def process(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and its pid.

    Raises SystemExit where it does not begin to serve.
    """
    found = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert found.stderr is not None
    lines, ready = list[str](), threading.Event()

    def read(stream: io.TextIOBase) -> None:
        for line in stream:
            lines.append(line)
            if "is served at" in line:
                ready.set()
        ready.set()

    reading = threading.Thread(target=read, args=(found.stderr,), daemon=True)
    reading.start()
    try:
        ready.wait(_START_S)
        port = re.search(r"is served at http://127.0.0.1:(\d+)", "".join(lines))
        if port is None:
            raise SystemExit("The service did not start: " + "".join(lines))
        yield int(port[1]), found.pid
    finally:
        found.terminate()
        found.wait()
        reading.join()
        found.stderr.close()


def service(registry: Path, checkpoint: str, *options: str) -> list[str]:
    """The command of the service."""
    common = ("--registry", str(registry), "--checkpoint", checkpoint, "--device", "cpu", "--port", "0")
    return [sys.executable, "-m", "search", "serve", *common, *options]


def rate(responses: Sequence[Response], seconds: float, *, rows: int = 1) -> float:
    """Rows a second of requests that were all answered."""
    failed = [each for each in responses if each.status != 200]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed: {failed[0].status} {failed[0].body[:300]!r}")
    return len(responses) * rows / seconds


def p95_of(responses: Sequence[Response]) -> float:
    """Seconds."""
    return sorted(each.seconds for each in responses)[int(0.95 * len(responses))]


def timed_in_turn(port: int, requests: Sequence[bytes], *, clients: int, total: int, rows: int = 1) -> float:
    """Rows a second."""
    found = list[Response]()
    seconds = seconds_of(lambda: found.extend(asyncio.run(in_turn(port, requests, clients=clients, total=total))))
    return rate(found, seconds, rows=rows)


def npy(rows: np.ndarray) -> bytes:
    """The file of an array."""
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def same_answers(responses: Sequence[Response], want: Sequence[str | None]) -> None:
    """Raises SystemExit where other cells are answered than were found without a service."""
    found = [answer["key"] for each in responses for answer in json.loads(each.body)["answers"]]
    if found != list(want):
        raise SystemExit("The service's answers are not the library's; nothing was timed.")


def from_vectors(report: Report, registry: Registry, checkpoint: str, *, seconds: float, turns: int = 3) -> None:
    """Requests of many vectors and of one."""
    locator = Locator.open(registry.path, device="cpu")
    vectors = stand_ins(locator.engine.bundle.model, n=2048, seed=2)
    blocks = [vectors[begin : begin + 256] for begin in range(0, len(vectors), 256)]
    want = [answer.key for answer in locator.locate_vectors(vectors)]
    with process(service(registry.path, checkpoint, "--workers", "1")) as (port, _):
        many = [request(port, "/v1/vectors", npy(block), _NPY) for block in blocks]
        same_answers(asyncio.run(in_turn(port, many, clients=4, total=len(many))), want)
        alone = len(vectors) / seconds_of(lambda: [locator.locate_vectors(block) for block in blocks])
        total = max(len(blocks), int(seconds * alone / 256))

        def engine() -> float:
            work = lambda: [locator.locate_vectors(blocks[number % len(blocks)]) for number in range(total)]  # noqa: E731
            return total * 256 / seconds_of(work)

        pairs = [(timed_in_turn(port, many, clients=4, total=total, rows=256), engine()) for _ in range(turns)]
        share = statistics.median(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        report.row(
            f"requests of 256 vectors, {locator.engine.bundle.model.n_leaves:,} leaves x {vectors.shape[1]}, 4 clients",
            f"{ours:,.0f} rows/s, the engine and its answers alone {theirs:,.0f}/s -> {share:.2f} (median of {turns} "
            f"turns), floor {MIN_SHARE_OF_ENGINE:g}",
            holds=share >= MIN_SHARE_OF_ENGINE,
            rows_per_second=ours,
            engine=theirs,
            share=share,
        )
        ones = [request(port, "/v1/vectors", npy(row), _NPY) for row in vectors[:256]]
        first = timed_in_turn(port, ones, clients=32, total=512)
        full = statistics.median(
            timed_in_turn(port, ones, clients=32, total=int(first * seconds)) for _ in range(turns)
        )
        half = asyncio.run(at_rate(port, ones, per_second=full / 2, total=int(full / 2 * seconds)))
        rate(half, 1)
        p95_ms = 1000 * p95_of(half)
        report.row(
            "requests of one vector, 32 clients",
            f"{full:,.0f}/s; at half that load p95 {p95_ms:.1f} ms, bound {MAX_P95_MS:g} ms",
            holds=p95_ms <= MAX_P95_MS,
            requests_per_second=full,
            p95_ms=p95_ms,
        )


def from_photos(report: Report, registry: Registry, checkpoint: str, folder: Path, *, repeats: int) -> None:
    """Photos through the service, and through the pipeline of `encoder embed`, in turns."""
    paths = sorted(folder.iterdir())
    contents = [path.read_bytes() for path in paths]
    locator = Locator.open(registry.path, checkpoint=checkpoint, device="cpu")
    want = [answer.key for answer in locator.locate(paths)]
    photos = list(open_photos(folder)) * repeats
    encode = PhotoEncoder(load_encoder(checkpoint))
    with process(service(registry.path, checkpoint)) as (port, _):
        requests = [form(port, "/v1/locate", [content]) for content in contents]
        same_answers(asyncio.run(in_turn(port, requests, clients=16, total=len(requests))), want)

        def embed() -> float:
            """Photos a second after the first few, for a job of any length starts its processes once."""
            batches = embed_photos(encode, photos, shard_rows=_FIRST)
            next(batches)
            return (len(photos) - _FIRST) / seconds_of(lambda: deque(batches, maxlen=0))

        pairs = [(timed_in_turn(port, requests, clients=16, total=len(photos)), embed()) for _ in range(3)]
        share = statistics.median(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        report.row(
            "one photo a request, TinyCLIP ViT-8M/16, 0.8 MP JPEGs, 16 clients",
            f"{ours:.1f} photos/s, `encoder embed` {theirs:.1f}/s -> {share:.2f} (median of 3 turns), "
            f"floor {MIN_SHARE_OF_EMBED:g}",
            holds=share >= MIN_SHARE_OF_EMBED,
            photos_per_second=ours,
            embed=theirs,
            share=share,
        )
        alone = asyncio.run(in_turn(port, requests, clients=1, total=len(requests)))
        one_s = statistics.median(each.seconds for each in alone)
        half = asyncio.run(at_rate(port, requests, per_second=ours / 2, total=len(photos)))
        rate(half, 1)
        ratio = p95_of(half) / one_s
        report.row(
            "the same at half that load",
            f"p95 {1000 * p95_of(half):.0f} ms, one photo alone {1000 * one_s:.0f} ms -> {ratio:.1f}x, bound "
            f"{MAX_P95_RATIO:g}x",
            holds=ratio <= MAX_P95_RATIO,
            p95_s=p95_of(half),
            alone_s=one_s,
            ratio=ratio,
        )


def beside_plain(report: Report, name: str, registry: Path, checkpoint: str, folder: Path, *, repeats: int) -> float:
    """The service and a plain handler in turns, each in its own process; returns the ratio."""
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    total, port = len(contents) * repeats, free_port()
    plain = [sys.executable, "-c", PLAIN, str(registry), checkpoint, str(port)]
    with process(service(registry, checkpoint)) as (ours_port, _), process(plain) as (plain_port, _):
        wait_until_open(plain_port)
        ours, theirs = (
            [form(each, "/v1/locate", [content]) for content in contents] for each in (ours_port, plain_port)
        )
        answered = asyncio.run(in_turn(plain_port, theirs, clients=16, total=len(contents)))
        want = [json.loads(each.body)["answers"][0]["key"] for each in answered]
        same_answers(asyncio.run(in_turn(ours_port, ours, clients=16, total=len(contents))), want)
        turns = [
            (
                timed_in_turn(ours_port, ours, clients=16, total=total),
                timed_in_turn(plain_port, theirs, clients=16, total=total),
            )
            for _ in range(3)
        ]
    ratio = statistics.median(one / other for one, other in turns)
    mine, other = (statistics.median(column) for column in zip(*turns, strict=True))
    report.row(
        f"{name}, 16 clients",
        f"{mine:.1f} photos/s, a handler that runs the model for each request {other:.1f}/s -> {ratio:.2f}x (median of "
        f"3 turns), floor {MIN_RATIO_TO_PLAIN:g}x",
        holds=ratio >= MIN_RATIO_TO_PLAIN,
        photos_per_second=mine,
        plain=other,
        ratio=ratio,
    )
    return ratio


def where_time_goes(report: Report, registry: Path, checkpoint: str, folder: Path) -> None:
    """Where neither encoder reaches twice the plain way: what each stage takes, with nothing beside it."""
    paths = sorted(folder.iterdir())
    locator = Locator.open(registry, checkpoint=checkpoint, device="cpu")
    assert locator.encode is not None
    batch = locator.embed([each for each in open_photos(folder)])
    one = [seconds_of(lambda path=path: locator.embed(list(open_photos(folder))[:1])) for path in paths[:4]]  # type: ignore[misc]
    search_s = seconds_of(lambda: locator.answers(batch)) / len(paths)
    together_s = seconds_of(lambda: locator.embed(list(open_photos(folder)))) / len(paths)
    report.row(
        "seconds of a photo, one thread after the other",
        f"decoded and encoded alone {1000 * statistics.median(one):.1f} ms, with {len(paths)} others "
        f"{1000 * together_s:.1f} ms, searched {1000 * search_s:.1f} ms: batches gain little where a model fills all "
        f"{os.cpu_count()} cores with one photo",
        alone_s=statistics.median(one),
        together_s=together_s,
        search_s=search_s,
    )


def swaps(report: Report, registry: Registry, checkpoint: str, *, requests: int, publishes: int) -> None:
    """Requests while versions are published: each answer is of one version, as that version answers alone."""
    first = Locator.open(registry.path, device="cpu").engine.bundle
    model = first.model
    geocells = replace(model.geocells, level_weights=model.geocells.level_weights * 0.5)  # other scores, same cells
    folder = registry.path.parent / "H"
    other = build_bundle(folder, geocells, registry.versions_folder, config={}, inputs={}).name
    vectors = stand_ins(model, n=64, seed=3)
    scores = {}
    for version in (first.version, other):
        found = Locator.open(registry.path, version=version, device="cpu").locate_vectors(vectors)
        scores[version] = [answer.score for answer in found]
    with process(service(registry.path, checkpoint, "--workers", "1")) as (port, _):
        ones = [request(port, "/v1/vectors", npy(row), _NPY) for row in vectors]
        ended = threading.Event()

        def publish() -> None:
            for number in range(publishes):
                registry.publish(other if number % 2 == 0 else first.version)
                if ended.wait(max(0.7, seconds / publishes)):  # longer than it takes to notice one
                    return

        pace = timed_in_turn(port, ones, clients=16, total=640)
        seconds = requests / pace
        publishing = threading.Thread(target=publish)
        publishing.start()
        answers = list[Response]()
        while len(answers) < requests or publishing.is_alive():
            answers += asyncio.run(in_turn(port, ones, clients=16, total=640))
        ended.set()
        publishing.join()
    failed = sum(each.status != 200 for each in answers)
    mixed, seen, changes, before = 0, dict[str, int](), 0, ""
    for number, each in enumerate(answers):
        data = json.loads(each.body) if each.status == 200 else None
        if data is None:
            continue
        version, score = data["bundle"], data["answers"][0]["score"]
        mixed += abs(score - scores[version][number % 640 % len(vectors)]) > 1e-3 * abs(score)
        seen[version] = seen.get(version, 0) + 1
        changes, before = changes + (version != before and before != ""), version
    registry.publish(first.version)
    report.row(
        f"{len(answers):,} requests over {publishes} publishes",
        f"{failed} failed, {mixed} answered by another version than they name; {min(seen.values()):,} by the rarer of "
        f"the two",
        holds=failed == 0 and mixed == 0 and len(seen) == 2,
        failed=failed,
        mixed=mixed,
        seen=sorted(seen.values()),
        changes=changes,
    )


def memory(report: Report, registry: Registry, checkpoint: str, folder: Path, *, requests: int) -> None:
    """Memory of the service after a tenth of the requests, and after all: most of them vectors, some photos."""
    model = Locator.open(registry.path, device="cpu").engine.bundle.model
    vectors = stand_ins(model, n=64, seed=3)
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    with process(service(registry.path, checkpoint, "--workers", "1")) as (port, pid):
        mixed = [request(port, "/v1/vectors", npy(row), _NPY) for row in vectors]
        mixed += [form(port, "/v1/locate", [contents[0]])]

        def ask(total: int) -> int:
            rate(asyncio.run(in_turn(port, mixed, clients=16, total=total)), 1)
            time.sleep(1)
            return anon_bytes(pid)

        early, late = ask(requests // 10), ask(requests - requests // 10)
    growth = late / early
    report.row(
        f"memory over {requests:,} requests",
        f"{early / 1e6:.0f} MB after a tenth of them, {late / 1e6:.0f} MB after all -> {growth:.3f}, bound "
        f"{MAX_GROWTH:g}",
        holds=growth <= MAX_GROWTH,
        early_bytes=early,
        late_bytes=late,
        growth=growth,
    )


def anon_bytes(pid: int) -> int:
    """Memory of its own that a process has now, as Linux tells it."""
    lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def free_port() -> int:
    """One that nobody listens at."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wait_until_open(port: int) -> None:
    """Raises SystemExit where nobody listens in time."""
    import socket

    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nobody listens at {port}")


def main() -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--parts", type=Strings, default=PARTS, help=f"Which of {','.join(PARTS)} to measure.")
    parser.add_argument("--seconds", type=float, default=5.0, help="Of each load of vectors.")
    parser.add_argument("--photos", type=int, default=32, help="Photos to make; each is sent several times.")
    parser.add_argument("--repeats", type=int, default=4, help="How often each photo is sent in a turn.")
    parser.add_argument("--requests", type=int, default=10_000, help="Over the swaps; twice as many for memory.")
    parser.add_argument("--cells", type=int, default=400_000, help="Photos that the cells are made of.")
    parser.add_argument("--demo", type=Path, default=Path("out/demo"), help="What `make demo` left.")
    options = parser.parse_args()
    report = Report("serve")
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as name:
        folder = Path(name)
        tiny = f"hf:{save_clip(folder / 'tinyclip', TINYCLIP, width=_WIDTH)}"
        registry = make_registry(folder, photos=options.cells, width=_WIDTH, taus=(10_000, 1000, 100), tau_min=20)
        photos = make_photos(folder / "photos", n=options.photos, size=_SIZE, seed=1)
        parts: dict[str, Callable[[], object]] = {
            "vectors": lambda: from_vectors(report, registry, tiny, seconds=options.seconds),
            "photos": lambda: from_photos(report, registry, tiny, photos, repeats=options.repeats),
            "plain": lambda: both_plain(report, registry, tiny, photos, options.demo, repeats=options.repeats),
            "swaps": lambda: swaps(report, registry, tiny, requests=options.requests, publishes=20),
            "memory": lambda: memory(report, registry, tiny, photos, requests=2 * options.requests),
        }
        for part in options.parts:
            parts[part]()
        shutil.rmtree(registry.path)
    return report.finish(**{key: str(value) for key, value in vars(options).items()})


def both_plain(report: Report, registry: Registry, tiny: str, photos: Path, demo: Path, *, repeats: int) -> None:
    """Both encoders; and where the time goes, where neither is twice as fast."""
    ratios = [beside_plain(report, "TinyCLIP ViT-8M/16", registry.path, tiny, photos, repeats=repeats)]
    if (demo / "registry").is_dir():
        checkpoint = str(demo / "run" / "checkpoint")
        ratios.append(
            beside_plain(report, "the demo's encoder", demo / "registry", checkpoint, photos, repeats=repeats)
        )
    if max(ratios) < AIM_RATIO_TO_PLAIN:
        where_time_goes(report, registry.path, tiny, photos)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    raise SystemExit(main())
