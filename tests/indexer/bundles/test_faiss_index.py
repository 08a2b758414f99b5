"""FAISS behind one door: what is missing, what is none, what is read."""

import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.bundles.faiss_index import (
    Precision,
    code_error,
    flat_index,
    inverted_index,
    list_sizes,
    nearest_lists,
    on_device,
    read_index,
    rows_in_lists,
    rows_of,
    search_index,
    set_probes,
    stored_probes,
    write_index,
)
from indexer.errors import ArtifactError, InputError
from tests.conftest import unit_rows


def test_a_missing_faiss_names_both_packages_and_is_exit_2(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from indexer.__main__ import COMMANDS; from indexer.cli import main\n"
        f"raise SystemExit(main('indexer', '', COMMANDS, argv=['info', '--registry', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'.[cpu]'" in done.stderr
    assert "'.[gpu]'" in done.stderr


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_index(flat_index(unit_rows(20, 7, 0)), tmp_path / "i.faiss")
    index = read_index(tmp_path / "i.faiss")
    np.testing.assert_array_equal(rows_of(index), unit_rows(20, 7, 0))
    _, found = index.search(unit_rows(20, 7, 0), 1)
    assert found[:, 0].tolist() == list(range(20))


def test_mapped_rows_are_the_same_and_stay_when_the_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "i.faiss"
    write_index(flat_index(unit_rows(20, 7, 0)), path)
    before = path.read_bytes()
    index = read_index(path, mapped=True)
    path.unlink()
    np.testing.assert_array_equal(rows_of(index), unit_rows(20, 7, 0))
    _, found = index.search(unit_rows(20, 7, 0), 1)
    assert found[:, 0].tolist() == list(range(20))
    path.write_bytes(before[:-1])
    with pytest.raises(ArtifactError, match="FAISS index"):
        read_index(path, mapped=True)


def test_rows_keep_their_index_alive_and_are_read_only() -> None:
    rows = rows_of(flat_index(unit_rows(500, 64, 0)))  # the index itself is gone after this line
    _ = [np.ones(500 * 64, np.float32) for _ in range(20)]  # memory that would be handed out again
    np.testing.assert_array_equal(rows, unit_rows(500, 64, 0))
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1


def test_other_files_and_other_indices_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.faiss").write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match="FAISS index"):
        read_index(tmp_path / "x.faiss")
    faiss.write_index(faiss.IndexFlatL2(4), str(tmp_path / "l2.faiss"))
    with pytest.raises(ArtifactError, match="inner-product"):
        read_index(tmp_path / "l2.faiss")


def test_a_gpu_that_is_not_there_is_an_error_and_never_a_silent_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    index = flat_index(unit_rows(20, 7, 0))
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    # faiss-gpu has this class on machines without a GPU too, and would compute on the CPU.
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    assert on_device(index, "cpu") is index
    assert on_device(index, "auto") is index
    with pytest.raises(InputError, match="`device` cuda: FAISS finds no GPU"):
        on_device(index, "cuda")


def test_a_gpu_gets_a_copy_of_the_same_index(monkeypatch: pytest.MonkeyPatch) -> None:
    index = flat_index(unit_rows(20, 7, 0))
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *arguments: arguments, raising=False)
    for device in ("auto", "cuda"):
        assert on_device(index, device) == ("resources", 0, index)


def test_a_kind_that_gpus_do_not_have_stays_on_the_cpu_unless_a_gpu_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("This index type is not implemented on GPU.\nat GpuCloner.cpp")

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", refuse, raising=False)
    index = flat_index(unit_rows(20, 7, 0), "int8")
    assert on_device(index, "auto") is index
    with pytest.raises(InputError, match=r"cannot be put on a GPU .This index type is not implemented"):
        on_device(index, "cuda")


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds() -> None:
    rows, queries = unit_rows(5000, 64, 0), unit_rows(100, 64, 1)
    lists = np.arange(5000) % 50
    for index in (flat_index(rows), inverted_index(rows, lists, rows[:50])):
        on_gpu = on_device(index, "cuda")
        found, same = search_index(on_gpu, queries, 5)[1], search_index(index, queries, 5)[1]
        assert (found == same).mean() > 0.99


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_rows_of_chosen_lists_come_with_their_scores(precision: Precision) -> None:
    rows, queries = unit_rows(300, 24, 0) * 7, unit_rows(9, 24, 1)
    lists = np.sort(np.random.default_rng(0).integers(0, 12, 300))
    index = inverted_index(rows, lists, rows[:12], precision=precision)
    assert list_sizes(index).tolist() == np.bincount(lists, minlength=12).tolist()
    chosen = nearest_lists(index, queries, 3)
    np.testing.assert_array_equal(chosen, np.argsort(-(queries @ rows[:12].T), axis=1)[:, :3])
    chosen[2, 1:] = -1
    set_probes(index, 5)
    begins, scores, found = rows_in_lists(index, queries, chosen)
    assert stored_probes(index) == 5
    for query in range(9):
        part = slice(begins[query], begins[query + 1])
        assert sorted(found[part]) == np.flatnonzero(np.isin(lists, chosen[query])).tolist()
        off = np.abs(scores[part] - rows[found[part]].astype(float) @ queries[query].astype(float))
        assert (off <= code_error(index, 7.0) + 1e-4).all()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 200), st.floats(1e-6, 3000))
def test_codes_are_no_further_from_their_vectors_than_said(seed: int, width: int, scale: float) -> None:
    rows = unit_rows(50, width, seed) * np.float32(scale)
    longest = float(np.linalg.norm(rows.astype(float), axis=1).max())
    assert code_error(flat_index(rows), longest) == 0
    for precision in ("fp16", "int8"):
        index = flat_index(rows, precision)
        off = np.linalg.norm(index.reconstruct_n(0, 50).astype(float) - rows, axis=1).max()
        # Beyond what decoding in float32 rounds, which bounds on scores count apart.
        assert off <= code_error(index, longest) + width * longest * 2.0**-24
