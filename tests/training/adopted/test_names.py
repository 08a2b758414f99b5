"""Named places: their cells, and what is said of each of them."""

from pathlib import Path

import pytest

from indexer.errors import InputError
from training.adopted.names import read_names


def cells(table: Path, *labels: str, prompts: Path | None = None) -> dict[str, list[str]]:
    """The texts of each cell by its key."""
    named = read_names(table, labels=labels, prompts=prompts)
    places = named.places()
    texts = named.texts(named.scheme.build(places), places)
    return dict(zip(texts.name, map(list, texts.texts), strict=True))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "names.csv"
    file.write_text("lat,lng,city,land\n1,2,Foo/Bar,A\n3,4,Foo/Bar,B\n5,6,,B\n7,8,Zed,A\n7,9,Zed,A\n")
    return file


def test_each_level_has_its_own_texts(table: Path) -> None:
    assert cells(table, "land", "city") == {
        "A": ["A Street View photo in A."],
        "B": ["A Street View photo in B."],
        "A/Foo%2FBar": ["A Street View photo in Foo/Bar, A."],
        "A/Zed": ["A Street View photo in Zed, A."],
        "B/Foo%2FBar": ["A Street View photo in Foo/Bar, B."],
    }


def test_prompts_are_those_of_a_file(table: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("{land}\nIn {land}\n{city} of {land}\n{city}!\n")
    found = cells(table, "land", "city", prompts=prompts)
    assert found["A"] == ["A", "In A"]
    assert found["A/Zed"] == ["Zed of A"]
    for text, message in [
        ("{land}\n", "no prompt for a city"),
        ("{land}, {city}\n", "no prompt for a land"),
        ("{land}\n{city}\n{river}\n", "names 'river'; the labels are land, city"),
    ]:
        prompts.write_text(text)
        with pytest.raises(InputError, match=message):
            cells(table, "land", "city", prompts=prompts)


def test_the_usual_labels_have_the_captions_of_streetclip(tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    file.write_text("lat,lng,continent,country,region,city\n1,2,Europe,France,Brittany,Brest\n")
    assert cells(file) == {
        "Europe": ["A Street View photo in Europe."],
        "Europe/France": ["A Street View photo in France."],
        "Europe/France/Brittany": ["A Street View photo in the region of Brittany in France."],
        "Europe/France/Brittany/Brest": [
            "A Street View photo close to the town of Brest in the region of Brittany in France."
        ],
    }


def test_labels_without_a_table_are_refused(table: Path) -> None:
    with pytest.raises(InputError, match="`labels` go with `names`"):
        read_names(labels=["land"])
    with pytest.raises(InputError, match="no column 'river'"):
        read_names(table, labels=["land", "river"])
    with pytest.raises(InputError, match="must be different columns"):
        read_names(table, labels=["land", "land"])


def test_texts_of_cities_have_no_numbers_of_geonames() -> None:
    named = read_names()
    places = named.places()
    hierarchy = named.scheme.build(places)
    texts = named.texts(hierarchy, places)
    assert [len(level) for level in hierarchy.levels][3] == places.num_rows
    assert len(set(texts.name)) == len(texts) == sum(map(len, hierarchy.levels))
    assert not any(char.isdigit() for each in texts.texts for text in each for char in text.split(" in ")[-1])
    at = {key: text for key, text in zip(texts.name, texts.texts, strict=True)}
    assert at["North America/United States/Texas/Paris"] == [
        "A Street View photo close to the town of Paris in the region of Texas in United States."
    ]
    (numbered,) = [key for key in at if key.endswith("Negotino (787715)")]
    assert at[numbered] == ["A Street View photo in the region of Negotino in North Macedonia."]
