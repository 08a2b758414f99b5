"""What the paper reports on the benchmarks, from `published.csv`, a row for each method.

Source: Daruna et al., GeoSURGE, arXiv 2510.01448v1, Tables I (IM2GPS), II (IM2GPS3k), III (YFCC4k), IV (YFCC26k) and V
(GWS15k): percent of photos within 1, 25, 200, 750 and 2500 km, higher is better; empty where the paper has a dash. The
paper copies most rows from the papers of the methods; its own is `GeoSURGE (Ours)`. OSV-5M is not among its benchmarks.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

SOURCE = "arXiv 2510.01448v1"
PUBLISHED_KM = (1.0, 25.0, 200.0, 750.0, 2500.0)


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One of the paper's tables, its methods in the paper's order."""

    number: str
    title: str
    # method -> percent within each of PUBLISHED_KM, None where the paper has a dash
    rows: dict[str, tuple[float | None, ...]] = field(default_factory=dict)


def _read(lines: Sequence[str]) -> dict[str, PublishedTable]:
    tables: dict[str, PublishedTable] = {}
    for benchmark, number, title, method, *shares in csv.reader(lines[1:]):
        rows = tables.setdefault(benchmark, PublishedTable(number, title)).rows
        rows[method] = tuple(float(share) if share else None for share in shares)
    return tables


TABLES = _read((files("search.evaluation") / "published.csv").read_text("utf-8").splitlines())  # by benchmark
