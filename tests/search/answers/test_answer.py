"""Answers for people and programs: the columns of a job's rows, with units, and the way down to each place."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from indexer.bundles.bundle import Bundle
from indexer.jobs.job_folder import OK
from indexer.vectors.features import FeatureBatch
from search.answers.answer import answers_of
from search.answers.engine import Engine
from search.answers.rows import answer_table
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH
from tests.search.gallery_oracle import FIT, calibrated


def batch_of(n: int, bad: int) -> FeatureBatch:
    """Vectors of photos, one of which could not be read."""
    status = ["damaged" if number == bad else OK for number in range(n)]
    reason = ["it ends too early" if number == bad else "" for number in range(n)]
    nowhere = np.full(n, np.nan)
    return FeatureBatch([f"{n}.jpg" for n in range(n)], unit_rows(n, WIDTH, seed=1), status, reason, nowhere, nowhere)


@pytest.mark.parametrize("gallery", [False, True])
def test_an_answer_says_what_the_row_of_a_job_says(engine: Engine, photo_bundle: Bundle, gallery: bool) -> None:
    without = batch_of(9, bad=4)
    mapped = replace(without, class_map=[number % 2 == 0 if number != 4 else None for number in range(9)])
    if gallery:
        engine = Engine(photo_bundle)
    for batch, k in itertools.product((without, mapped), (1, 3)):
        rows = answer_table(engine, batch, first_row=0, k=k).to_pylist()
        for row, answer in zip(rows, answers_of(engine, batch, k=k), strict=True):
            data = answer.to_dict()
            lists = {name: data.pop(name) for name in ("path", "top", "gallery")}
            del row["s2_id"]  # JSON readers lose bits above 2**53; the token says the same
            places = [row.pop(f"top_{name}", None) or [] for name in ("key", "lat", "lng", "score", "probability")]
            row.pop("top_s2_id", None)
            names = ("photo", "lat", "lng", "cosine", "weight")
            decided = [row.pop(f"gallery_{name}", None) or [] for name in names]
            assert bool(decided[0]) == (gallery and answer.ok)
            assert [list(each.values()) for each in lists["gallery"]] == [
                list(each) for each in zip(*decided, strict=True)
            ]
            assert list(data.items()) == list(row.items())
            assert [list(place.values()) for place in lists["top"]] == [
                list(each) for each in zip(*places, strict=True)
            ]
            assert json.loads(json.dumps(answer.to_dict())) == data | lists
            assert answer.class_map == (None if batch.class_map is None else batch.class_map[answer.row])
            assert answer.ok == (row["status"] == OK) == bool(lists["path"])


def test_the_path_leads_from_the_coarsest_cell_to_the_answer(engine: Engine) -> None:
    hierarchy = engine.bundle.hierarchy
    for answer in answers_of(engine, batch_of(9, bad=4), k=1):
        if not answer.ok:
            continue
        leaf = int(np.flatnonzero(hierarchy.leaves.keys == answer.key)[0])
        assert [step.level for step in answer.path] == [0, 1, 2]
        for step, cell in zip(answer.path, hierarchy.ancestors[leaf], strict=True):
            level = hierarchy.levels[step.level]
            assert (step.key, step.city, step.radius_km) == (level.keys[cell], level.city[cell], level.radius_km[cell])
            assert 0 < step.probability <= 1


def test_the_path_holds_as_much_as_the_answer_where_photos_decide(photo_bundle: Bundle) -> None:
    """Its last number is the answer's probability; all of them count that a photo may be from no leaf."""
    known = calibrated(photo_bundle, FIT)
    photos = known.calibrations["one"].with_photos
    assert photos is not None
    some = {"one": replace(known.calibrations["one"], with_photos=replace(photos, inside=0.6))}
    for whole, part in zip(
        answers_of(Engine(known), batch_of(9, bad=4), k=1),
        answers_of(Engine(replace(known, calibrations=some)), batch_of(9, bad=4), k=1),
        strict=True,
    ):
        if not part.ok:
            continue
        assert part.probability is not None
        assert part.path[-1].probability == pytest.approx(part.probability, rel=1e-5)
        held = [step.probability for step in part.path]
        assert held == pytest.approx([0.6 * step.probability for step in whole.path], rel=1e-5)
        assert held == sorted(held, reverse=True)
