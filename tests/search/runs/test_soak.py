"""Hours of swapping in small: readers in several processes while versions are published under them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.bundle import build_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from search.answers.engine import Engine
from tests.conftest import random_geocells, unit_rows
from tests.search.conftest import WIDTH

ROUNDS = 400

READER = """
import json, resource, sys
from pathlib import Path
import numpy as np
from search.answers.engine import Engine

registry, queries, rounds = Path(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
answers, peak = {}, []
for number in range(rounds):
    engine = Engine.open(registry)
    leaves = engine.search(queries, k=3).leaf.tolist()
    answers.setdefault(engine.bundle.version, leaves)
    assert answers[engine.bundle.version] == leaves
    if number in (rounds // 4, rounds - 1):
        peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps({"answers": answers, "peak_kib": peak}))
"""


@pytest.mark.slow
def test_readers_see_whole_versions_and_keep_their_memory_while_versions_are_swapped(
    hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path
) -> None:
    home = Registry(tmp_path / "R")
    versions = [
        build_bundle(
            hierarchy_folder, random_geocells(hierarchy, WIDTH, seed), home.versions_folder, config={}, inputs={}
        ).name
        for seed in range(3)
    ]
    home.publish(versions[0])
    queries = unit_rows(20, WIDTH, seed=0)
    np.save(tmp_path / "queries.npy", queries)
    expected = {name: Engine.open(home.path, version=name).search(queries, k=3).leaf.tolist() for name in versions}
    command = [sys.executable, "-c", READER, str(home.path), str(tmp_path / "queries.npy"), str(ROUNDS)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    published = 1
    while any(reader.poll() is None for reader in readers):
        home.publish(versions[published % 3])
        published += 1
    seen = set()
    for reader in readers:
        output, _ = reader.communicate()
        assert reader.returncode == 0
        result = json.loads(output)
        assert all(expected[name] == leaves for name, leaves in result["answers"].items())
        seen |= set(result["answers"])
        early, late = result["peak_kib"]
        assert late - early < 20 * 1024, "memory grows with each version opened"
    assert seen == set(versions)
    assert len(home.history()) == published
