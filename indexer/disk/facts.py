"""What a manifest says of one thing, as the dataclass that stands for it everywhere else."""

from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from indexer.errors import ArtifactError

T = TypeVar("T")


def typed_facts(kind: type[T], values: Any, *, source: object) -> T:
    """A dataclass of plain values, from what a manifest says of it.

    Args:
        kind: the dataclass; its fields are numbers, words, `Literal`s, or any of these or None.
        values: what the manifest says: a table with a value for each field.
        source: the folder, for the error.

    Raises:
        ArtifactError: a field is missing, unknown, or of another type.
    """
    try:
        facts = kind(**values)
        for name, hint in get_type_hints(kind).items():
            if not _fits(getattr(facts, name), hint):
                raise TypeError(f"{name} is {getattr(facts, name)!r}")
    except TypeError as error:
        raise ArtifactError(
            f"{source}: its manifest says nothing usable of its {kind.__name__} ({error}). Build it again."
        ) from None
    return facts


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    return isinstance(value, int | float if hint is float else hint) and not isinstance(value, bool)
