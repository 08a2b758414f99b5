"""The paper's ablations: its own claims about them must hold for what is written here."""

from benchmarks.world.ablation_table import ABLATIONS, against_full
from search.evaluation.published import TABLES


def test_ablations_are_of_the_method_of_table_one() -> None:
    assert list(ABLATIONS) == ["VI", "VII", "VIII"]
    full = TABLES["im2gps"].rows["GeoSURGE (Ours)"].within
    assert next(iter(ABLATIONS["VI"].rows.values())) == next(iter(ABLATIONS["VII"].rows.values())) == full
    for table in ABLATIONS.values():
        assert against_full(table)[next(iter(table.rows))] == (0.0,) * 5


def test_ablations_say_what_the_papers_text_says_of_them() -> None:
    """Section IV-B: embeddings gain most at street level, deeper is better, fusion gains most at short distances."""
    embeddings = against_full(ABLATIONS["VI"])["No"]
    assert embeddings == (-4.2, -0.4, 1.3, -0.9, -0.4)
    assert min(embeddings) == embeddings[0]
    depth = [against_full(ABLATIONS["VII"])[levels] for levels in ("7", "5", "3", "1")]
    for column in (0, 1, 2):
        losses = [row[column] for row in depth]
        assert losses == sorted(losses, reverse=True)
    fusion = against_full(ABLATIONS["VIII"])
    assert fusion["0"] == (-3.9, -2.9, -1.7, -0.9, 0.0)
    assert fusion["1"] == (-2.6, -1.7, -2.5, -0.9, -1.2)
    assert list(fusion["0"]) == sorted(fusion["0"])
