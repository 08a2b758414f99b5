"""Command lines of README and docs: each parses, and each that needs no hub, bucket or cluster runs on a tiny world."""

import importlib
import re
from pathlib import Path

import pytest

from indexer.cli import Group, _parser
from tests.docs.conftest import run
from tests.docs.markdown import PACKAGES, PAGES, ROOT, CommandLine, command_lines, in_code_font

COMMANDS = {package: importlib.import_module(f"{package}.__main__").COMMANDS for package in PACKAGES}
GROUPS = {
    (package, name): group.commands
    for package, commands in COMMANDS.items()
    for name, group in commands.items()
    if isinstance(group, Group)
}
# Of each package, and of each of its groups of commands.
PARSERS = {
    words: _parser(" ".join(words), "", commands)
    for words, commands in [*(((package,), commands) for package, commands in COMMANDS.items()), *GROUPS.items()]
}
LINES = [line for page in PAGES for line in command_lines(page)]
# What a command line needs that is not here; it is parsed all the same.
ELSEWHERE = re.compile(
    r"s3://|shi-labs/|--engine ray|mp16\.yaml|--part |--segmentation-cache|--benchmark |--tables|names\.txt"
    r"|--registry names\b|adopt geoclip"
    r"|search serve|search token"
)
# Options of other programs, of Slurm, and of a section that is there only when one of its options is given.
OTHERS = {
    "--model.fusion.classes",
    "--gpus-per-task",
    "--cpus-per-task",
    "--requeue",
    "--signal",
    "--array",
    "--logdir",
    "--data-binary",
    "--read-only",
    "--tmpfs",
    "--user",
}


def test_there_are_command_lines_to_test() -> None:
    assert len(LINES) > 50
    assert {line.words[0] for line in LINES} == set(PACKAGES)


@pytest.mark.parametrize("line", LINES, ids=str)
def test_it_parses(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where configs/ is
    n_first = 2 if line.words[:2] in GROUPS else 1
    try:
        PARSERS[line.words[:n_first]].parse_args(line.words[n_first:])
    except SystemExit:
        pytest.fail(f"{line} does not parse")


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_in_its_sentences_exist(page: str) -> None:
    known = {
        name for parser in PARSERS.values() for each in parser.commands.values() for name in each._option_string_actions
    }
    for text in in_code_font(page):
        for package, name in re.findall(r"python -m (indexer|encoder|training|search) (\w+)", text):
            assert name in COMMANDS[package], f"{page} names {text}"
        for option in re.findall(r"(?<!\S)--[a-z][\w.-]*", text):
            assert option in known | OTHERS, f"{page} names {option}, which no command has"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"^    make ([a-z-]+)|`make ([a-z-]+)[^`]*`", (ROOT / page).read_text(), re.MULTILINE):
            name = "".join(target)
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"{page}: make {name}"


def _runnable(page: str) -> list[CommandLine]:
    return [line for line in command_lines(page) if not ELSEWHERE.search(str(line))]


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") and page != "docs/tutorial.md"])
def test_commands_of_docs_run(page: str, letters: Path) -> None:
    for line in _runnable(page):
        run(line.words)
