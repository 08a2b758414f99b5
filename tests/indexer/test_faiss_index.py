"""FAISS behind one door: what is missing, what is none, what is read."""

import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from indexer.errors import ArtifactError, InputError
from indexer.faiss_index import flat_index, inverted_index, on_device, read_index, rows_of, search_index, write_index
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
    with pytest.raises(InputError, match="--device cuda: FAISS finds no GPU"):
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
