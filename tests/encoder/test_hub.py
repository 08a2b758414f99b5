"""Files of published models: the first that is there, what to do where none is, and their digest."""

from pathlib import Path

import pytest

from encoder.hub import PROCESSOR_FILES, WEIGHTS_FILE, digest_of, fetch, read_json
from indexer.errors import InputError


def test_the_first_file_that_a_folder_has_is_taken(tmp_path: Path) -> None:
    (tmp_path / PROCESSOR_FILES[1]).write_text("{}")
    assert fetch(str(tmp_path), *PROCESSOR_FILES) == tmp_path / PROCESSOR_FILES[1]
    (tmp_path / PROCESSOR_FILES[0]).write_text("{}")
    assert fetch(str(tmp_path), *PROCESSOR_FILES) == tmp_path / PROCESSOR_FILES[0]


def test_what_is_not_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^hf:.*: the folder has no a.json or b.json\.$"):
        fetch(str(tmp_path), "a.json", "b.json", prefix="hf:")
    with pytest.raises(InputError, match=r"only as a pickle.*python -m encoder convert"):
        fetch(str(tmp_path), WEIGHTS_FILE)
    with pytest.raises(InputError, match=r"^hf:/no/such/folder: no such folder\.$"):
        fetch("/no/such/folder", "a.json", prefix="hf:")
    for name in ("nobody/no-such-model", "no such folder"):
        with pytest.raises(InputError, match=rf"^{name}: a.json cannot be had .*give a local folder: <folder>\.$"):
            fetch(name, "a.json")


def test_a_configuration_is_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json") == {"a": [1]}
    for text in ("", "[1]", "{"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match="Download it again"):
            read_json(tmp_path / "a.json")


def test_the_digest_is_over_contents_and_their_order(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert digest_of(a, b) == digest_of(c, b)
    assert len({digest_of(a, b), digest_of(b, a), digest_of(a), digest_of(a, c)}) == 4
