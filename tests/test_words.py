"""Names in code are words of `docs/words.md`, and never those that it rules out."""

import ast
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


def test_the_words_are_those_that_the_document_rules_out() -> None:
    (line,) = [line for line in (ROOT / "docs/words.md").read_text().splitlines() if "are no names" in line]
    assert set(line.split("`")[1::2]) == NO_NAMES
