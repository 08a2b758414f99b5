"""Sphinx extension: the reference, made from the code, and a check that the site fetches nothing.

In: the four packages, imported. Out: a page for each front door, room and module below `docs/reference`, and one with
what `--help` of every command says. No list of names is kept by hand, so none can go stale.

Docstrings here are plain text: code in single backticks, blocks that are indented, `name: meaning` for parameters.
`as_rst` turns them into what Sphinx reads, so that no docstring can break the build by a stray asterisk.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import shutil
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

PACKAGES = ("indexer", "encoder", "training", "search")
FOLDER = "docs/reference"

_SECTIONS = {"Args:": "param", "Raises:": "raises", "Returns:": "returns", "Yields:": "yields"}
_CODE = re.compile(r"(?:from [\w.]+ )?import \w|>>> ")  # how a block begins that is code, indented or not
_ENTRY = re.compile(r"(\w[\w.]*): (.*)")
# What makes a browser load something: not links that a person follows.
_LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|srcset|data)\s*=\s*["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel\s*=\s*["']?(?:stylesheet|icon|preload|preconnect|prefetch))[^>]*?\bhref\s*=\s*["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:@import\s+(?:url\()?|url\()\s*["']?((?:https?:)?//[^"'\s)]+)"""
)


def fetched(text: str) -> list[str]:
    """Addresses elsewhere that a page or a style sheet would load by itself."""
    return [next(filter(None, found.groups())) for found in _LOADS.finditer(text)]


def as_rst(docstring: str, names: Iterable[str] = ()) -> list[str]:
    """A docstring as lines of reStructuredText. names: of parameters, shown as code where their meaning begins."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        section = None
        for indented, run in _runs(block.splitlines()):
            text = textwrap.dedent("\n".join(run)).splitlines()
            if not indented and not _CODE.match(text[0]):
                section = _SECTIONS.get(text[-1])
                lines += _paragraph(text[:-1] if section else text, names)
            elif section:
                lines += _fields(section, text)
            else:
                lines += ["::", "", *("    " + line for line in text), ""]
    return lines


def _runs(block: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """Lines that follow each other, indented or not; what continues a bullet is not indented."""
    run: list[str] = []
    bullet = before = False
    for line in block:
        bullet = line.startswith("- ") or (bullet and line.startswith("  "))
        indented = line.startswith(" ") and not bullet
        if run and indented != before:
            yield before, run
            run = []
        run.append(line)
        before = indented
    if run:
        yield before, run


def _paragraph(text: list[str], names: Iterable[str]) -> list[str]:
    if not text:
        return []
    known = "|".join(map(re.escape, names))
    # `vectors: (N, D) float32` at the start of a sentence, where that is a parameter.
    marked = [re.sub(rf"(^|\. |; )({known}): ", r"\1`\2`: ", line) for line in text] if known else text
    lines: list[str] = []
    for line in marked:
        if line.startswith("- ") and lines and lines[-1]:
            lines.append("")
        lines.append(f"- {_inline(line[2:])}" if line.startswith("- ") else _inline(line, keep_indent=True))
    return [*lines, ""]


def _fields(section: str, text: list[str]) -> list[str]:
    lines: list[str] = []
    for line in text:
        entry = _ENTRY.match(line)
        if entry and not line.startswith(" "):
            name = f"{section} {entry[1]}" if section in ("param", "raises") else section
            lines.append(f":{name}: {_inline(entry[2])}")
        elif lines:
            lines.append(f"    {_inline(line.strip())}")
        else:
            lines.append(f":{section}: {_inline(line.strip())}")
    return [*lines, ""]


def _inline(text: str, *, keep_indent: bool = False) -> str:
    """One line with its code as literals and everything else that has a meaning to Sphinx escaped."""
    indent = text[: len(text) - len(text.lstrip())] if keep_indent else ""
    parts = re.split(r"`+([^`]+)`+", text.strip())
    escaped = [
        re.sub(r"([\\*|_`<>])", r"\\\1", part) if n % 2 == 0 else f"``{part.strip()}``" for n, part in enumerate(parts)
    ]
    for n in range(1, len(parts), 2):  # a literal ends only before a space or a full stop
        if re.match(r"\w", parts[n + 1]):
            escaped[n + 1] = "\\ " + escaped[n + 1]
        if re.search(r"\w$", parts[n - 1]):
            escaped[n - 1] += "\\ "
    return indent + "".join(escaped)


@cache
def _comments(module: str) -> Mapping[str, str]:
    """`Class.field` -> the comment beside it, for every class of a module: that is where fields say what they are."""
    source = inspect.getsource(importlib.import_module(module))
    comment = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# type:")
    }
    return {
        f"{owner.name}.{field.target.id}": comment[field.end_lineno]
        for owner in ast.walk(ast.parse(source))
        if isinstance(owner, ast.ClassDef)
        for field in owner.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.end_lineno in comment
    }


def _field_comment(name: str) -> str:
    """What stands beside the field `package.module.Class.field`, at a front door or where it is written."""
    owner, _, field = name.rpartition(".")
    module, _, kind = owner.rpartition(".")
    with contextlib.suppress(ImportError, AttributeError, OSError, TypeError):
        for base in inspect.getmro(getattr(importlib.import_module(module), kind)):
            found = (
                _comments(base.__module__).get(f"{base.__name__}.{field}") if base.__module__ != "builtins" else None
            )
            if found:
                return found
    return ""


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what == "attribute" and not "".join(lines).removeprefix("Alias for field number").strip(" 0123456789"):
        lines[:] = [_field_comment(name)]
    names: Iterable[str] = ()
    with contextlib.suppress(TypeError, ValueError):
        names = list(inspect.signature(obj).parameters) if callable(obj) else ()
    lines[:] = as_rst("\n".join(lines), names)


def _modules(package: ModuleType) -> Iterator[str]:
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not found.name.rpartition(".")[2].startswith("_"):
            yield found.name


def _page(title: str, *sections: str) -> str:
    return "\n\n".join([f"{title}\n{'=' * len(title)}", *sections]) + "\n"


def _toctree(names: Iterable[str]) -> str:
    listed = (f"   {name.rpartition('.')[2].replace('commands-', 'commands of ')} <{name}>" for name in names)
    return ".. toctree::\n   :maxdepth: 1\n\n" + "\n".join(listed)


def _directive(kind: str, name: str) -> str:
    return f".. auto{kind}:: {name}"


def _module_pages(name: str, doors: Mapping[tuple[str, str], str]) -> Iterator[tuple[str, str]]:
    """Pages of a module and of those below it. doors: (module, name) -> where a front door has it."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        below = list(_modules(module))
        parts = [_directive("module", name) + "\n   :no-members:"]
        parts += [_directive(_kind(getattr(module, each)), f"{name}.{each}") for each in getattr(module, "__all__", ())]
        yield name, _page(name, *parts, *([_toctree(below)] if below else []))
        for each in below:
            yield from _module_pages(each, doors)
        return
    # Described once, where people import it: else a name would have two places that links may mean.
    shown = {each: door for (owner, each), door in doors.items() if owner == name}
    apart = f"\n   :exclude-members: {', '.join(shown)}" if shown else ""
    named = ", ".join(f":py:obj:`{door}`" for door in shown.values())
    yield name, _page(name, *([f"At the front door: {named}."] if shown else []), _directive("module", name) + apart)


