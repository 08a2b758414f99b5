"""How photos count as it was fitted: a reranker stays where it is better, and else all is as without."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from indexer.vectors.calibration import Calibration
from search.answers.points import points_of_bundle
from search.calibration import photo_fit, photo_numbers
from search.calibration.cell_calibration import fit_calibration
from search.calibration.held_out import HeldOutQueries
from search.calibration.photo_numbers import PhotoFitting, PhotoNumbers
from search.calibration.reranker_fit import Reranking
from search.evaluation.bootstrap import Interval
from search.evaluation.options import Resampling
from tests.search.calibration.conftest import PhotoWorld
from tests.search.gallery_oracle import random_reranker

RESAMPLING = Resampling(200)


@pytest.fixture(scope="module")
def sample(photo_world: PhotoWorld) -> HeldOutQueries:
    return photo_world.sample(200, seed=80)


@pytest.fixture(scope="module")
def cells(photo_world: PhotoWorld, sample: HeldOutQueries) -> Calibration:
    bundle = photo_world.bundle
    points = points_of_bundle(bundle, photos=False)
    return fit_calibration(bundle.model, points, sample, device=torch.device("cpu"), resampling=RESAMPLING).calibration


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits that try little."""
    monkeypatch.setattr(
        photo_fit, "_GRIDS", {"similarity": (0.02, 0.08), "near": (20,), "cells": (0.1, 0.2, 0.3), "growth": (0.5,)}
    )
    monkeypatch.setattr(photo_fit, "_TEMPERATURES", np.array([0.7, 1.0]))
    monkeypatch.setattr(photo_fit, "_WIDTHS", np.array([0.25, 1.0]))
    monkeypatch.setattr(photo_fit, "_ROUNDS", 1)
    monkeypatch.setattr(photo_numbers, "_POINT_WIDTHS", np.array([0.5, 1.0]))
    monkeypatch.setattr(photo_numbers, "LISTS", (16,))


def fitted(
    world: PhotoWorld, sample: HeldOutQueries, cells: Calibration, *, reranked: bool | None = None
) -> PhotoNumbers:
    fitting = PhotoFitting(world.bundle, cells, protocol="one", device="cpu", resampling=RESAMPLING)
    return fitting(sample, fitting.near(sample), reranked=reranked)


def tried(monkeypatch: pytest.MonkeyPatch, interval: Interval, *, seed: int | None) -> None:
    """Every reranker that is fitted is one that is drawn (None: one that adds nothing), of this gain."""

    def fit(sample: object, fit: object, cells: object, *, fold: np.ndarray, resampling: Resampling) -> Reranking:
        reranker = random_reranker(9, 8, seed=seed or 0)
        reranker = replace(reranker, last=(0 if seed is None else 10) * reranker.last)
        added = reranker(sample.properties(fit))  # type: ignore[attr-defined]
        return Reranking(reranker, (reranker,) * 5, fold, added, 0.1, interval)

    monkeypatch.setattr(photo_numbers, "fit_reranker", fit)


def test_a_reranker_whose_loss_may_be_chance_is_left_out(
    photo_world: PhotoWorld, sample: HeldOutQueries, cells: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seed in (1, None):
        tried(monkeypatch, Interval(-0.01, 0.2), seed=seed)
        found.append(fitted(photo_world, sample, cells))
        assert found[-1].reranker is None
        assert found[-1].gain is not None
        assert not found[-1].gain.kept
        assert found[-1].gain.of_error is None
    assert (found[0].fit, found[0].temperature) == (found[1].fit, found[1].temperature)


def test_a_reranker_that_leads_answers_astray_is_left_out_whatever_its_loss(
    photo_world: PhotoWorld, sample: HeldOutQueries, cells: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(monkeypatch, Interval(-0.01, 0.2), seed=None)
    without = fitted(photo_world, sample, cells)
    tried(monkeypatch, Interval(0.01, 0.2), seed=1)
    astray = fitted(photo_world, sample, cells)
    assert astray.gain is not None
    assert astray.gain.of_error is not None
    assert astray.gain.of_error.high < 0
    assert astray.reranker is None
    assert (astray.fit, astray.temperature) == (without.fit, without.temperature)


def test_a_reranker_that_is_better_stays(
    photo_world: PhotoWorld, sample: HeldOutQueries, cells: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_fit, "_AFTER_WEIGHTS", ())
    monkeypatch.setattr(photo_fit, "_TEMPERATURES", np.ones(1))
    tried(monkeypatch, Interval(0.01, 0.2), seed=None)  # errors are the same, which is not worse
    found = fitted(photo_world, sample, cells)
    assert found.reranker is not None
    assert found.gain is not None
    assert found.gain.kept
    assert found.gain.error == pytest.approx(0, abs=1e-6)


def test_where_it_is_said_a_reranker_stays_or_is_never_tried(
    photo_world: PhotoWorld, sample: HeldOutQueries, cells: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(monkeypatch, Interval(-0.2, -0.1), seed=1)
    always = fitted(photo_world, sample, cells, reranked=True)
    assert always.reranker is not None
    assert always.gain is not None
    assert always.gain.kept
    never = fitted(photo_world, sample, cells, reranked=False)
    assert never.reranker is never.gain is None


def test_the_numbers_of_weights_are_those_that_a_reranker_was_fitted_with(
    photo_world: PhotoWorld, sample: HeldOutQueries, cells: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(monkeypatch, Interval(-0.01, 0.2), seed=None)
    without = fitted(photo_world, sample, cells).fit
    tried(monkeypatch, Interval(0.01, 0.2), seed=None)
    found = fitted(photo_world, sample, cells, reranked=True).fit
    same = ("gamma", "similarity", "near", "growth")
    assert [getattr(found, name) for name in same] == [getattr(without, name) for name in same]
