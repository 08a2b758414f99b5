"""Held out by name: the same everywhere, spread evenly, and every photo on one side."""

import numpy as np
import pytest

from training.photos.holding_out import by_name, folds_by_name, name_keys


def test_keys_are_the_same_everywhere_and_spread_evenly() -> None:
    keys = name_keys([f"{number}.jpg" for number in range(10_000)])
    assert keys[0] == 0x3221DB6759B4F74B
    share = [(keys < np.uint64(limit * 2**64)).mean() for limit in (0.05, 0.5, 0.9)]
    assert share == pytest.approx([0.05, 0.5, 0.9], abs=0.015)
    assert len(np.unique(keys)) == 10_000


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def test_every_photo_is_on_one_side(share: float) -> None:
    names = [f"ü{number}" for number in range(2000)]
    learnt, held_out = (chosen(names) for chosen in by_name(share))
    assert (learnt ^ held_out).all()
    backwards = by_name(share)[1](names[::-1])
    np.testing.assert_array_equal(backwards[::-1], held_out)


@pytest.mark.parametrize("n", [2, 5])
def test_every_photo_is_held_out_of_one_fold(n: int) -> None:
    names = [f"ü{number}" for number in range(2000)]
    times, folds = np.zeros(2000, int), folds_by_name(n)
    assert len(folds) == n
    for others, chosen in folds:
        held_out = chosen(names)
        assert (others(names) ^ held_out).all()
        assert held_out.mean() == pytest.approx(1 / n, abs=0.03)
        np.testing.assert_array_equal(chosen(names[::-1])[::-1], held_out)
        times += held_out
    assert (times == 1).all()
