"""What may be asked for: options that go together, and with a bundle; clear refusals."""

from dataclasses import replace

import pytest

from indexer.bundles.bundle import Bundle
from indexer.errors import InputError
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from tests.search.gallery_oracle import FIT, calibrated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "beam", "probes": 0}, "`probes` must be at least 1"),
        ({"mode": "adaptive", "max_probes": -1}, "`max_probes` must be at least 1"),
        ({"mode": "exact", "probes": 3}, "`probes` goes with"),
        ({"probes": 3}, "`probes` goes with"),
        ({"mode": "beam", "max_probes": 3}, "`max_probes` goes with"),
        ({"mode": "adaptive", "probes": 4, "max_probes": 3}, "must not be below"),
        ({"mode": "beam", "score": "cosine-clamped"}, "leave `mode` out"),
        ({"score": "cosine-clamped", "gallery": "all"}, "leave `gallery` out"),
        ({"score": "cosine-clamped", "point": "density"}, "no probabilities"),
        ({"point": "density", "gallery": "off"}, "leave `gallery` off out"),
        ({"gallery_photos": -1}, "`gallery_photos` must be at least 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchOptions(**options)  # type: ignore[arg-type]


def test_what_a_bundle_was_not_calibrated_for_is_refused_by_fields(engine: Engine) -> None:
    SearchOptions().check(engine.bundle, protocol="one")
    with pytest.raises(InputError, match=r"`radii`: the bundle .* was not calibrated for ten crops"):
        SearchOptions(radii=True).check(engine.bundle, protocol="ten")
    for without in (SearchOptions(gallery="all"), SearchOptions(point="density")):
        with pytest.raises(InputError, match=r"has no gallery, so no photos of known places: .* indexer build"):
            without.check(engine.bundle, protocol="one")


def test_with_photos_answers_point_where_these_are_dense(photo_bundle: Bundle) -> None:
    for options, uses, point in (
        (SearchOptions(), True, "density"),
        (SearchOptions(gallery="all"), True, "density"),
        (SearchOptions(gallery="off"), False, "cell"),
        (SearchOptions(point="medoid"), True, "medoid"),
        (SearchOptions(precision_cap=500.0), True, "cell"),
        (SearchOptions(score="cosine-affine"), False, "cell"),
        (SearchOptions(region="FR"), True, "density"),
    ):
        options.check(photo_bundle, protocol="one")
        assert (options.uses_gallery(photo_bundle), options.point_of(photo_bundle)) == (uses, point)


def test_photos_and_cells_have_calibrations_of_their_own(photo_bundle: Bundle) -> None:
    both = calibrated(photo_bundle, FIT)
    one = both.calibrations["one"]
    assert SearchOptions().calibration(both, "one") == one.with_photos
    assert SearchOptions(gallery="off").calibration(both, "one") == one
    assert SearchOptions().masses(both, "one") == (0.5, 0.9)
    assert SearchOptions(point="medoid").masses(both, "one") is None
    cells = replace(both, calibrations={"one": replace(one, with_photos=None)})
    assert SearchOptions().calibration(cells, "one") is None
    assert SearchOptions(gallery="off").calibration(cells, "one") is not None
    assert not Engine(cells).calibrated
    with pytest.raises(InputError, match="was not calibrated for one crop"):
        SearchOptions(radii=True).check(cells, protocol="one")
    SearchOptions(radii=True, gallery="off").check(cells, protocol="one")
