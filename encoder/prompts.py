"""Prompts: what is said of a name before a model sees it, such as `A photo in {country}.` with the country filled in.

In: prompts, and a table whose columns they name in braces. Out: the texts of each row.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from indexer.errors import InputError

_COLUMN = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)  # no slots: cached_property needs a __dict__
class Prompt:
    """A text with the names of columns in braces."""

    text: str

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names, each once, in its own order."""
        return tuple(dict.fromkeys(_COLUMN.findall(self.text)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with the values of a row in place of its columns."""
        return _COLUMN.sub(lambda found: values[found[1]], self.text)


def read_prompts(file: Path) -> list[Prompt]:
    """The prompts of a text file, one a line; empty lines are passed over.

    InputError where there is no such file, it is no text, or a line names no column.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as prompts ({error}). Give a text file, a prompt a line.") from None
    prompts = [Prompt(line.strip()) for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{file}: no prompt in it. Write one a line, such as: A photo in {{country}}.")
    for prompt in prompts:
        if not prompt.columns or not all(prompt.columns) or set(_COLUMN.sub("", prompt.text)) & set("{}"):
            raise InputError(
                f"{file}: {prompt.text!r} must name columns of the table in braces, as in: A photo in {{country}}."
            )
    return prompts


def texts_of(table: pa.Table, prompts: Sequence[Prompt], *, order: Sequence[str], source: str) -> list[list[str]]:
    """The texts of each row: of the prompts whose columns all have a value there, those that say most.

    These name the finest column, and of such the most columns: of a city no prompt for countries is used, and one with
    its region, where the region is known, goes before one without.

    Args:
        table: columns of text, null or empty where a row has no value.
        prompts: any number of them.
        order: the columns, coarsest first.
        source: what messages call the table.

    Raises:
        InputError: no prompt fits a row.
    """
    rank = {column: number for number, column in enumerate(order)}
    says = {prompt: (max(rank[column] for column in prompt.columns), len(prompt.columns)) for prompt in prompts}
    named = list(dict.fromkeys(column for prompt in prompts for column in prompt.columns))
    texts = []
    for row, values in enumerate(table.select(named).to_pylist()):
        known = {column for column, value in values.items() if value and value.strip()}
        fitting = [prompt for prompt in prompts if known.issuperset(prompt.columns)]
        most = max((says[prompt] for prompt in fitting), default=None)
        if most is None:
            raise InputError(
                f"{source}: no prompt fits row {row}. Of the columns that prompts name, {', '.join(named)}, it has "
                f"values in {', '.join(sorted(known)) or 'none'}; add a prompt that names these alone."
            )
        texts.append([prompt.filled(values) for prompt in fitting if says[prompt] == most])
    return texts
