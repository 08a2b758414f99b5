"""Names in code are words of `docs/words.md`, and never those that it rules out; the library speaks of no flags."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("indexer", "encoder", "training", "search", "benchmarks")
NO_NAMES = {"asked", "told", "said", "some"}
# Other trees than hierarchies: a search tree over points, a folder and all in it, and the tree of labels.
OTHERS = {"tree": {"point_tree", "_sync_tree", "_check_tree"}}


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(asname=str(name)):
                yield name


def own_names(path: Path) -> Iterator[str]:
    """Those of a module, its classes, functions and arguments: what it is itself to name."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


@cache
def ruled_out() -> list[str]:
    """What the tables of the page have in code font in their column "not"."""
    rows = [line.split("|") for line in (ROOT / "docs/words.md").read_text().splitlines() if line.startswith("| ")]
    return sorted({word for cells in rows if len(cells) == 5 for word in re.findall(r"`(\w+)`", cells[3])})


def has(name: str, word: str) -> bool:
    """Whether a word, of one part or several, is a part of a name, in the singular or the plural."""
    parts = "_".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()
    return re.search(rf"(^|_){word}(e?s)?(_|$)", parts) is not None


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_a_word_that_says_nothing(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        found = {name.strip("_").lower() for name in names(ast.parse(path.read_text()))} & NO_NAMES
        assert not found, f"{path}: {found}"


OTHERS_COMMANDS = ("docker run --shm-size", "pip install --upgrade")


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


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_has_a_word_that_the_page_rules_out(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        own = set(own_names(path))
        found = {(name, word) for word in ruled_out() for name in own - OTHERS.get(word, set()) if has(name, word)}
        assert not found, f"{path}: {found}; docs/words.md has the words to use"


def test_the_words_are_those_that_the_document_rules_out() -> None:
    (line,) = [line for line in (ROOT / "docs/words.md").read_text().splitlines() if "are no names" in line]
    assert set(line.split("`")[1::2]) == NO_NAMES
    assert len(ruled_out()) > 20
    assert set(OTHERS) <= set(ruled_out())


def test_words_are_found_as_parts_of_names() -> None:
    assert all(has(name, "tree") for name in ("tree", "TreeLists", "label_trees", "_tree"))
    assert not any(has(name, "tree") for name in ("street", "copytree", "treespec"))
    assert has("sorted_leaf_ids", "leaf_id")
    assert not has("leaf_index", "leaf_id")
