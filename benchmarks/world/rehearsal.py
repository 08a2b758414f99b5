"""`python -m benchmarks.world.rehearsal`: all commands of the paper's run, from published weights to its tables.

The header of `configs/mp16.yaml` has them. Here they run as they stand there, one after the other, beside a miniature
of what they need (`benchmarks.world.miniature`). What two cores cannot have is changed: `changes` has all of it, and is
printed first. Training is killed once, after an epoch, and goes on by the same command.

In: nothing but this checkout. Out: a folder with what the commands made, and in it `commands.txt`: what ran, a line for
each `python -m ...`, as the shell had it.
"""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from benchmarks.world.generator import WorldConfig
from benchmarks.world.miniature import make
from indexer.errors import GeoError, WorkError
from training.runs.folder import RunFolder

CONFIGURATION = Path("configs/mp16.yaml")
COMMANDS = "commands.txt"
_SHOWN = "#     "  # what lines of the header begin with that are commands
_FIT = "training fit --config configs/mp16.yaml"
_WAITED_S = 600.0  # for the first epoch
# A traced line that is one of our commands; before it may stand variables that were set for it alone.
_COMMAND = re.compile(r"^\++ (?:env )?(?:\w+=\S* )*(python -m .*)$")


@dataclass(frozen=True, slots=True)
class Change:
    """A text of the header, and what stands here in its place."""

    old: str
    new: str
    why: str


@dataclass(frozen=True, slots=True)
class RehearsalPreset:
    """How large a rehearsal is."""

    world: WorldConfig
    tau_max: str  # as on the command line
    validation_share: float
    epochs: int


FULL = RehearsalPreset(WorldConfig(n_train=3_000, n_validation=1, n_test=300), "400,150,60,30,20,14,10", 0.1, 3)
SMALL = RehearsalPreset(WorldConfig(n_train=700, n_validation=1, n_test=100), "150,80,50,30,20,14,10", 0.2, 2)


def changes(preset: RehearsalPreset) -> tuple[Change, ...]:
    """All that differs: names of models, sizes, taus, epochs, workers, devices and their precision."""
    sizes = f"--data.batch_size 128 --data.validation_share {preset.validation_share:g} --data.workers 1"
    trainer = f"--trainer.max_epochs {preset.epochs} --trainer.accelerator cpu --trainer.devices 2"
    fit = f"{_FIT} {sizes} {trainer} --trainer.precision 32-true"
    taus = f"--tau-max {preset.tau_max} --tau-min 2"
    return (
        Change("openai/clip-vit-large-patch14-336", "hub/clip", "a CLIP of random weights, two layers of 64"),
        Change("shi-labs/oneformer_ade20k_swin_large", "hub/oneformer", "a OneFormer of random weights"),
        Change("--out mp16/hierarchy\n", f"--out mp16/hierarchy {taus}\n", "few photos"),
        Change("0 1 2 3 4 5 6 7", "0 1", "two parts of the maps, as there are two cores"),
        Change("))/8", "))/2", "the same"),
        Change(_FIT, fit, "few photos, two processes of one core each"),
    )


def script_of(configuration: str) -> str:
    """The commands in the header of a configuration, as a script for a shell: the first lines that show some."""
    lines = configuration.splitlines(keepends=True)
    shown = itertools.dropwhile(lambda line: not line.startswith(_SHOWN), lines)
    return "".join(line[len(_SHOWN) :] for line in itertools.takewhile(lambda line: line.startswith(_SHOWN), shown))


def changed(script: str, made: Sequence[Change]) -> str:
    """The same script with changes.

    Raises:
        WorkError: one of them has nothing to change: the configuration is not what it was.
    """
    for change in made:
        if change.old not in script:
            raise WorkError(f"{CONFIGURATION}: its header no longer has {change.old!r}. Change the rehearsal, too.")
        script = script.replace(change.old, change.new)
    return script


def steps_of(script: str) -> list[str]:
    """The commands of a script: loops whole, and lines that go on in the next one."""
    steps, waiting, depth = list[str](), "", 0
    for line in script.splitlines(keepends=True):
        waiting += line
        depth += line.lstrip().startswith("for ")
        depth -= line.lstrip().startswith("done")
        if not depth and not line.rstrip().endswith("\\"):
            steps.append(waiting)
            waiting = ""
    return [*steps, waiting] if waiting else steps


