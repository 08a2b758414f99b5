"""Fields that take one of a few words: checked when a config is made, as Python itself does not look at types."""

import difflib
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from indexer.errors import InputError

_hints = cache(get_type_hints)


def check_choices(given: object, *, section: str | None = None) -> None:
    """Raise InputError for the first field of a dataclass whose type is a `Literal` of words that lacks its value.

    section: of a configuration file that the fields stand in.
    """
    kind: Any = type(given)
    for name, hint in _hints(kind).items():
        check_choice(f"{section}.{name}" if section else name, getattr(given, name), hint)


def check_choice(name: str, value: object, hint: Any) -> None:
    """The same for one value. hint: any type; of a union of words and numbers, numbers are left to others to check."""
    kinds = (hint,) if get_origin(hint) is Literal else get_args(hint)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    number = int in kinds
    known = value in words if isinstance(value, str) else number or (value is None and type(None) in kinds)
    if words and not known:
        near = difflib.get_close_matches(str(value), words, n=1)
        advice = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"`{name}` must be {' or '.join(['a number'] * number + words)}, not {value!r}.{advice}")
