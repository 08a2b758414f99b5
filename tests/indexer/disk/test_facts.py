"""Facts of a manifest become dataclasses, or a clean error."""

from dataclasses import asdict, dataclass
from typing import Literal

import pytest

from indexer.disk.facts import typed_facts
from indexer.errors import ArtifactError


@dataclass(frozen=True)
class Facts:
    kind: Literal["flat", "ivf"]
    share: float
    level: int | None


@pytest.mark.parametrize("facts", [Facts("flat", 0.5, None), Facts("ivf", 1, 3)])
def test_facts_survive_the_way_through_a_manifest(facts: Facts) -> None:
    assert typed_facts(Facts, asdict(facts), source="F") == facts


@pytest.mark.parametrize(
    "change",
    [{"kind": "tree"}, {"share": "0.5"}, {"share": None}, {"share": True}, {"level": 1.5}, {"level": "1"}, {"more": 1}],
)
def test_a_field_of_another_type_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match=r"F: its manifest says nothing usable of its Facts .*Build it again"):
        typed_facts(Facts, asdict(Facts("flat", 0.5, 1)) | change, source="F")


@pytest.mark.parametrize("values", [None, [], "flat", {}, {"kind": "flat", "share": 0.5}])
def test_missing_fields_are_refused(values: object) -> None:
    with pytest.raises(ArtifactError, match="nothing usable of its Facts"):
        typed_facts(Facts, values, source="F")
