"""Names become features: their own texts, averaged over prompts, resumed, and never of cut texts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from transformers import CLIPModel

from encoder.config import EmbedConfig
from encoder.models.text_tower import load_text_tower
from encoder.texts import embed_rows, embed_texts, open_text_tower, read_texts
from indexer.errors import InputError, WorkError
from indexer.vectors.features import open_features, read_features
from tests.text_clips import CONTEXT, WIDTH, own_text_vectors, save_text_clip

EXACT = EmbedConfig(precision="float32")
NAMES = ["France", "Lyon", "Brest", "Oman", "Sur"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPModel, Path]:
    folder = tmp_path_factory.mktemp("text_clip")
    return save_text_clip(folder), folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    columns: dict[str, Any] = {
        "Country": ["France", "France", "France", "Oman", "Oman"],
        "name": NAMES,
        "city": ["", "Lyon", "Brest", "", "Sur"],
        "lat": [None, 45.76, 48.39, None, 22.57],
        "lng": [None, 4.83, -4.49, None, 59.53],
    }
    pyarrow.csv.write_csv(pa.table(columns), tmp_path / "names.csv")
    return tmp_path / "names.csv"


def test_a_name_is_its_own_text(saved: tuple[CLIPModel, Path], table: Path, tmp_path: Path) -> None:
    model, folder = saved
    summary = embed_texts(table, f"hf:{folder}", tmp_path / "F", config=EXACT)
    found, source = read_features(tmp_path / "F"), open_features(tmp_path / "F")
    assert list(found.photo) == NAMES
    np.testing.assert_allclose(found.embedding, own_text_vectors(model, folder, NAMES).numpy(), atol=2e-6)
    np.testing.assert_allclose(found.lat_deg, [np.nan, 45.76, 48.39, np.nan, 22.57])
    assert source.encoder == summary.encoder == load_text_tower(f"hf:{folder}").digest
    assert (summary.rows, summary.texts, summary.embedded_before) == (5, 5, 0)


def test_of_several_prompts_the_mean_of_unit_vectors_is_taken(
    saved: tuple[CLIPModel, Path], table: Path, tmp_path: Path
) -> None:
    model, folder = saved
    (tmp_path / "prompts.txt").write_text("A photo in {country}.\n{city} in {country}\n{country}: {city}!\n")
    summary = embed_texts(table, f"hf:{folder}", tmp_path / "F", prompts=tmp_path / "prompts.txt", config=EXACT)
    assert summary.texts == 2 + 2 * 3
    own = own_text_vectors(model, folder, ["A photo in Oman.", "Brest in France", "France: Brest!"]).double().numpy()
    mean = own[1] + own[2]
    expected = np.stack([own[0], mean / np.linalg.norm(mean)])
    found = read_features(tmp_path / "F").embedding
    np.testing.assert_allclose(found[[3, 2]], expected, atol=2e-6)
    assert np.abs(own[1] - own[2]).max() > 0.01, "the two prompts are one"
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_job_that_was_cut_short_goes_on(
    saved: tuple[CLIPModel, Path], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = open_text_tower(f"hf:{saved[1]}", EXACT)
    rows, config = read_texts(table, None), replace(EXACT, shard_rows=2)
    whole = embed_rows(rows, tower, tmp_path / "whole", config=config)
    calls: list[int] = []
    own = type(tower).vectors

    def vectors(self: Any, texts: list[str], *, batch_size: int) -> np.ndarray:
        calls.append(len(texts))
        if len(calls) == 2:
            raise WorkError("ended here")
        return own(self, texts, batch_size=batch_size)

    monkeypatch.setattr(type(tower), "vectors", vectors)
    with pytest.raises(WorkError):
        embed_rows(rows, tower, tmp_path / "F", config=config)
    with pytest.raises(InputError, match="has not ended"):
        open_features(tmp_path / "F")
    summary = embed_rows(rows, tower, tmp_path / "F", config=config)
    assert calls == [2, 2, 2, 1]
    assert (summary.embedded_before, summary.rows, whole.rows) == (2, 5, 5)
    np.testing.assert_array_equal(read_features(tmp_path / "F").embedding, read_features(tmp_path / "whole").embedding)
    changed = replace(rows, texts=[["A photo"], *rows.texts[1:]])  # other texts under the same names
    with pytest.raises(InputError, match="texts"):
        embed_rows(changed, tower, tmp_path / "F", config=config)


def test_a_text_that_is_too_long_is_named_before_anything_is_written(
    saved: tuple[CLIPModel, Path], table: Path, tmp_path: Path
) -> None:
    longest = "a" * (CONTEXT - 2)  # one token a letter, and one for either end
    table.write_text(f"name\nLyon\n{longest}\n")
    assert embed_texts(table, f"hf:{saved[1]}", tmp_path / "F1").rows == 2
    table.write_text(f"name\nLyon\n{longest}b\n")
    with pytest.raises(InputError, match=rf"row 1 has {CONTEXT + 1} tokens; .* reads {CONTEXT}\. .*aaab'"):
        embed_texts(table, f"hf:{saved[1]}", tmp_path / "F2")
    assert not (tmp_path / "F2").exists()


def test_tables_and_options_that_say_nothing_of_texts_are_refused(
    saved: tuple[CLIPModel, Path], table: Path, tmp_path: Path
) -> None:
    out, checkpoint = tmp_path / "F", f"hf:{saved[1]}"
    (tmp_path / "prompts.txt").write_text("{country}, {river}\n")
    with pytest.raises(InputError, match="no column 'river'"):
        embed_texts(table, checkpoint, out, prompts=tmp_path / "prompts.txt")
    with pytest.raises(InputError, match="`workers`, `crops`: goes with `photos`"):
        embed_texts(table, checkpoint, out, config=EmbedConfig(crops="ten", workers=3))
    for text, message in [
        ("city\nLyon\n", "no column 'name'"),
        ("name,lat,lng\nLyon,95,4\n", "95"),
        ("name,city\nLyon,a\n,b\n", "row 1 has no name"),
    ]:
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            embed_texts(table, checkpoint, out)
    assert not out.exists()


def test_bfloat16_changes_little(saved: tuple[CLIPModel, Path], table: Path, tmp_path: Path) -> None:
    config = EmbedConfig(precision="bfloat16", batch_size=2)
    embed_texts(table, f"hf:{saved[1]}", tmp_path / "F", config=config)
    own = own_text_vectors(*saved, NAMES).numpy()
    assert ((read_features(tmp_path / "F").embedding * own).sum(axis=1) > 0.99).all()
    assert open_features(tmp_path / "F").crops is None
    assert own.shape == (5, WIDTH)
