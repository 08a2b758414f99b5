"""Sorted tables against a dictionary; files that are mapped, and what is wrong with damaged ones."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.class_maps.lookup import ADDRESS, KEY, KeyTable, Lookup, MapAddress

# Digests that end in zeros, begin alike or are all zeros: where comparing text and comparing bytes part ways.
DIGESTS = st.binary(min_size=32, max_size=32) | st.builds(
    lambda head, zeros: (head * 32)[: 32 - zeros] + bytes(zeros), st.binary(min_size=1, max_size=2), st.integers(0, 32)
)
SHARDS = st.lists(st.lists(DIGESTS, max_size=20), max_size=12)


def rows(digests: list[bytes], shard: int) -> KeyTable:
    addresses = np.zeros(len(digests), ADDRESS)
    addresses["shard"], addresses["offset"], addresses["size"] = shard, np.arange(len(digests)) + (1 << 40), 7
    return KeyTable(np.array(digests, KEY), addresses, {shard: 100 * shard})


@given(SHARDS, DIGESTS)
def test_every_place_is_found_and_nothing_else(shards: list[list[bytes]], other: bytes) -> None:
    lookup, known = Lookup(), dict[bytes, set[MapAddress]]()
    for shard, digests in enumerate(shards):
        lookup = lookup.added(rows(digests, shard))
        for row, digest in enumerate(digests):
            known.setdefault(digest, set()).add(MapAddress(shard, 7, row + (1 << 40), 0))
    assert len(lookup) == sum(map(len, shards))
    assert all(lookup.find(digest) in addresses for digest, addresses in known.items())
    assert (lookup.find(other) is None) == (other not in known)


def test_runs_stay_few_and_earlier_lookups_as_they_were() -> None:
    lookup, first = Lookup(), None
    for shard in range(200):
        lookup = lookup.added(rows([hashlib.sha256(b"%d" % (9 * shard + n)).digest() for n in range(9)], shard))
        first = first or lookup
        assert len(lookup.tables) <= 1 + np.log2(shard + 1)
    assert first is not None
    assert (len(first), len(lookup)) == (9, 1800)


@given(SHARDS.filter(any))
def test_saving_and_loading_are_inverse(tmp_path_factory: pytest.TempPathFactory, shards: list[list[bytes]]) -> None:
    lookup = Lookup()
    for shard, digests in enumerate(shards):
        lookup = lookup.added(rows(digests, shard))
    path = tmp_path_factory.mktemp("lookup") / "lookup.arrow"
    lookup.save(path)
    loaded = Lookup.load(path)
    assert loaded.shards == {shard: 100 * shard for shard in range(len(shards))}
    assert len(loaded) == len(lookup)
    assert not loaded.tables[0].keys.flags.writeable
    assert not loaded.tables[0].keys.flags.owndata
    for digest in (digest for digests in shards for digest in digests):
        assert loaded.find(digest) is not None


def test_a_byte_changed_anywhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "lookup.arrow"
    lookup = Lookup().added(rows([hashlib.sha256(b"%d" % n).digest() for n in range(20)], 3))
    lookup.save(path)
    good = path.read_bytes()
    for offset in range(0, len(good), 3):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 0x15]) + good[offset + 1 :])
        try:
            loaded = Lookup.load(path)
        except (ValueError, OSError, LookupError, TypeError):
            continue
        table, known = loaded.tables[0], lookup.tables[0]
        assert (table.keys == known.keys).all()
        assert (table.addresses == known.addresses).all()
        assert loaded.shards == {3: 300}
    for length in range(0, len(good), 100):
        path.write_bytes(good[:length])
        with pytest.raises((ValueError, OSError)):
            Lookup.load(path)
