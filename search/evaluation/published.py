"""What was published on the paper's benchmarks, from `published.csv`, a row for each method.

The tables are those of Daruna et al., GeoSURGE, arXiv 2510.01448v1: I (IM2GPS), II (IM2GPS3k), III (YFCC4k), IV
(YFCC26k) and V (GWS15k); percent of photos within 1, 25, 200, 750 and 2500 km, higher is better. OSV-5M is not there.

What the paper measured itself, its own method and three language models, stands as the paper has it. What it copied
from others stands here only where a public text with the row was opened, with that text's figures, to one decimal; one
that the text does not give is empty. The column `in the paper` has all five of the paper where they differ. Its rows
without such a text are left out: [L]kNN on IM2GPS, RFM on YFCC4k, and four of YFCC26k.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from search.evaluation.options import BenchmarkName, benchmark_named

SOURCE = "arXiv 2510.01448v1"
PUBLISHED_KM = (1.0, 25.0, 200.0, 750.0, 2500.0)
# What stands as source of a row: what it is, and where in it the row is.
SOURCES: Mapping[str, str] = {
    SOURCE: "GeoSURGE (Daruna et al. 2025), the paper's own",
    "arXiv 2405.14702": "G3 (Jia et al. 2024), Table 1",
    "arXiv 2403.19584": "Img2Loc (Zhou et al. 2024), Table 1",
    "arXiv 2503.16423": "GAEA (2025), Table 2, which has no 1 km",
    "arXiv 2505.18700": "GRE Suite (2025), Table 2 (b)",
    "multimedia-berkeley": "README of github.com/multimedia-berkeley/tutorials, Im2GPS test set",
    "StreetCLIP": "model card huggingface.co/geolocal/StreetCLIP (Haas et al. 2023), IM2GPS, which has no 1 km",
    "students' post": "a post by students of UCLA's course CS163, Table 1, after TransLocator's paper "
    "(UCLAdeepvision/CS163-Projects-2025Fall, _posts/2025-12-12-team19-instruction-to-post.md)",
}


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """What is known of one method on one benchmark."""

    within: tuple[float | None, ...]  # percent within each of PUBLISHED_KM, None where the source has no figure
    source: str  # one of SOURCES
    in_the_paper: str = ""  # the paper's own five figures, where they differ

    @property
    def others(self) -> bool:
        """Whether the figures are not from the paper itself."""
        return self.source != SOURCE


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One of the paper's tables, its methods in the paper's order."""

    number: str
    title: str
    rows: dict[str, PublishedRow] = field(default_factory=dict)  # by method


def _read(lines: Sequence[str]) -> dict[BenchmarkName, PublishedTable]:
    tables: dict[BenchmarkName, PublishedTable] = {}
    for benchmark, number, title, method, source, *shares, in_the_paper in csv.reader(lines[1:]):
        within = tuple(float(share) if share else None for share in shares)
        rows = tables.setdefault(benchmark_named(benchmark), PublishedTable(number, title)).rows
        rows[method] = PublishedRow(within, source, in_the_paper)
    return tables


TABLES = _read(
    (files("search.evaluation") / "published.csv").read_text("utf-8").splitlines()
)  # by benchmark, in the paper's order
