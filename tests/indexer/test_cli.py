"""Options that several commands share are offered flat: on the command line, in a file and in the help."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from indexer.cli import Command, Group, Result, command_words, main
from indexer.errors import InputError


@dataclass(frozen=True)
class Reading:
    """What is read.

    Args:
        limit: of pixels.
    """

    limit: int = 7


@dataclass(frozen=True)
class Feeding(Reading):
    """How it is read.

    Args:
        schemes: of URIs.
    """

    schemes: tuple[str, ...] = ("file", "s3")


def read(*, photos: str, strict: bool = False, feed: Feeding) -> Result:
    """Read photos.

    Args:
        photos: a table.
        strict: whether to fail.
        feed: how photos come.
    """
    return Result({"photos": photos, "strict": strict, "limit": feed.limit, "schemes": list(feed.schemes)}, "read")


def run(capsys: pytest.CaptureFixture[str], argv: Sequence[str]) -> tuple[int, str, str]:
    try:
        code = main("reader", "Reads.", {"read": Command(read)}, argv=["read", *argv])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_shared_options_are_flags_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, ["--photos", "p", "--json"])
    assert (code, json.loads(out)) == (0, {"photos": "p", "strict": False, "limit": 7, "schemes": ["file", "s3"]})
    code, out, _ = run(capsys, ["--photos", "p", "--limit", "3", "--schemes", "https", "--strict", "--json"])
    assert json.loads(out) == {"photos": "p", "strict": True, "limit": 3, "schemes": ["https"]}


def test_commands_of_a_group_are_called_by_two_words(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {"plain": Command(read), "both": Group("Two of a kind.", {"read": Command(read)})}
    assert list(command_words(commands)) == [("plain",), ("both", "read")]
    assert main("reader", "Reads.", commands, argv=["both", "read", "--photos", "p", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["photos"] == "p"
    for words, code, text in (
        (["--help"], 0, "Two of a kind."),
        (["both", "--help"], 0, "Read photos."),
        (["both"], 2, "python -m reader both --help"),
        (["both", "raed"], 2, "Did you mean read?"),
        (["both", "read"], 2, "python -m reader both read --help"),
    ):
        with pytest.raises(SystemExit) as ended:
            main("reader", "Reads.", commands, argv=words)
        printed = capsys.readouterr()
        assert ended.value.code == code
        assert text in printed.out + printed.err


def test_a_file_can_give_them_and_flags_win(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("photos: p\nlimit: 5\nschemes: [gs]\n")
    _, out, _ = run(capsys, ["--config", str(tmp_path / "c.yaml"), "--limit", "4", "--json"])
    assert json.loads(out) == {"photos": "p", "strict": False, "limit": 4, "schemes": ["gs"]}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is read, and how.

    Args:
        photos: a table.
        feed: how photos come.
    """

    photos: str
    feed: Feeding


def read_all(*, spec: Spec, strict: bool = False) -> Result:
    """Read photos."""
    return read(photos=spec.photos, strict=strict, feed=spec.feed)


def test_options_in_options_are_flags_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["read", "--photos", "p", "--limit", "3", "--json"]
    assert main("reader", "Reads.", {"read": Command(read_all)}, argv=argv) == 0
    found = {"photos": "p", "strict": False, "limit": 3, "schemes": ["file", "s3"]}
    assert json.loads(capsys.readouterr().out) == found


def test_help_and_mistakes_know_them(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, ["--help"])
    assert "--limit" in out
    assert "of pixels" in out
    assert "--feed" not in out
    code, _, err = run(capsys, ["--photos", "p", "--limits", "4"])
    assert code == 2
    assert "Did you mean --limit?" in err
    code, _, err = run(capsys, ["--photos", "p", "--limit", "many"])
    assert code == 2
    assert "limit" in err


