"""The newest whole comparison of ways to fuse (`benchmarks.world.fusion_arms`), as a table for pages.

In: `benchmarks/results/world-fusion.jsonl`. Out: a table, in which every figure was measured when the comparison ran.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import harness
from search.evaluation.report_table import Row, Table

RECORD = "world-fusion"
_SEEDS = 3  # of a comparison that is shown
_BESIDE = "concatenate"


def fusion_table(fused: str) -> Table | None:
    """Each arm's accuracy, and how much better or worse than concatenation it is; None where no record has it.

    fused: the kind that the page is about.
    """
    whole = [line for line in harness.recorded(RECORD) if _has(line, (fused, _BESIDE))]
    if not whole:
        return None
    settings, rows = whole[-1]["settings"], whole[-1]["rows"]
    heads = [
        "what the encoder sees",
        "median km",
        "\u2264\u00a0200 km",
        "\u2264\u00a0750 km",
        f"less {_BESIDE}, 200 km",
    ]
    photos = f"{settings['photos']:,} training pictures, {settings['test_photos']:,} unseen ones"
    note = (
        f"{photos}; {settings['epochs']} epochs; means of {len(settings['seeds'])} seeds, by cells alone; differences "
        "with 95 % of them over pictures and seeds. Measured by make bench-fusion, not by this run."
    )
    return Table(heads, [_row(row, fused) for row in rows], notes=[note])


def _has(line: Mapping[str, Any], kinds: Sequence[str]) -> bool:
    names = [row["what"] for row in line["rows"]]
    return len(line["settings"]["seeds"]) >= _SEEDS and all(kind in names for kind in kinds)


def _row(row: Mapping[str, Any], fused: str) -> Row:
    against = row.get("against", {}).get(_BESIDE)
    less = "" if against is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*against["200"])
    figures = (statistics.mean(row[name]) for name in ("median_km", "within_200", "within_750"))
    median, *shares = figures
    cells = [row["what"], f"{median:,.0f}", *(f"{share:.1f}" for share in shares), less]
    return Row(cells, kind="ours" if row["what"] == fused else "")
