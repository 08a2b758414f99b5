"""Prompts say of each row what is known of it, and the finest of that."""

from pathlib import Path

import pyarrow as pa
import pytest

from encoder.prompts import Prompt, read_prompts, texts_of
from indexer.errors import InputError

ORDER = ["country", "region", "city"]


def rows(*values: tuple[str | None, str | None, str | None]) -> pa.Table:
    columns = zip(*values, strict=True)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(ORDER, columns, strict=True)})


def texts(table: pa.Table, *prompts: str) -> list[list[str]]:
    return texts_of(table, [Prompt(text) for text in prompts], order=ORDER, source="T")


def test_a_row_takes_the_prompts_that_say_most_of_it() -> None:
    table = rows(
        ("France", None, None), ("France", "Brittany", ""), ("France", "Brittany", "Brest"), ("Oman", "", "Sur")
    )
    of_city = ("{city} in {country}.", "{city}, {region}, {country}.", "Photo: {city}, {region}, {country}")
    assert texts(table, "In {country}.", "{region} ({country})", *of_city) == [
        ["In France."],
        ["Brittany (France)"],
        ["Brest, Brittany, France.", "Photo: Brest, Brittany, France"],
        ["Sur in Oman."],
    ]


def test_the_order_of_columns_is_that_of_the_table_and_not_of_the_prompts() -> None:
    table = rows(("France", "Brittany", "Brest"))
    assert texts(table, "{city}", "{country} {region}") == [["Brest"]]
    assert texts(table, "{country} {region}", "{city}") == [["Brest"]]


def test_values_are_put_in_as_they_are() -> None:
    table = rows(("{city}", None, r"\1 {country}"))
    assert texts(table, "{city} of {country}, {city}") == [[r"\1 {country} of {city}, \1 {country}"]]


def test_a_row_that_no_prompt_fits_is_named() -> None:
    table = rows(("France", None, "Brest"), ("France", None, None))
    with pytest.raises(InputError, match=r"T: no prompt fits row 1.* city, country, .* values in country; add"):
        texts(table, "{city}", "{city}, {country}")


def test_a_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n A photo in {country}. \n\n{city}, {country}, {city}\n")
    prompts = read_prompts(file)
    assert [each.text for each in prompts] == ["A photo in {country}.", "{city}, {country}, {city}"]
    assert prompts[1].columns == ("city", "country")


@pytest.mark.parametrize("text", ["A photo.", "A photo in {}.", "A photo in {country.", "A photo in {{country}}."])
def test_a_line_without_a_column_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"In {{country}}\n{text}\n")
    with pytest.raises(InputError, match="must name columns of the table in braces"):
        read_prompts(file)


def test_files_that_hold_no_prompts_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    with pytest.raises(InputError, match="cannot be read as prompts"):
        read_prompts(file)
    file.write_bytes(b"\xff\xfe{city}")
    with pytest.raises(InputError, match="cannot be read as prompts"):
        read_prompts(file)
    file.write_text("\n\n")
    with pytest.raises(InputError, match="no prompt in it"):
        read_prompts(file)
