import logging
import pickle

import pytest

from encoder.bad_images import Failures
from indexer.errors import BadImage


def test_a_bad_image_travels_between_processes() -> None:
    problem = pickle.loads(pickle.dumps(BadImage("damaged", "half of it")))
    assert (problem.code, problem.reason, str(problem)) == ("damaged", "half of it", "damaged: half of it")


def test_all_failures_are_counted_and_the_first_of_each_kind_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures()
    with caplog.at_level(logging.WARNING):
        for name, code in (("a.jpg", "missing"), ("b.jpg", "missing"), ("row 7", "empty"), ("c.jpg", "missing")):
            failures.add(name, code, f"why {name} failed")
    assert failures == {"missing": 3, "empty": 1}
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "a.jpg: missing, why a.jpg failed",
        "row 7: empty, why row 7 failed",
    ]
