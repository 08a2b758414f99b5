"""`python -m benchmarks.world.demo`: the whole product on the embedded world, command by command, and a report.

In: nothing but this checkout and its packages. Out: a folder (`out/demo`) with everything the commands made,
`report.html` and `report.json`. Each command that is shown can be run again by hand.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from benchmarks.world.generator import WorldConfig, generate
from indexer.disk.artifact import explain_unwritable
from indexer.disk.manifest import code_version
from indexer.errors import GeoError, InputError, WorkError
from indexer.jobs.progress import track

if TYPE_CHECKING:
    from benchmarks.world.results import WorldResults

FULL_OUT, QUICK_OUT = Path("out/demo"), Path("out/demo-quick")

_CONFIG = Path("configs/demo.yaml")  # its paths are those of FULL_OUT
_WORLD = "world"
# What a demo leaves in its folder beside the world, and removes before it begins again.
_RESULTS = (
    *("hierarchy", "run", "registry", "held_out", "features", "predictions", "without_maps"),
    *("report.html", "report.json"),
)
_STEPS = 13


@dataclass(frozen=True, slots=True)
class DemoPreset:
    """How large a demo is."""

    world: WorldConfig
    tau_max: str  # as on the command line
    tau_min: int
    training: Sequence[str] = ()  # flags that win over configs/demo.yaml
    judged: bool = True  # whether the goals apply


FULL = DemoPreset(WorldConfig(), "1000,400,150,60,25,12", 3)
QUICK = DemoPreset(
    WorldConfig(n_train=600, n_validation=100, n_test=100),
    "100,40,15",
    2,
    training=("--trainer.max_epochs", "1", "--data.batch_size", "64"),  # so that an epoch has more than three steps
    judged=False,
)


class StepFailed(WorkError):
    """A command of the demo ended with an error, which it has printed itself."""


@dataclass(slots=True)
class Demo:
    """One run: where it writes, and how long each step took."""

    preset: DemoPreset
    out: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)  # step -> wall clock, of all steps of that name
    steps: int = 0  # so far

    @property
    def photos(self) -> Path:
        """The world's table of photos."""
        return self.out / _WORLD / "photos.parquet"

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Announce a step as the next of _STEPS, and say afterwards how long it took."""
        self.steps += 1
        self.console.print(f"\n[{self.steps}/{_STEPS}] {what}", markup=False, style="bold")
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.console.print(f"      {took:.1f} s", style="dim")

    def command(self, module: str, name: str, *options: str | Path, step: str | None = None) -> None:
        """Run one command of the product; what it says passes through. step: its name in the report, if not `name`."""
        self._run([module, name, *map(str, options)], step=step)

    def command_json(self, module: str, name: str, *options: str | Path) -> dict[str, Any]:
        """Run one command of the product with `--json` and return its result; its progress passes through."""
        done = self._run([module, name, *map(str, options), "--json"], stdout=subprocess.PIPE)
        return dict(json.loads(done.stdout))

    def _run(
        self, arguments: Sequence[str], *, stdout: int | None = None, step: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        shown = shlex.join(["python", "-m", *arguments])
        with self.step(step or arguments[1], f"$ {shown}"):
            done = subprocess.run([sys.executable, "-m", *arguments], stdout=stdout, text=True)
            if done.returncode:
                raise StepFailed(f"This step failed (exit code {done.returncode}). To repeat it: {shown}")
        return done


def run_demo(preset: DemoPreset, out: Path, console: Console) -> int:
    """Make the world, run the product on it, compare and report; returns the exit code: 1 if the two orders differ.

    Raises:
        InputError: `out` holds something else than a demo.
        GeoError: a step failed.
    """
    started = time.perf_counter()
    clear_results(out)
    # Here, so that `--help` and refusals answer at once.
    from benchmarks.world.compare import compare
    from benchmarks.world.report import write_report
    from benchmarks.world.results import WorldResults

    demo = Demo(preset, out, console)
    reused = _make_world(demo)
    train_seconds = _run_product(demo)
    with demo.step("compare", "Answering with the baselines; checking the order of the cells for every test photo"):
        answers = compare(
            demo.photos,
            registry=out / "registry",
            features=out / "features",
            predictions=out / "predictions",
            without_maps=out / "without_maps",
            seed=preset.world.seed,
        )
    results = WorldResults(
        answers,
        seconds=demo.seconds,
        train_seconds=train_seconds,
        total_seconds=time.perf_counter() - started,
        peak_memory_bytes=_peak_memory_bytes(),
        seed=preset.world.seed,
        fusion_kind=_fusion_kind(),
        made_by=_made_by(),
        world_reused=reused,
        judged=preset.judged,
    )
    page = write_report(results, out)
    _show(results, console)
    console.print(f"\nReport: {page}", markup=False, style="bold")
    if answers.order.differing:
        raise WorkError(
            f"For {answers.order.differing} of {answers.order.queries} test photos the search ranks cells differently "
            "from the multiplied-out product. Run the tests of the search: python -m pytest tests/search"
        )
    return 0


def clear_results(out: Path) -> None:
    """Remove what an earlier demo left in its folder, but for the world, which is the same every time.

    Raises:
        InputError: `out` is not a folder, or one with other things than a demo's in it.
    """
    with explain_unwritable(out):
        out.mkdir(parents=True, exist_ok=True)
    # `<name>.tmp-...` is what a command that was killed leaves.
    strange = [path.name for path in out.iterdir() if path.name.split(".tmp-")[0] not in (_WORLD, *_RESULTS)]
    if strange:
        raise InputError(
            f"{out}: holds {strange[0]!r}, which no demo made; earlier results would be removed here. "
            "Choose another --out, or an empty folder."
        )
    for name in _RESULTS:
        path = out / name
        if path.is_dir() and not path.is_symlink():  # of a link, only the link is ours
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _make_world(demo: Demo) -> bool:
    """Generate the photos; returns whether they were there already."""
    world, config = demo.out / _WORLD, demo.preset.world
    reused = (world / "world.json").exists()
    n_photos = config.n_train + config.n_validation + config.n_test
    with demo.step("world", f"{'Checking' if reused else 'Making'} {n_photos:,} photos of the world in {world}"):
        if reused:
            generate(config, world)  # an error where it was made from another config
            return True
        with track("photos", n_photos) as advance:
            shown = 0

            def progress(done: int, total: int) -> None:
                nonlocal shown
                advance(done - shown)
                shown = done

            generate(config, world, progress=progress)
    return False


def _run_product(demo: Demo) -> float:
    """The commands of the product, in order; returns the seconds spent training."""
    preset, out, photos = demo.preset, demo.out, demo.photos
    hierarchy, run, registry = out / "hierarchy", out / "run", out / "registry"
    checkpoint = run / "checkpoint"
    held_out, features, predictions = out / "held_out", out / "features", out / "predictions"
    taus = ("--tau-max", preset.tau_max, "--tau-min", str(preset.tau_min))
    demo.command("indexer", "partition", "--photos", photos, "--split", "train", *taus, "--out", hierarchy)
    # The file says the same for the usual folder.
    elsewhere = ("--hierarchy", hierarchy, "--out", run, "--data.photos", photos) if out != FULL_OUT else ()
    fit = demo.command_json("training", "fit", "--config", _CONFIG, *elsewhere, *preset.training)
    demo.command("indexer", "build", "--hierarchy", hierarchy, "--checkpoint", checkpoint, "--registry", registry)
    for split, vectors in (("validation", held_out), ("test", features)):
        common = ("--photos", photos, "--split", split, "--checkpoint", checkpoint)
        demo.command("encoder", "embed", *common, "--out", vectors)
    known = ("--truth", photos, "--split", "validation")
    demo.command("search", "calibrate", "--registry", registry, "--features", held_out, *known)
    demo.command("search", "run", "--registry", registry, "--features", features, "--out", predictions)
    demo.command("search", "evaluate", "--predictions", predictions, "--truth", photos, "--split", "test")
    # The folder of the same photos: what somebody has who brings pictures of their own.
    tiles, bare = out / _WORLD / "tiles" / "test", out / "without_maps"
    own = ("--registry", registry, "--checkpoint", checkpoint, "--photos", tiles)
    demo.command("search", "run", *own, "--out", bare, step="run without maps")
    truth = ("--truth", photos, "--split", "test")
    demo.command("search", "evaluate", "--predictions", bare, *truth, step="evaluate without maps")
    photo = tiles / "00000.jpg"
    class_map = out / _WORLD / "maps" / "test" / "00000.png"
    query = ("--registry", registry, "--checkpoint", checkpoint, "--class-maps", class_map, photo)
    demo.command("search", "query", *query)
    return float(fit["train_seconds"])


def _fusion_kind() -> str:
    from training.config import FitConfig

    fusion = FitConfig.from_yaml(_CONFIG).model.fusion
    assert fusion is not None, "the demo's encoder has one"
    return fusion.kind


def _peak_memory_bytes() -> int:
    """At most what the largest command and this process held at one time: the sum of their own peaks."""
    users = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return unit * sum(resource.getrusage(user).ru_maxrss for user in users)


def _made_by() -> dict[str, str]:
    return {
        **code_version(),
        "Python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
    }


def _show(results: WorldResults, console: Console) -> None:
    """The accuracy of every method, and the goals, on the terminal."""
    from benchmarks.world.results import METHODS, accuracies, goals

    figures = accuracies(results)
    limits = list(next(iter(figures.values())).within)
    table = Table("method", "median", *(f"{int(limit):,} km" for limit in limits), title="Test photos, % within")
    for column in table.columns[1:]:
        column.justify = "right"
    for method, row in figures.items():
        table.add_row(METHODS[method], f"{row.median_km:,.0f} km", *(f"{row.within[limit]:.1f}" for limit in limits))
    held = Table("goal", "", "this run", "")
    for goal in goals(results):
        held.add_row(
            goal.what, goal.goal, goal.value, "[green]met[/green]" if goal.met else "[bold red]MISSED[/bold red]"
        )
    console.print()
    console.print(table)
    console.print(held)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a step failed, 2 wrong usage."""
    parser = ArgumentParser(prog="python -m benchmarks.world.demo", description="The product on the embedded world.")
    parser.add_argument("--quick", action="store_true", help="A few photos and one epoch: does every step work?")
    parser.add_argument("--out", type=Path, help=f"Folder to write; {FULL_OUT}, or {QUICK_OUT} with --quick.")
    options = parser.parse_args(argv)
    out = options.out or (QUICK_OUT if options.quick else FULL_OUT)
    console = Console(highlight=False, soft_wrap=True)  # commands stay on one line, to be copied
    try:
        return run_demo(QUICK if options.quick else FULL, out, console)
    except GeoError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        return 130  # the shell's convention for Ctrl-C; the command that was running has said so


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("indexer").setLevel(logging.INFO)  # progress, where there is no terminal for a bar
    raise SystemExit(main())
