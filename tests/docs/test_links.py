"""Links of README and docs lead somewhere, and files that pages name are there; what lies elsewhere is not asked."""

import re

import pytest

from tests.docs.markdown import PAGES, ROOT, anchors, in_code_font, links
from tests.test_imports import ROOMS

_PATH = re.compile(r"(?:indexer|encoder|training|search|benchmarks|tests|configs|docs)(?:/[\w.-]+)+/?")


def _resolved(page: str, link: str) -> str:
    path = (ROOT / page).parent / link.partition("#")[0] if link.partition("#")[0] else ROOT / page
    return path.resolve().relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_resolves(page: str) -> None:
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            assert link.startswith("https://"), f"{page}: {link}"
            continue
        target = _resolved(page, link)
        assert (ROOT / target).exists(), f"{page} links to {link}, which is not there"
        anchor = link.partition("#")[2]
        if anchor:
            assert anchor in anchors(target), f"{page} links to {link}; {target} has {sorted(anchors(target))}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    for text in in_code_font(page):
        if _PATH.fullmatch(text):
            assert (ROOT / text).exists(), f"{page} names {text}, which is not there"


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    reached, left = set(), ["README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        found = {_resolved(page, link) for link in links(page) if "://" not in link}
        left += [target for target in found - reached if target in PAGES and target not in left]
    assert set(PAGES) == reached


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_architecture_names_the_rooms_in_their_order() -> None:
    rows = re.findall(
        r"^\| (?:`(\w+)`)? *\| (?:`(\w+)`)? *\|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    )
    named: dict[str, list[str]] = {}
    package = ""
    for owner, room in rows:
        package = owner or package
        if room:
            named.setdefault(package, []).append(room)
    held = {
        name: [room for floor in floors for room in floor if (ROOT / name / room).is_dir()]
        for name, floors in ROOMS.items()
    }
    assert named == held
