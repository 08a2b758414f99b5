"""The page of Tables I to V: it holds what the tables say, with everything escaped, beside Markdown and CSV."""

from pathlib import Path

from indexer.disk.manifest import read_manifest
from search.evaluation.paper_tables import PaperTables
from search.pages.tables_page import KIND, SCHEMA_VERSION, write_tables
from tests.search.evaluation.test_paper_tables import judged


def test_the_folder_has_the_tables_in_three_forms(tmp_path: Path) -> None:
    tables = PaperTables({"im2gps": judged("im2gps")}, ["put it into <here>"], ["ten crops"])
    write_tables(tables, tmp_path / "P")
    page = (tmp_path / "P" / "report.html").read_text()
    assert all(part in page for part in ("Table I, IM2GPS", "this run, 8 photos", "GeoSURGE (Ours)", "ten crops"))
    assert "put it into &lt;here&gt;" in page
    assert not any(part in page for part in ("<script", "http"))
    assert (tmp_path / "P" / "tables.md").read_text() == tables.markdown()
    assert (tmp_path / "P" / "tables.csv").read_text() == tables.csv()
    assert len(read_manifest(tmp_path / "P", kind=KIND, schema_version=SCHEMA_VERSION).files) == 3
