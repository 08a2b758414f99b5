"""Names in code are words of `docs/words.md`, and never those that it rules out; the library speaks of no flags."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NO_NAMES = {"asked", "told", "said", "some"}


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(asname=str(name)):
                yield name


@pytest.mark.parametrize("package", ["indexer", "encoder", "training", "search", "benchmarks"])
def test_no_name_is_a_word_that_says_nothing(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        found = {name.strip("_").lower() for name in names(ast.parse(path.read_text()))} & NO_NAMES
        assert not found, f"{path}: {found}"


OTHERS_COMMANDS = ("docker run --shm-size", "pip install --upgrade", "python -m training refit --references 5")


@pytest.mark.parametrize("package", ["indexer", "encoder", "training", "search"])
def test_texts_of_the_library_name_fields_and_no_flags(package: str) -> None:
    """Fields in backticks become flags where a command prints them (`indexer.cli`)."""
    for path in (ROOT / package).rglob("*.py"):
        if path.name in ("cli.py", "__main__.py") or path.name.endswith("commands.py"):
            continue
        tree = ast.parse(path.read_text())
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                text = node.value
                for command in OTHERS_COMMANDS:
                    text = text.replace(command, "")
                assert not re.search(r"[\s(`]--[a-z]", text), f"{path}:{node.lineno}: {text}"


def test_the_words_are_those_that_the_document_rules_out() -> None:
    (line,) = [line for line in (ROOT / "docs/words.md").read_text().splitlines() if "are no names" in line]
    assert set(line.split("`")[1::2]) == NO_NAMES
