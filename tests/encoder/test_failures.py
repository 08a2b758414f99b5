"""Failures are counted by reason, and each kind is shown once."""

import logging

import pytest

from encoder.failures import Failures


def test_all_are_counted_and_the_first_of_each_kind_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures()
    with caplog.at_level(logging.WARNING):
        for name, code in (("a.jpg", "missing"), ("b.jpg", "missing"), ("row 7", "empty"), ("c.jpg", "missing")):
            failures.add(name, code, f"why {name} failed")
    assert failures == {"missing": 3, "empty": 1}
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "a.jpg: missing, why a.jpg failed",
        "row 7: empty, why row 7 failed",
    ]
