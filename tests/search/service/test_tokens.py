"""Tokens: made once, kept as hashes, in a file that is its owner's alone."""

import hashlib
import stat
from pathlib import Path

import pytest

from indexer.errors import InputError
from search.service.tokens import add_token, read_tokens


def test_who_is_added_is_known_by_the_token_alone(tmp_path: Path) -> None:
    file = tmp_path / "T"
    desk, press = add_token(file, "desk"), add_token(file, "press.office@example", precision_cap=25)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tokens = read_tokens(file)
    found = tokens.asker(press)
    assert found is not None
    assert (found.name, found.precision_cap) == ("press.office@example", 25)
    known = tokens.asker(desk)
    assert known is not None
    assert (known.name, known.precision_cap) == ("desk", None)
    text = file.read_text()
    assert desk not in text
    assert press not in text
    assert len(desk) >= 43  # 256 bits
    for wrong in ("", desk[:-1], desk + "x", hashlib.sha256(desk.encode()).hexdigest(), "desk", "\udcff"):
        assert tokens.asker(wrong) is None


def test_a_file_written_by_hand_may_have_comments_and_no_last_line_end(tmp_path: Path) -> None:
    file = tmp_path / "T"
    file.write_text(f"# who may ask\n\n  desk   {'0' * 64} 2.5")
    file.chmod(0o600)
    token = add_token(file, "press")
    found = read_tokens(file).asker(token)
    assert found is not None
    assert found.name == "press"
    assert file.read_text().count("\n") == 4


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o777])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "T"
    add_token(file, "desk")
    file.chmod(mode)
    for use in (lambda: read_tokens(file), lambda: add_token(file, "press")):
        with pytest.raises(InputError, match=f"chmod 600 {file}"):
            use()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nobody may ask"),
        (b"# nobody\n", "nobody may ask"),
        (b"desk secret\n", "line 1: a line is a name"),
        (b"desk " + b"0" * 63, "line 1"),
        (b"desk " + b"0" * 64 + b" 0\n", "line 1: a precision cap is a distance above 0"),
        (b"desk " + b"0" * 64 + b" 1.2.3\n", "line 1: a precision cap"),
        (b"desk " + b"0" * 64 + b"\ndesk " + b"1" * 64, "line 2: desk is there already"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_none_says_where(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "T"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(InputError, match=message):
        read_tokens(file)


def test_who_cannot_be_added_is_not(tmp_path: Path) -> None:
    file = tmp_path / "T"
    with pytest.raises(InputError, match="python -m search token"):
        read_tokens(file)
    for name in ("", "a b", "a\nb", "x" * 65, "a/b"):
        with pytest.raises(InputError, match="`name`"):
            add_token(file, name)
    for cap in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="`precision_cap`"):
            add_token(file, "desk", precision_cap=cap)
    assert not file.exists()
    add_token(file, "desk")
    with pytest.raises(InputError, match="desk is there already"):
        add_token(file, "desk")
    assert len(file.read_text().splitlines()) == 1
    with pytest.raises(InputError, match="cannot be written"):
        add_token(tmp_path / "absent" / "T", "desk")
