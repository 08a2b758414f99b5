"""Photos and class maps that cannot be used (`indexer.errors.BadImage`), counted as they come."""

import logging
from collections import Counter

log = logging.getLogger(__name__)


class Failures(Counter[str]):
    """How many photos failed for each reason code."""

    def add(self, name: str, code: str, reason: str) -> None:
        """Count a photo; the first of its kind is shown: hours later is late to learn of a wrong folder."""
        if code not in self:
            log.warning("%s: %s, %s (more of this kind are only counted)", name, code, reason)
        self[code] += 1
