"""The site of `make docs`: docstrings as Sphinx reads them, fields with their comments, and nothing fetched."""

import importlib
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.markdown import PACKAGES, ROOT

sys.path.append(str(ROOT / "docs"))
reference = importlib.import_module("reference")


def test_code_and_stray_signs_of_a_docstring_survive() -> None:
    text = "A `Cell`s * that |v| of from_ holds <l>.\n\nvectors: (N, D) float32. k: how many."
    assert reference.as_rst(text, ["vectors", "k"]) == [
        r"A ``Cell``\ s \* that \|v\| of from\_ holds \<l\>.",
        "",
        "``vectors``: (N, D) float32. ``k``: how many.",
        "",
    ]


def test_blocks_bullets_and_sections_of_a_docstring() -> None:
    text = """Write it.

    Files:
        one.txt   first
    - a bullet
      that goes on

    Raises:
        InputError: `out` exists
            or cannot be written.
    """
    assert reference.as_rst(text) == [
        "Write it.",
        "",
        "Files:",
        "",
        "::",
        "",
        "    one.txt   first",
        "",
        "- a bullet",
        "  that goes on",
        "",
        ":raises InputError: ``out`` exists",
        "    or cannot be written.",
        "",
    ]


def test_a_field_says_what_stands_beside_it() -> None:
    assert reference._field_comment("indexer.vectors.calibration.Calibration.temperature")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ('<script defer src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', ["//fonts.example/a.css"]),
        ("@import url('http://fonts.example/b.css');", ["http://fonts.example/b.css"]),
        ("src: url(https://fonts.example/c.woff2)", ["https://fonts.example/c.woff2"]),
        ('<img src="https://badge.example/d.svg">', ["https://badge.example/d.svg"]),
        ('<a href="https://arxiv.org/abs/2510.01448">the paper</a> <img src="_images/map.png">', []),
        ('<link rel="canonical" href="https://here.example/">', []),
    ],
)
def test_what_a_page_would_fetch_is_seen(text: str, addresses: list[str]) -> None:
    assert reference.fetched(text) == addresses


class _References(HTMLParser):
    """Everything a page leads to or loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value for name, value in attrs if name in ("href", "src") and value}


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_is_whole(tmp_path: Path) -> None:
    options = ["-W", "--keep-going", "-q", "-c", "docs", "-d", tmp_path / "cache", ".", tmp_path / "site"]
    done = subprocess.run([sys.executable, "-m", "sphinx", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    assert (site / "searchindex.js").exists()
    for package in PACKAGES:
        page = (site / f"docs/reference/{package}.html").read_text()
        for name in getattr(importlib.import_module(package), "__all__", ()):
            assert f'id="{package}.{name}"' in page
    for path in site.rglob("*.html"):
        if path.parent.name == "_static":  # the theme's own template
            continue
        parser = _References()
        parser.feed(path.read_text(encoding="utf-8"))
        for link in parser.found:
            if "://" not in link and not link.startswith(("#", "mailto:", "data:", "javascript:")):
                target = path.parent / unquote(link.partition("#")[0].partition("?")[0])
                assert target.exists(), f"{path.relative_to(site)} leads to {link}"
