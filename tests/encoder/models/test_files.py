"""Files of models: the first that is there, digests, and checkpoint folders without torch."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.errors import EntryNotFoundError

from encoder.models.checkpoint import LoadedEncoder
from encoder.models.files import (
    CONFIG_FILE,
    PROCESSOR_FILES,
    WEIGHTS_FILE,
    copy_encoder,
    digest_of,
    encoder_digest,
    encoder_width,
    fetch,
    read_json,
)
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import write_folder
from indexer.disk.manifest import MANIFEST
from indexer.errors import ArtifactError, InputError
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, load_geocells, save_geocells
from tests.conftest import random_geocells
from tests.encoder.conftest import WIDTH


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
    with pytest.raises(
        InputError,
        match=r"^hf:/no/such/folder: no such folder\. Give one that exists, or a hub id: hf:<owner>/<name>\.$",
    ):
        fetch("/no/such/folder", "a.json", prefix="hf:")
    for name in ("nobody/no-such-model", "no such folder"):
        with pytest.raises(InputError, match=rf"^{name}: a.json cannot be had .*give a local folder: <folder>\.$"):
            fetch(name, "a.json")


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own download asks six times, for half a minute, of what is not here."""
    urls: list[str] = []

    def unreachable(url: str) -> None:
        urls.append(url)
        raise ConnectionRefusedError("no route")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(
        InputError, match=r"^hf:some/clip@v2: a\.json or b\.json cannot be had \(no route\).*local folder"
    ):
        fetch("some/clip@v2", "a.json", "b.json", prefix="hf:")
    assert len(urls) == 1
    assert urls[0].endswith("/some/clip/resolve/v2/a.json")


def test_what_was_had_before_needs_no_hub_and_a_revision_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: dict[tuple[str, str | None], Path] = {("a.json", "v2"): tmp_path / "a.json"}

    def missing(url: str) -> None:
        raise EntryNotFoundError(f"no {url}")

    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda _, file, revision: str(here.get((file, revision), "")) or None
    )
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, file, revision: str(here[file, revision]))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", missing)
    assert fetch("some/clip@v2", "b.json", "a.json") == tmp_path / "a.json"
    with pytest.raises(InputError, match="cannot be had"):
        fetch("some/clip@v3", "a.json")


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


def test_the_encoder_of_a_folder_is_known_without_loading_it(checkpoint: Path, encoder: LoadedEncoder) -> None:
    assert encoder_digest(checkpoint) == encoder.digest
    assert encoder_width(checkpoint) == encoder.width == WIDTH
    code = "import encoder.models.files, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "huggingface_hub"} & set(done.stdout.split())


def test_new_geocells_keep_the_encoder_as_it_is(
    checkpoint: Path, encoder: LoadedEncoder, hierarchy: Hierarchy, tmp_path: Path
) -> None:
    out = tmp_path / "C"
    with write_folder(out, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        copy_encoder(checkpoint, draft)
        save_geocells(draft, replace(random_geocells(hierarchy, WIDTH, seed=3), encoder=encoder.digest))
    assert encoder_digest(out) == encoder.digest
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (out / name).read_bytes() == (checkpoint / name).read_bytes()
    assert load_geocells(out).width == WIDTH


def test_geocells_alone_are_a_checkpoint_that_has_no_encoder(hierarchy: Hierarchy, tmp_path: Path) -> None:
    with write_folder(tmp_path / "C", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, random_geocells(hierarchy, WIDTH, seed=3))
    with pytest.raises(ArtifactError, match=r"geocells alone, no encoder\. Give the one it came from"):
        encoder_digest(tmp_path / "C")


def test_weights_that_are_not_those_written_are_named(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "C")
    content = bytearray((tmp_path / "C" / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / "C" / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"is not what was written .*Restore the folder from a copy"):
        encoder_digest(tmp_path / "C")


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        ((CONFIG_FILE, WEIGHTS_FILE), "If it is a published model, write hf:"),
        (("pytorch_model.bin",), "pytorch_model.bin may hold a pickle, which is never loaded"),
        ((), "Train one: python -m training fit"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused_with_advice(
    tmp_path: Path, names: tuple[str, ...], advice: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ArtifactError, match=f"it has no {MANIFEST}.*{advice}"):
        encoder_digest(tmp_path)
