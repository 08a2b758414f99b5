"""What routes work with: a request's own wishes within those of the service and of its asker."""

from pathlib import Path

import pytest

from indexer.errors import InputError
from search.answers.options import SearchOptions
from search.service.tokens import ANYBODY, Asker
from tests.search.conftest import WIDTH
from tests.search.service.conftest import Encoders, Running, served


@pytest.mark.parametrize(
    ("of_service", "of_asker", "cap"), [(None, None, None), (50, None, 50), (None, 25, 25), (50, 25, 50), (25, 50, 50)]
)
def test_of_precision_caps_the_coarsest_counts(
    world: Path, encoders: Encoders, of_service: float | None, of_asker: float | None, cap: float | None
) -> None:
    async def test(running: Running) -> None:
        with running.service.versions.lease() as version:
            question = running.service.question(version, Asker("desk", b"", of_asker), "one", {})
        assert question.options == SearchOptions(precision_cap=cap)
        assert (question.version, question.crops, question.k) == (version, "one", 1)

    served(test, world / "R", encoders, search=SearchOptions(precision_cap=of_service))


def test_a_request_may_choose_regions_and_points_and_keeps_the_rest(world: Path, encoders: Encoders) -> None:
    own = SearchOptions(mode="beam", probes=3, region="-60,-170,70,170")

    async def test(running: Running) -> None:
        assert running.service.width == WIDTH
        with running.service.versions.lease() as version:
            plain = running.service.question(version, ANYBODY, "ten", {"k": 3})
            assert (plain.options, plain.k, plain.crops) == (own, 3, "ten")
            wanted = {"region": "DE", "point": "medoid", "claim": ("Lyon", None)}
            other = running.service.question(version, ANYBODY, "one", wanted)
            assert other.options == SearchOptions(mode="beam", probes=3, region="DE", point="medoid")
            assert other.claim == ("Lyon", None)
            with pytest.raises(InputError):
                running.service.question(version, ANYBODY, "one", {"point": "there"})

    served(test, world / "R", encoders, search=own)
