"""Which row of one table is which photo of another: names as they are, or without folder, or without suffix too.

People call one photo `images/0/123.jpg`, `123.jpg` and `123`. The rule: names are compared whole; where not a single
one is equal, by file name (what follows the last slash); where not a single one is equal then, by file name without
the suffix of an image. One rule holds for the whole table. Two photos that share a name under it are an error where it
is looked for.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from indexer.errors import InputError
from indexer.photos.photo import IMAGE_SUFFIXES

log = logging.getLogger(__name__)


def file_name(name: str) -> str:
    """What follows the last slash, of either kind; all of it where nothing does."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def stem(name: str) -> str:
    """The file name without the suffix of an image; other dots are part of a name."""
    last = file_name(name)
    head, dot, suffix = last.rpartition(".")
    return head if head and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else last


_RULES: Mapping[str, Callable[[str], str]] = {
    "whole name": str,
    "file name": file_name,
    "file name without suffix": stem,
}


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Where each wanted photo stands in another table."""

    row: np.ndarray  # (N,) int64, -1 where it does not
    rule: str  # what was compared

    @property
    def found(self) -> np.ndarray:
        """Which of the wanted photos stand there: (N,) bool."""
        return self.row >= 0


def match_names(given: Sequence[str], wanted: Sequence[str], *, source: str, wanted_by: str) -> Matches:
    """Find the photos of one table in another.

    Args:
        given: names in the table that is searched.
        wanted: names to look for.
        source: what to call the first table in messages.
        wanted_by: and the second.

    Equal lists are taken row by row, so that there names may repeat.

    Raises:
        InputError: no name is found under any rule, or one that is found stands for several photos.
    """
    rules = list(_RULES)
    if list(given) == list(wanted):
        return Matches(np.arange(len(wanted)), rules[0])
    for number, rule in enumerate(rules):
        keys, wanted_keys = ([_RULES[rule](name) for name in names] for names in (given, wanted))
        row_of = {key: row for row, key in enumerate(keys) if key}  # a row without a name is nobody's
        shared = row_of.keys() & set(wanted_keys)
        if shared:
            _check_unique(given, keys, shared, rule=rule, source=source)
            _check_unique(wanted, wanted_keys, shared, rule=rule, source=wanted_by)
            matches = Matches(np.array([row_of.get(key, -1) for key in wanted_keys], np.int64), rule)
            _warn_of_looser(given, wanted, matches, rules[number + 1 :], source=source)
            return matches
    raise InputError(
        f"None of the {len(given)} photos of {source} is in {wanted_by}. Names must be equal, at least without folder "
        f"and suffix; the first are {given[0]!r} and {wanted[0]!r}."
    )


def _check_unique(names: Sequence[str], keys: Sequence[str], shared: Set[str], *, rule: str, source: str) -> None:
    """Raise InputError where two photos of a table have one key that the other table has as well."""
    key, times = Counter(key for key in keys if key in shared).most_common(1)[0]
    if times > 1:
        one, other = [name for name, name_key in zip(names, keys, strict=True) if name_key == key][:2]
        alike = f" ({one!r}, {other!r})" if one != other else ""
        raise InputError(
            f"{source}: the name {key!r} stands {times} times{alike}, compared by {rule}, so answers cannot be told "
            "apart. Evaluate against the very table the run was given, or make names unique."
        )


def _warn_of_looser(
    given: Sequence[str], wanted: Sequence[str], matches: Matches, looser: Sequence[str], *, source: str
) -> None:
    """Warn where photos that count as missing stand in the table under another spelling."""
    taken = set(matches.row[matches.found].tolist())
    left = [name for row, name in enumerate(given) if row not in taken]
    missing = [name for name, found in zip(wanted, matches.found, strict=True) if not found]
    for rule in looser:
        free = {_RULES[rule](name) for name in left if name}
        alike = [name for name in missing if _RULES[rule](name) in free]
        if alike:
            log.warning(
                "%s: %d photos are compared by %s, and %d more would be found by %s, such as %r; they count as "
                "missing. Spell names the same way throughout.",
                *(source, len(taken), matches.rule, len(alike), rule, alike[0]),
            )
            return
