"""The benchmarks by name, and what the paper reports on them: its Tables I to VIII as data.

Source: Daruna et al., GeoSURGE, arXiv 2510.01448v1, Tables I (IM2GPS), II (IM2GPS3k), III (YFCC4k), IV (YFCC26k) and V
(GWS15k): percent of photos within 1, 25, 200, 750 and 2500 km, higher is better. The paper copies most rows from the
papers of the methods; its own is `GeoSURGE (Ours)`. OSV-5M is not among its benchmarks.

Tables VI, VII and VIII are its ablations, on IM2GPS (237 photos, so that one photo is 0.4 points): the method without
one of its parts. VI and VII give percent as above; VIII gives what fusion blocks add to the method without any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from indexer.errors import InputError

BenchmarkName = Literal["im2gps", "im2gps3k", "yfcc4k", "yfcc26k", "gws15k", "osv5m"]

SOURCE = "arXiv 2510.01448v1"
PUBLISHED_KM = (1.0, 25.0, 200.0, 750.0, 2500.0)


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One method's line in one of the paper's tables."""

    method: str
    within: tuple[float | None, ...]  # percent for each of PUBLISHED_KM, None where the paper has a dash


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One of the paper's tables, its rows in the paper's order."""

    number: str
    title: str
    rows: Sequence[PublishedRow]


@dataclass(frozen=True, slots=True)
class AblationTable:
    """One of the paper's ablations, its rows in the paper's order, the full method first."""

    number: str
    title: str
    varied: str  # the heading of its first column, whose values are the names of the rows
    rows: Sequence[PublishedRow]
    gains: bool = False  # whether rows are points above the method with 0 of what is varied

    def against_full(self) -> dict[str, tuple[float, ...]]:
        """For each row, and for 0 where the table says it, how many points it lies above the full method."""
        rows = {row.method: [share or 0.0 for share in row.within] for row in self.rows}
        if self.gains:
            rows["0"] = [0.0] * len(PUBLISHED_KM)
        full = rows[self.rows[0].method]
        return {name: tuple(round(a - b, 1) for a, b in zip(row, full, strict=True)) for name, row in rows.items()}


def benchmark_named(name: str) -> BenchmarkName:
    """The benchmark of a name, in any case and with or without dashes, underscores and spaces: `IM2GPS-3k`.

    Raises:
        InputError: there is none of that name.
    """
    plain = name.lower().translate({ord(sign): None for sign in "-_ "})
    names: tuple[BenchmarkName, ...] = get_args(BenchmarkName)
    for known in names:
        if plain == known:
            return known
    raise InputError(
        f"`benchmark` {name!r}: there are {', '.join(names)}. Leave it out for any other table with photo, lat, lng."
    )


_NONE = (None,) * 5


def _table(number: str, title: str, *rows: tuple[str, tuple[float | None, ...]]) -> PublishedTable:
    return PublishedTable(number, title, [PublishedRow(*row) for row in rows])


# fmt: off
TABLES: dict[BenchmarkName, PublishedTable] = {
    "im2gps": _table(
        "I", "IM2GPS",
        ("[L]kNN", (14.4, 33.3, 47.7, 61.6, 73.4)),
        ("PlaNet", (8.4, 24.5, 37.6, 53.6, 71.3)),
        ("CPlaNet", (16.5, 37.1, 46.4, 62.0, 78.5)),
        ("ISNs", (16.9, 43.0, 51.9, 66.7, 80.2)),
        ("Translocator", (19.9, 48.1, 64.6, 75.6, 86.7)),
        ("GeoDecoder", (22.1, 50.2, 69.0, 80.0, 89.1)),
        ("GeoCLIP", _NONE),
        ("PIGEOTTO", (11.8, 38.8, 63.7, 80.5, 91.1)),
        ("RFM 10M S2", _NONE),
        ("Img2Loc/GPT-4V", _NONE),
        ("G3/GPT-4V", _NONE),
        ("Qwen2-72B", (11.8, 41.2, 60.8, 76.4, 86.5)),
        ("InternVL2-76B", (12.7, 37.1, 51.9, 66.7, 81.0)),
        ("NVLM-D-72B", (8.9, 29.1, 42.6, 59.1, 69.6)),
        ("GeoSURGE (Ours)", (27.0, 54.4, 70.0, 84.4, 93.2)),
    ),
    "im2gps3k": _table(
        "II", "IM2GPS3k",
        ("[L]kNN", (7.2, 19.4, 26.9, 38.9, 55.9)),
        ("PlaNet", (8.5, 24.8, 34.3, 48.4, 64.6)),
        ("CPlaNet", (10.2, 26.5, 34.6, 48.6, 64.6)),
        ("ISNs", (10.5, 28.0, 36.6, 49.7, 66.0)),
        ("Translocator", (11.8, 31.1, 46.7, 58.9, 80.1)),
        ("GeoDecoder", (12.8, 33.5, 45.9, 61.0, 76.1)),
        ("GeoCLIP", (14.1, 34.5, 50.7, 69.8, 83.8)),
        ("PIGEOTTO", (10.9, 35.8, 52.4, 70.7, 84.4)),
        ("RFM 10M S2", _NONE),
        ("Img2Loc/GPT-4V", (17.1, 45.1, 57.9, 72.9, 84.7)),
        ("G3/GPT-4V", (16.6, 40.9, 55.6, 71.2, 84.7)),
        ("Qwen2-72B", (8.5, 34.4, 49.4, 62.0, 72.1)),
        ("InternVL2-76B", (10.0, 30.4, 43.5, 59.3, 72.4)),
        ("NVLM-D-72B", (7.2, 23.3, 32.3, 44.5, 55.3)),
        ("GeoSURGE (Ours)", (17.2, 42.5, 58.1, 74.6, 87.6)),
    ),
    "yfcc4k": _table(
        "III", "YFCC4k",
        ("[L]kNN", (2.3, 5.7, 11.0, 23.5, 42.0)),
        ("PlaNet", (5.6, 14.3, 22.2, 36.4, 55.8)),
        ("CPlaNet", (7.9, 14.8, 21.9, 36.4, 55.5)),
        ("ISNs", (6.7, 16.5, 24.2, 37.5, 54.9)),
        ("Translocator", (8.4, 18.6, 27.0, 41.1, 60.4)),
        ("GeoDecoder", (10.4, 24.4, 33.9, 50.0, 68.7)),
        ("GeoCLIP", _NONE),
        ("PIGEOTTO", (9.5, 22.5, 38.8, 60.7, 76.9)),
        ("RFM 10M S2", (None, 33.5, 45.3, 61.1, 77.7)),
        ("Img2Loc/GPT-4V", (14.1, 29.6, 41.4, 59.3, 76.9)),
        ("G3/GPT-4V", (24.0, 35.9, 47.0, 64.3, 78.1)),
        ("Qwen2-72B", (4.0, 16.2, 26.9, 41.9, 52.9)),
        ("InternVL2-76B", (5.1, 14.4, 22.6, 35.2, 46.5)),
        ("NVLM-D-72B", (2.4, 7.4, 9.7, 12.8, 15.1)),
        ("GeoSURGE (Ours)", (19.9, 33.6, 48.7, 67.4, 82.0)),
    ),
    "yfcc26k": _table(
        "IV", "YFCC26k",
        ("PlaNet", (4.4, 11.0, 16.9, 28.5, 47.7)),
        ("ISNs", (5.3, 12.3, 19.0, 31.9, 50.7)),
        ("Translocator", (7.2, 17.8, 28.0, 41.3, 60.6)),
        ("GeoDecoder", (10.1, 23.9, 34.1, 49.6, 69.0)),
        ("GeoCLIP", (11.6, 22.2, 36.7, 57.5, 76.0)),
        ("PIGEOTTO", (10.1, 24.6, 41.3, 62.6, 78.7)),
        ("RFM 10M S2", _NONE),
        ("Img2Loc/GPT-4V", _NONE),
        ("G3/GPT-4V", _NONE),
        ("Qwen2-72B", (4.3, 16.8, 27.5, 39.8, 50.3)),
        ("InternVL2-76B", (6.2, 16.3, 25.4, 38.9, 51.7)),
        ("NVLM-D-72B", (3.6, 11.7, 18.1, 27.1, 34.2)),
        ("GeoSURGE (Ours)", (17.8, 31.5, 45.1, 64.3, 79.3)),
    ),
    "gws15k": _table(
        "V", "GWS15k",
        ("GeoDecoder", (0.7, 1.5, 8.7, 26.9, 50.5)),
        ("GeoCLIP", (0.6, 3.1, 16.9, 45.7, 74.1)),
        ("PIGEOTTO", _NONE),
        ("RFM 10M S2", _NONE),
        ("Img2Loc/GPT-4V", _NONE),
        ("G3/GPT-4V", _NONE),
        ("Qwen2-72B", (0.4, 4.1, 20.5, 47.2, 69.1)),
        ("InternVL2-76B", (0.6, 2.3, 10.1, 28.2, 49.9)),
        ("NVLM-D-72B", (0.1, 1.3, 7.1, 22.5, 39.0)),
        ("GeoSURGE (Ours)", (1.0, 4.6, 21.9, 54.7, 80.8)),
    ),
}

_ABLATIONS = (
    AblationTable(
        "VI", "Geographic representation", "Geographic Embeddings?",
        [
            PublishedRow("Yes", (27.0, 54.4, 70.0, 84.4, 93.2)),
            PublishedRow("No", (22.8, 54.0, 71.3, 83.5, 92.8)),
        ],
    ),
    AblationTable(
        "VII", "Hierarchy depth", "Hierarchy Levels",
        [
            PublishedRow("7", (27.0, 54.4, 70.0, 84.4, 93.2)),
            PublishedRow("5", (24.1, 53.2, 68.8, 82.3, 92.4)),
            PublishedRow("3", (24.0, 51.5, 67.5, 82.2, 92.4)),
            PublishedRow("1", (17.3, 45.5, 65.4, 82.3, 91.6)),
        ],
    ),
    AblationTable(
        "VIII", "Semantic fusion", "Fusion Blocks",
        [
            PublishedRow("3", (3.9, 2.9, 1.7, 0.9, 0.0)),
            PublishedRow("2", (2.6, 0.0, 0.5, -0.4, 0.0)),
            PublishedRow("1", (1.3, 1.2, -0.8, 0.0, -1.2)),
        ],
        gains=True,
    ),
)
# fmt: on
ABLATIONS = {table.number: table for table in _ABLATIONS}
