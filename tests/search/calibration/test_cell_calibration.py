"""The calibration of cells alone against photos drawn from a posterior of known temperature."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from search.answers.engine import Engine
from search.answers.points import points_of_bundle
from search.calibration.cell_calibration import Fitted, fit_calibration
from search.calibration.held_out import HeldOutQueries
from search.evaluation.options import Resampling
from tests.search.calibration.conftest import drawn

CPU = torch.device("cpu")


def fitted_to(engine: Engine, sample: HeldOutQueries, resamples: int) -> Fitted:
    points = points_of_bundle(engine.bundle, photos=False)
    return fit_calibration(engine.bundle.model, points, sample, device=CPU, resampling=Resampling(resamples))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 6.0])
def test_the_temperature_that_made_the_photos_is_found(engine: Engine, temperature: float) -> None:
    sample = drawn(engine, temperature, n=3000, seed=0)
    fitted = fitted_to(engine, sample, 100)
    found = fitted.calibration
    assert found.temperature == pytest.approx(temperature, rel=0.12)
    assert (found.growth, found.queries) == (0, 3000)
    # The model of a leaf is near what the photos were drawn from, so that shares are near what they promise.
    assert found.masses["cell"] == pytest.approx((0.5, 0.9), abs=0.06)
    assert fitted.after.interval is not None
    assert fitted.after.interval.low < 0.02
    assert fitted.after.error <= fitted.before.error + 0.005


def test_photos_outside_all_cells_make_all_others_less_likely(engine: Engine) -> None:
    sample = drawn(engine, 1.0, n=2000, seed=1)
    lost = replace(sample, leaf=np.where(np.arange(2000) % 3, sample.leaf, -1))
    fits = [fitted_to(engine, each, 100) for each in (sample, lost)]
    assert fits[0].calibration.inside == 1
    assert fits[1].calibration.inside == pytest.approx(2 / 3, abs=0.01)
    assert fits[1].calibration.temperature == pytest.approx(fits[0].calibration.temperature, rel=0.2)
    assert fits[1].after.interval is not None
    assert fits[1].after.interval.low < 0.02
    assert fits[1].after.error < fits[1].before.error - 0.1


def test_albums_of_one_photo_seen_again_and_again_grow_colder_by_none(engine: Engine) -> None:
    """n equal photos say what one says: the temperature must grow with n."""
    sample = drawn(engine, 1.0, n=2000, seed=2)
    n_photos = np.random.default_rng(3).integers(1, 9, 2000)
    album = replace(sample, queries=(sample.queries * n_photos[:, None]).astype(np.float32), n_photos=n_photos)
    fitted = fitted_to(engine, album, 0)
    assert fitted.calibration.growth == 1
    assert fitted.calibration.temperature == pytest.approx(1.0, rel=0.12)
