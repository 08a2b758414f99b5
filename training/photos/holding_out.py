"""Which photos are held out: decided by their names alone, so the same in every order and on every machine."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

NameFilter = Callable[[Sequence[str]], np.ndarray]  # of names: (N,) bool, which of them are wanted


def name_keys(names: Sequence[str]) -> np.ndarray:
    """A 64-bit digest of each name: (N,) uint64, spread evenly, the same on every machine."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)


def by_name(share: float) -> tuple[NameFilter, NameFilter]:
    """Those to learn from, and those to hold out: about a `share` of all names, from 0 to 1."""
    limit = np.uint64(share * 2**64)
    return lambda names: name_keys(names) >= limit, lambda names: name_keys(names) < limit


def folds_by_name(n: int) -> list[tuple[NameFilter, NameFilter]]:
    """The same n times over, so that every name is held out once: about 1 / n of them each time."""

    def fold(number: int) -> tuple[NameFilter, NameFilter]:
        # By the remainder, not by size: these parts have nothing to do with those of `by_name`.
        return (
            lambda names: name_keys(names) % np.uint64(n) != number,
            lambda names: name_keys(names) % np.uint64(n) == number,
        )

    return [fold(number) for number in range(n)]
