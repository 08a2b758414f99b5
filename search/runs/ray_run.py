"""The same job on a Ray cluster: every actor takes whole shards through the same stages into the same folder.

The driver cuts the input, holds the lock and hands out shards; actors write a shard and its mark as the local engine
does, so a job begun by one engine can be gone on with by the other. An actor or a node that is lost costs the shards it
had in hand, which Ray gives to another. Actors rather than Ray Data: its blocks would pass answers through the object
store, and know nothing of shards that are done already.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from indexer.errors import GeoError, MissingBackend, WorkError
from indexer.jobs.job_folder import totals_of
from indexer.jobs.job_status import StatusFile
from indexer.jobs.progress import track_line
from indexer.jobs.stages import Line, Meter
from indexer.jobs.stopping import StopSignal, stopping
from indexer.photos.shard_cut import JobPart
from search.runs.local_run import Folders, answered, finish, open_folders, rows_of_part
from search.runs.run_report import RunReport
from search.runs.run_spec import RunConfig, RunSpec

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
except ImportError as error:
    raise MissingBackend(
        f"{error.name} is not installed; `engine` ray needs it. In the checkout: pip install '.[ray]'"
    ) from error

log = logging.getLogger(__name__)

_RESTARTS = 3  # of the actors that do one shard, before it is given up
_READY_S = 600.0  # for the first actor to find room on the cluster, and to open what it needs
_LOOK_S = 1.0  # between two looks at whether the process was asked to end


def run_on_ray(spec: RunSpec, out: Path, config: RunConfig) -> RunReport:
    """As `run_here`, on the cluster that RAY_ADDRESS names, or on this machine where it names none.

    There are as many actors as the cluster has GPUs, or CPUs for, less one CPU for everything else.

    Raises as `run`: WorkError where shards were given up, the others are done, or the cluster has no room for an actor;
    Stopped when the shards in hand are done.
    """
    engine, source = spec.open(out)
    engine.check_k(config.top_k, name="top_k")
    owners = spec.read_owners(engine)
    line, part = Line(), JobPart.parse(config.part)
    # `stopping` last: Ray sets a handler of its own for SIGTERM when it starts.
    with open_folders(engine, source, out, config, owners=owners) as folders, _cluster(), stopping() as stop:
        known, rows = totals_of(folders.done.values()).rows, rows_of_part(source, part)
        crew = _Crew(spec, folders, line, k=config.top_k)
        status = StatusFile(out, line, rows=rows)
        with track_line(line, "answering", rows, known=known, tick=status.tick):
            crew.do(source.tasks(folders.done, part), stop)
        stop.check(out)
        folders.look_again()
        if crew.given_up:
            raise WorkError(
                f"{out}: {len(crew.given_up)} shards were given up, the first {min(crew.given_up)}: actor after actor "
                "was lost over it. All others are done; give the command again to try these."
            )
        return finish(engine, source, folders, status, known=known)


class _Worker:
    """An actor: engine and encoder of its own, shards one after the other."""

    def __init__(self, spec: RunSpec, folders: Folders, *, k: int, home: Path, cpus: int) -> None:
        """home: the folder that names of files are relative to; a node may lack it where all of them are absolute."""
        torch.set_num_threads(cpus)
        with suppress(OSError):
            os.chdir(home)
        self._folders, self._k = folders, k
        self._failed: GeoError | None = None  # told by `ready`: Ray would wrap what is raised here in its own words
        try:
            self._engine, self._source = spec.open(folders.answers.path)
            self._owners = spec.read_owners(self._engine)
        except GeoError as error:
            self._failed = error
            return
        # What is marked is not written again: of a shard that was begun before, vectors may be done and answers not. No
        # other actor gets this one's shards, and one that was lost looks again.
        folders.look_again()

    def ready(self) -> str | None:
        """Answer, which an actor does that has found room and was made; with what it lacks to begin."""
        return None if self._failed is None else f"on {socket.gethostname()}: {self._failed}"

    def do(self, task: Any) -> list[Meter] | GeoError:
        """Do one shard; what went wrong in our own words comes back as a value, which Ray leaves as it is."""
        if self._failed is not None:  # it was lost, and its place could not begin
            return self._failed
        line = Line()
        try:
            shards = self._source.vectors(task, line)
            found = answered(self._engine, shards, line, k=self._k, owners=self._owners)
            written = line.meter("write")
            with line:
                for each in found:
                    with written.at_work(len(each)):
                        self._folders.write(each)
        except GeoError as error:
            return error
        return line.meters


class _Crew:
    """The actors, and the shards they have in hand."""

    def __init__(self, spec: RunSpec, folders: Folders, line: Line, *, k: int) -> None:
        cuda = spec.encoder.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        cpus = 1 if spec.features is not None else max(1, spec.feed.workers)
        room = _room(cpus)
        most = ray.cluster_resources().get("GPU", 0) if cuda else room
        # One CPU each on a machine too small for our own rule.
        self._each = {"num_cpus": cpus if cuda or room else 1, "num_gpus": int(cuda)}
        kind = ray.remote(**self._each, max_restarts=-1, max_task_retries=_RESTARTS)(_Worker)
        self._actors = [kind.remote(spec, folders, k=k, home=Path.cwd(), cpus=cpus) for _ in range(max(1, int(most)))]
        # A shard goes to an actor that has answered: one that the cluster has no room for would keep it for ever. One
        # shard each: a second one in hand would be blamed for the loss of its actor, too.
        self._free: list[Any] = []
        # What each call is for: an actor, and the shard that it does; None where it is to say that it is ready.
        self._calls: dict[Any, tuple[Any, int | None]] = {each.ready.remote(): (each, None) for each in self._actors}
        self._line = line
        self.given_up: list[int] = []

    def do(self, tasks: Iterator[Any], stop: StopSignal) -> None:
        """Do all tasks, or those in hand where the process is asked to end. Ends the actors when it is left."""
        try:
            for task in tasks:
                self._wait_for_one(stop)
                if stop.is_set:
                    break
                actor = self._free.pop(0)
                number = task if isinstance(task, int) else task[0]
                self._calls[actor.do.remote(task)] = actor, number
            while self._in_hand:
                self._take()
        finally:
            for actor in self._actors:
                ray.kill(actor)

    @property
    def _in_hand(self) -> bool:
        """Whether any of the calls is for a shard."""
        return any(number is not None for _, number in self._calls.values())

    def _wait_for_one(self, stop: StopSignal) -> None:
        """Wait until an actor is free, or the process is asked to end."""
        deadline = time.monotonic() + _READY_S
        while not self._free and not stop.is_set:
            self._take()
            if self._in_hand:
                deadline = time.monotonic() + _READY_S
            elif not self._free and time.monotonic() > deadline:
                has = {name: ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
                raise WorkError(
                    f"Ray: no actor was ready within {_READY_S:g} s. {len(self._actors)} were asked for, each with "
                    f"{self._each['num_cpus']} CPUs and {self._each['num_gpus']} GPUs on one node; the cluster has "
                    f"{has['CPU']:g} CPUs and {has['GPU']:g} GPUs on {len(_nodes())} nodes. Give fewer `workers`, wait "
                    "for the end of other work there, or use a larger cluster."
                )

    def _take(self) -> None:
        """Take what one actor has done, where one has anything within a moment."""
        found, _ = ray.wait(list(self._calls), num_returns=1, timeout=_LOOK_S)
        if not found:
            return
        (call,) = found
        actor, number = self._calls.pop(call)
        try:
            result = ray.get(call)
        except RayActorError as error:
            if number is None:
                raise WorkError(f"Ray: an actor could not begin: {_without_stack(error)}") from None
            log.warning("shard %d is given up: %s", number, " ".join(str(error).split())[:200])
            self.given_up.append(number)
            self._calls[actor.ready.remote()] = actor, None
            return
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise WorkError(f"Ray: {' '.join(str(error).split())[:300]}") from None
        if isinstance(result, GeoError):
            raise result
        if number is None and result is not None:
            raise WorkError(
                f"Ray: an actor could not begin {result} Every node must see the same files by these names."
            )
        for meter in result if number is not None else ():
            total = next((each for each in self._line.meters if each.name == meter.name), None)
            if total is None:
                total = self._line.meter(meter.name)
                total.room = meter.room
            total.rows += meter.rows
            total.busy_s += meter.busy_s
        self._free.append(actor)


def _without_stack(error: RayError) -> str:
    """The words of an error of Ray, without the lines of code on the way to it."""
    return " ".join(line for line in str(error).splitlines() if line and not line[0].isspace())[:600]


def _nodes() -> list[dict[str, float]]:
    """What each living node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(cpus: int) -> int:
    """How many actors of so many CPUs the nodes have room for, when one CPU is left for everything else."""
    of_nodes = [int(node.get("CPU", 0)) for node in _nodes()]
    return max(0, min(sum(each // cpus for each in of_nodes), (sum(of_nodes) - 1) // cpus))


@contextmanager
def _cluster() -> Iterator[None]:
    """A connection to a cluster; one that was started here ends with it."""
    if ray.is_initialized():  # the caller's
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()
