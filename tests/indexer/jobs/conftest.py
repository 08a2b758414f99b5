"""What all tests of jobs have in common."""

import pytest


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the disk: the death of a process loses nothing that was written."""
    monkeypatch.setattr("os.fsync", lambda _: None)
