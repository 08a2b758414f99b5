"""The pages people read, taken apart: links, anchors, blocks of Python, command lines, names in code font."""

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
        if path.name != "CHANGELOG.md"  # it tells of what was
    )
)
PACKAGES = ("indexer", "encoder", "training", "search")
_SHELL_NUMBER = re.compile(r"\$\(\([^)]*\)\)|\$\w+")  # of a loop, or of Slurm


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command of this project as a page has it."""

    page: str
    line: int  # that its block begins with, from 1
    words: tuple[str, ...]  # what follows `python -m`

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: python -m {shlex.join(self.words)}"


@cache
def tokens(page: str) -> tuple[Token, ...]:
    """A page's blocks and what is in them, in their order."""
    blocks = MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))
    return tuple(each for block in blocks for each in (block, *(block.children or ())))


def links(page: str) -> list[str]:
    """Where its links lead and its pictures lie, as they are written."""
    names = {"link_open": "href", "image": "src"}
    return [str(each.attrs[names[each.type]]) for each in tokens(page) if each.type in names]


def anchors(page: str) -> set[str]:
    """What may stand after `#`, as forges and the site make it of headings."""
    found: dict[str, int] = {}
    every = tokens(page)
    for opening, inline in itertools.pairwise(every):
        if opening.type == "heading_open":
            text = "".join(each.content for each in inline.children or () if each.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {slug if not number else f"{slug}-{number}" for slug, last in found.items() for number in range(last + 1)}


def in_code_font(page: str) -> Iterator[str]:
    """Spans of code within sentences."""
    return (each.content for each in tokens(page) if each.type == "code_inline")


def python_blocks(page: str) -> list[tuple[int, str]]:
    """Blocks marked as Python, with the line each begins in."""
    return [
        (each.map[0] + 1 if each.map else 0, each.content)
        for each in tokens(page)
        if each.type == "fence" and each.info.strip() == "python"
    ]


def command_lines(page: str) -> list[CommandLine]:
    """Every `python -m <package> ...` in its blocks."""
    return [
        CommandLine(page, each.map[0] + 1, words)
        for each in tokens(page)
        if each.map and (each.type == "code_block" or (each.type == "fence" and each.info.strip() != "python"))
        for text in each.content.replace("\\\n", " ").splitlines()
        for words in _commands(text)
    ]


def _commands(text: str) -> Iterator[tuple[str, ...]]:
    if "python -m" not in text:
        return
    words = shlex.split(_SHELL_NUMBER.sub("1", text).replace(";", " ; "), comments=True)
    while "-m" in words:
        words = words[words.index("-m") + 1 :]
        end = next((number for number, word in enumerate(words) if word in (";", "&", "&&", "|")), len(words))
        if words[0] in PACKAGES:
            yield tuple(words[:end])
