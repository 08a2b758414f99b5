"""What is told of a bundle: the same as `info --json` prints, as JSON has it."""

import json

import pytest

from indexer.__main__ import COMMANDS
from indexer.bundles.bundle import open_bundle
from indexer.bundles.bundle_facts import bundle_facts
from indexer.bundles.registry import Registry
from indexer.cli import main


def test_facts_are_those_of_info(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = open_bundle(registry.resolve())
    facts = bundle_facts(bundle)
    assert main("indexer", "test", COMMANDS, argv=["info", "--registry", str(registry.path), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert json.loads(json.dumps(facts)) == {name: info[name] for name in facts}
    assert {"registry", "current", "versions"} <= set(info) - set(facts)  # of a registry, not of a bundle


def test_facts_are_true_of_the_bundle(registry: Registry) -> None:
    bundle = open_bundle(registry.resolve())
    facts = bundle_facts(bundle)
    assert facts["version"] == bundle.version
    assert facts["size_bytes"] == sum((bundle.path / name).stat().st_size for name in bundle.manifest.files)
    assert facts["width"] == bundle.model.geocells.vectors[0].shape[1]
    assert [level["cells"] for level in facts["levels"]] == [len(level) for level in bundle.hierarchy.levels]
    assert (facts["gallery"], facts["calibration"], facts["precision_cap_km"]) == (None, None, None)
