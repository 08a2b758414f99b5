"""Every error a user can meet. The text says what is wrong and what to do next; the class says whose turn it is."""

from collections.abc import Sequence
from typing import ClassVar


class GeoError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what a command line ends with."""

    exit_code: ClassVar[int] = 1


class InputError(GeoError):
    """What was given cannot be used: a wrong option, a bad table, a folder that cannot be written."""

    exit_code: ClassVar[int] = 2


class ShardsMissing(InputError):
    """Shards of photos that were named and are not there; `there` are the others."""

    def __init__(self, text: str, there: Sequence[str]) -> None:
        super().__init__(text)
        self.there = tuple(there)


class ArtifactError(InputError):
    """A folder this software wrote is incomplete, damaged, of another kind, or newer than this version reads."""


class BundleMismatch(InputError):
    """Two artefacts that do not belong together, such as an encoder and a bundle built for another one."""


class MissingBackend(InputError, ImportError):
    """A package that is needed here and can be installed."""


class WorkError(GeoError):
    """The input was fine and the work failed all the same: a full disk, a shard that could not be finished."""


class BadImage(GeoError):
    """An image that cannot be used, or a class map. `code` is for tables, `reason` for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        return BadImage, (self.code, self.reason)  # for worker processes: by default there would be one argument