def _doors() -> dict[tuple[str, str], str]:
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            found[getattr(value, "__module__", ""), getattr(value, "__qualname__", "")] = f"{package}.{name}"
    return found


def _kind(value: object) -> str:
    return "class" if inspect.isclass(value) else "function" if callable(value) else "data"


def _command_page(package: str) -> str:
    """What `--help` says of every command."""
    from indexer.cli import command_words, main

    commands = importlib.import_module(f"{package}.__main__").COMMANDS
    sections = ["Every command takes ``--json`` and ``--config file.yaml``."]
    for words in command_words(commands):
        out = io.StringIO()
        # Help is as wide as the terminal.
        with (
            mock.patch.dict("os.environ", COLUMNS="92"),
            contextlib.redirect_stdout(out),
            contextlib.suppress(SystemExit),
        ):
            main(package, "", commands, argv=[*words, "--help"])
        text = out.getvalue().replace(" \b", "")  # jsonargparse writes a backspace before `[=flags]`
        title = f"python -m {package} {' '.join(words)}"
        sections.append(f"{title}\n{'-' * len(title)}\n\n.. code-block:: text\n\n{textwrap.indent(text, '   ')}")
    return _page(f"Commands of {package}", *sections)


def write_pages(app: Sphinx) -> None:
    """Write the reference anew."""
    folder = Path(app.srcdir, FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    commands = [f"commands-{package}" for package in PACKAGES]
    written = {f"commands-{package}": _command_page(package) for package in PACKAGES}
    doors = _doors()
    written |= {name: text for package in PACKAGES for name, text in _module_pages(package, doors)}
    written["index"] = _page(
        "Reference",
        "What a Python user imports stands first on the page of each package; below it, its rooms and modules.",
        _toctree(PACKAGES),
        "And the command lines:",
        _toctree(commands),
    )
    for name, text in written.items():
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")


def _contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Pages stay free of Sphinx: the table of contents is added here."""
    for caption, pages in app.config.contents.get(name, {}).items():
        listed = "\n".join("/" + page for page in pages)
        options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
        source[0] += f"\n```{{toctree}}\n{options}\n{listed}\n```\n"


def _finish(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    shutil.copyfile(out / "README.html", out / "index.html")  # what a browser opens first
    for path in sorted(out.rglob("*")):
        if path.suffix in (".html", ".css"):
            for address in fetched(path.read_text(encoding="utf-8")):
                raise ExtensionError(f"{path}: loads {address}. Pages of the site fetch nothing from elsewhere.")


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.add_config_value("contents", {}, "env")
    app.connect("builder-inited", write_pages)
    app.connect("source-read", _contents)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": False}
