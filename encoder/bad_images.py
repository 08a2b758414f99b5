"""Photos and class maps that cannot be used: a short code and a reason for each, counted as they come."""

import logging
from collections import Counter

log = logging.getLogger(__name__)


class BadImage(Exception):
    """A photo that cannot be used. `code` is for tables, `reason` for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        return BadImage, (self.code, self.reason)  # for worker processes: by default there would be one argument


class Failures(Counter[str]):
    """How many photos failed for each reason code."""

    def add(self, name: str, code: str, reason: str) -> None:
        """Count a photo; the first of its kind is shown: hours later is late to learn of a wrong folder."""
        if code not in self:
            log.warning("%s: %s, %s (more of this kind are only counted)", name, code, reason)
        self[code] += 1
