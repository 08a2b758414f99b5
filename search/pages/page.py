"""HTML pages that need nothing else: style and pictures inside, no script, nothing fetched. Text is escaped."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; --ink: #1d2327; --quiet: #59636b; --line: #d5dade; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; color: var(--ink); background: #fff;
  font: 1rem/1.5 "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; } .quiet { color: var(--quiet); font-size: .875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th { font-weight: 600; white-space: nowrap; } thead th { border-bottom: 2px solid var(--ink); }
th:first-child, td:first-child { text-align: left; padding-left: 0; } tbody th { font-weight: 400; }
td.name { text-align: left; overflow-wrap: anywhere; }
.text th, .text td { text-align: left; } .text td { overflow-wrap: anywhere; }
tr.ours th, tr.ours td { font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } .pictures img { max-width: 30rem; width: 100%; }
img { max-width: 100%; height: auto; }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A page of sections, which are HTML already; empty ones are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def table_row(name: str, values: Iterable[str], *, kind: str = "") -> str:
    """A row of a table. kind: of the style sheet."""
    cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{cells}</tr>'


def table(heads: Sequence[str], rows: Sequence[str], *, kind: str = "") -> str:
    """A table of rows, which are HTML already; the heads are text. kind: of the style sheet; `text` for words."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    head = f"<thead><tr>{head}</tr></thead>\n" if heads else ""
    body = "\n".join(rows)
    return f'<div class="scroll"><table class="{kind}">{head}<tbody>\n{body}\n</tbody></table></div>'


def data_uri(picture: bytes) -> str:
    """A PNG as a page can hold it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
