"""README and tutorial, from their first block to their last: commands and Python run word for word on a tiny world."""

from pathlib import Path

import pytest

from tests.docs.conftest import inside, run, versions
from tests.docs.markdown import CommandLine, command_lines, python_blocks
from tests.docs.test_commands import ELSEWHERE


def execute(page: str, line: int, code: str) -> None:
    exec(compile(code, f"{page}:{line}", "exec"), {"__name__": "__main__"})


@pytest.fixture(scope="module")
def after_demo(demo: Path) -> Path:
    """The main job of the README, done; and what it made where `make demo` leaves it, calibrated as there."""
    with inside(demo):
        for line in command_lines("README.md"):
            if not ELSEWHERE.search(str(line)):  # a service would not end
                run(line.words)
        Path("out/T").rename("out/demo/run")
        Path("out/R").rename("out/demo/registry")
        world = ("--photos", "out/demo/world/photos.parquet", "--split", "validation")
        run(("encoder", "embed", *world, "--checkpoint", "out/demo/run/checkpoint", "--out", "out/V"))
        truth = ("--truth", "out/demo/world/photos.parquet", "--split", "validation")
        run(("search", "calibrate", "--registry", "out/demo/registry", "--features", "out/V", *truth))
    return demo


def test_the_main_job_of_the_readme_runs(after_demo: Path) -> None:
    assert (after_demo / "out/O/_manifest.json").exists()


def test_the_quick_start_runs(after_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = python_blocks("README.md")
    assert len(blocks) == 1
    with inside(after_demo):
        for line, code in blocks:
            execute("README.md", line, code)
    printed = capsys.readouterr().out
    assert printed.count("probability") == printed.count("ok ") == 3


def test_the_tutorial_runs(own_photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = "docs/tutorial.md"
    steps: list[tuple[int, CommandLine | str]] = [(line.line, line) for line in command_lines(page)]
    steps += python_blocks(page)
    with inside(own_photos):
        for line, step in sorted(steps, key=lambda each: each[0]):
            if isinstance(step, str):
                execute(page, line, step)
            elif not ELSEWHERE.search(str(step)):
                letters = dict(zip("VW", versions(Path("registry")), strict=True)) if {"V", "W"} & {*step.words} else {}
                run([letters.get(word, word) for word in step.words])
    printed = capsys.readouterr().out
    assert "not calibrated" in printed  # before step 4
    assert "calibrated with" in printed
