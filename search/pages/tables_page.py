"""Tables I to V beside one's own answers as a folder to keep.

Out: `report.html` (nothing fetched, no script), `tables.md`, `tables.csv` and `manifest.json`.
"""

from pathlib import Path

from indexer.disk.artifact import check_target, write_folder
from search.evaluation.paper_tables import PaperTables
from search.pages.page import render

KIND = "tables"
SCHEMA_VERSION = 1
_TITLE = "Tables I to V"


def write_tables(tables: PaperTables, out: Path) -> None:
    """Write the folder `out`, whole or not at all. Raises as `write_folder`."""
    check_target(out)
    page = render("tables.html", title=_TITLE, tables=tables.tables(), remarks=tables.remarks, missing=tables.missing)
    with write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, config={}) as draft:
        (draft.path / "report.html").write_text(page, encoding="utf-8")
        (draft.path / "tables.md").write_text(tables.markdown(), encoding="utf-8")
        (draft.path / "tables.csv").write_text(tables.csv(), encoding="utf-8")