def convert(*, mode: Literal["fast", "exact"] = "fast", size: int | Literal["auto"] | None = None) -> Result:
    """Convert.

    Args:
        mode: of converting.
        size: of a batch.
    """
    return Result({}, "converted")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--mode", "fats"], "--mode: expected fast or exact, not fats"),
        (["--size", "many"], "--size: expected whole number or auto or null, not many"),
    ],
)
def test_a_wrong_value_is_answered_with_those_there_are(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main("converter", "Converts.", {"convert": Command(convert)}, argv=["convert", *argv])
    assert capsys.readouterr().err == f"error: {message}\nOptions: python -m converter convert --help\n"


def test_lists_of_wrong_values_are_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    def bounded(*, tau_max: tuple[int, ...] = ()) -> Result:
        """Bound."""
        return Result({}, "bounded")

    with pytest.raises(SystemExit, match="2"):
        main("bounder", "Bounds.", {"bounded": Command(bounded)}, argv=["bounded", "--tau-max", "3,x"])
    assert "error: --tau-max: expected integers joined by commas, not 'x'\n" in capsys.readouterr().err


def test_help_has_one_way_to_name_types_and_a_command_mistyped_is_guessed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    commands = {"convert": Command(convert), "read": Command(read)}
    for argv in (["convert", "--help"], ["read", "--help"], ["--help"]):
        with pytest.raises(SystemExit, match="0"):
            main("converter", "Converts.", commands, argv=argv)
    help_ = capsys.readouterr().out
    assert "usage: python -m converter convert [--config" in help_
    assert "of converting. (type: fast or exact, default: fast)" in help_
    assert "of a batch. (type: whole number or auto or null, default: null)" in help_
    assert "of URIs. (type: words joined by commas" in help_
    assert "a table. (required, type: text)" in help_
    with pytest.raises(SystemExit, match="2"):
        main("converter", "Converts.", commands, argv=["convret"])
    assert "Did you mean convert?" in capsys.readouterr().err


def refuse(*, max_pixels: int = 1) -> Result:
    """Refuse.

    Args:
        max_pixels: of a photo.
    """
    raise InputError(f"`max_pixels` must be above 1, not {max_pixels}; `columns` of a table stay as they are.")


def test_fields_that_an_error_names_are_told_as_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("reader", "Reads.", {"refuse": Command(refuse)}, argv=["refuse"]) == 2
    expected = "error: --max-pixels must be above 1, not 1; `columns` of a table stay as they are.\n"
    assert capsys.readouterr().err == expected


def warn(*, max_pixels: int = 1) -> Result:
    """Warn.

    Args:
        max_pixels: of a photo.
    """
    logging.getLogger("indexer.warner").warning("give `max_pixels`")
    return Result({"said": "`max_pixels`"}, "above `max_pixels`; `columns`, column `max_pixels`")


def test_so_are_those_that_answers_and_log_lines_name(capsys: pytest.CaptureFixture[str]) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers
    root.handlers = []
    try:
        assert main("warner", "Warns.", {"warn": Command(warn)}, argv=["warn"]) == 0
        printed = capsys.readouterr()
        assert printed.out == "above --max-pixels; `columns`, column `max_pixels`\n"
        assert printed.err == "indexer.warner: give --max-pixels\n"
        assert main("warner", "Warns.", {"warn": Command(warn)}, argv=["warn", "--json"]) == 0
    finally:
        root.handlers = before
    assert json.loads(capsys.readouterr().out) == {"said": "`max_pixels`"}


def test_lists_reach_the_library_as_plain_tuples() -> None:
    """A worker process gets options pickled, and knows nothing of a command line's types."""
    seen: list[object] = []

    def keep(*, bounds: tuple[int, ...], feed: Feeding) -> Result:
        """Keep options.

        Args:
            bounds: whole numbers.
            feed: how photos come.
        """
        seen.extend([bounds, feed.schemes])
        return Result({}, "kept")

    assert main("keeper", "Keeps.", {"keep": Command(keep)}, argv=["keep", "--bounds", "5,2", "--schemes", "gs"]) == 0
    assert seen == [(5, 2), ("gs",)]
    assert [type(value) for value in seen] == [tuple, tuple]