def traced(trace: str) -> list[str]:
    """The commands of this project in what a shell traced."""
    found = (_COMMAND.match(line) for line in trace.splitlines())
    return [match[1] for match in found if match]


class Shell:
    """Runs steps in a folder, with this interpreter as `python`, and keeps what it ran."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._trace = folder, folder / "trace.txt"
        self.ran: list[str] = []
        home = folder.absolute() / "bin"
        home.mkdir()
        python = home / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        python.chmod(0o755)
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = os.environ | {
            "PATH": f"{home}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",  # two processes on two cores
        }

    def run(self, step: str) -> None:
        """Run a step to its end. WorkError where it fails."""
        with self._started(step) as process:
            code = process.wait()
        self._keep()
        if code:
            raise WorkError(f"This step of the rehearsal failed (exit code {code}); it has said why: {step}")

    def run_until(self, step: str, file: Path) -> None:
        """Kill a step with all that it began as soon as a file is there. WorkError where it ends before."""
        ends = time.monotonic() + _WAITED_S
        with self._started(step) as process:
            while not file.exists():
                if process.poll() is not None or time.monotonic() > ends:
                    os.killpg(process.pid, signal.SIGKILL)
                    raise WorkError(f"This step was to be killed once it has written {file}, and did not: {step}")
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
        self._keep()

    def _started(self, step: str) -> "subprocess.Popen[bytes]":
        with self._trace.open("wb") as trace:
            script = f"exec {{BASH_XTRACEFD}}>&{trace.fileno()}; set -ex\n{step}"
            return subprocess.Popen(
                ["bash", "-c", script],
                cwd=self._folder,
                env=self._environment,
                pass_fds=[trace.fileno()],
                start_new_session=True,
            )

    def _keep(self) -> None:
        self.ran += traced(self._trace.read_text())
        (self._folder / COMMANDS).write_text("".join(f"{line}\n" for line in self.ran))


def rehearse(preset: RehearsalPreset, out: Path, console: Console) -> list[str]:
    """Run all commands of the configuration in a new folder; returns them as they ran.

    Raises:
        WorkError: one of them failed, or the configuration has changed.
    """
    configuration = CONFIGURATION.read_text()
    made = changes(preset)
    script = changed(script_of(configuration), made)
    _show(made, console)
    shutil.rmtree(out, ignore_errors=True)
    (out / CONFIGURATION).parent.mkdir(parents=True)
    (out / CONFIGURATION).write_text(configuration)
    console.print("\nmaking the miniature", style="bold")
    make(out, preset.world)
    shell, steps = Shell(out), steps_of(script)
    for number, step in enumerate(steps, 1):
        started = time.perf_counter()
        console.print(f"\n[{number}/{len(steps)}] $ {step.rstrip()}", markup=False, style="bold")
        if _FIT in step and "--check" not in step:
            shell.run_until(step, RunFolder(out / "mp16" / "run").resume)
            console.print("      killed after an epoch; the same command goes on", style="dim")
        shell.run(step)
        console.print(f"      {time.perf_counter() - started:.1f} s", style="dim")
    return shell.ran


def _show(made: Sequence[Change], console: Console) -> None:
    console.print(f"What differs from {CONFIGURATION}:", style="bold")
    for change in made:
        console.print(f"  {change.old.strip()}\n    here: {change.new.strip()}  ({change.why})", markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = ArgumentParser(
        prog="python -m benchmarks.world.rehearsal", description="The paper's configuration, at small size."
    )
    parser.add_argument("--small", action="store_true", help="Fewer photos: three minutes in place of ten.")
    parser.add_argument("--out", type=Path, default=Path("out/rehearsal"), help="Folder to write, anew.")
    options = parser.parse_args(argv)
    console, started = Console(highlight=False, soft_wrap=True), time.perf_counter()
    try:
        ran = rehearse(SMALL if options.small else FULL, options.out, console)
    except GeoError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        return error.exit_code
    console.print(f"\n{len(ran)} commands in {time.perf_counter() - started:.0f} s: {options.out / COMMANDS}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
