"""Places become vectors as GeoCLIP's published layers make them."""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from geoclip.model.location_encoder import LocationEncoder as Theirs

from encoder.models.pickled_weights import pickled_tensors
from tests.published_geoclip import OUT, places_on_earth, small_weights
from training.adopted.location_encoder import LocationEncoder, equal_earth

WORLD = np.array([(90.0, 0.0), (-90.0, 12.0), (0.0, 180.0), (0.0, -180.0), (0.0, 0.0), (48.8584, 2.2945)])


def by_hand(weights: dict[str, torch.Tensor], places: np.ndarray) -> np.ndarray:
    """The same in float64 and numpy, layer by layer."""
    lat, lng = np.radians(places).T
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    theta = np.arcsin(np.sqrt(3) / 2 * np.sin(lat))
    slope = a1 + 3 * a2 * theta**2 + theta**6 * (7 * a3 + 9 * a4 * theta**2)
    x = 2 * np.sqrt(3) * lng * np.cos(theta) / (3 * slope)
    y = theta * (a1 + a2 * theta**2 + theta**6 * (a3 + a4 * theta**2))
    drawn = np.stack([x, y], axis=1) * 66.50336 / 180
    named = {name: tensor.double().numpy() for name, tensor in weights.items()}
    total = 0.0
    for scale in range(sum(name.endswith(".b") for name in named)):
        turns = 2 * np.pi * drawn @ named[f"LocEnc{scale}.capsule.0.b"].T
        hidden = np.concatenate([np.cos(turns), np.sin(turns)], axis=1)
        for position in (1, 3, 5):
            layer = f"LocEnc{scale}.capsule.{position}"
            hidden = np.maximum(hidden @ named[f"{layer}.weight"].T + named[f"{layer}.bias"], 0)
        total = total + hidden @ named[f"LocEnc{scale}.head.0.weight"].T + named[f"LocEnc{scale}.head.0.bias"]
    return np.asarray(total)


def test_vectors_are_those_of_the_layers_by_hand() -> None:
    _, weights = small_weights(scales=3)
    places = np.concatenate([WORLD, places_on_earth(3000)])
    expected = by_hand(weights, places)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = LocationEncoder(weights).vectors(*places.T)
    assert vectors.shape == (len(places), OUT)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=2e-4)


def test_the_map_is_that_of_the_projection() -> None:
    """Its own publication: the whole equator is 2.05 times as long as a meridian is high."""
    drawn = equal_earth(torch.tensor(WORLD, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(drawn[4], 0, atol=1e-7)
    np.testing.assert_allclose((drawn[2, 0] - drawn[3, 0]) / (drawn[0, 1] - drawn[1, 1]), 2.05458, rtol=1e-4)
    np.testing.assert_allclose(drawn[0, 1], -drawn[1, 1], rtol=1e-6)


def test_the_published_weights_make_the_packages_own_vectors() -> None:
    file = Path(str(distribution("geoclip").locate_file("geoclip/model/weights/location_encoder_weights.pth")))
    weights = pickled_tensors(file)
    theirs = Theirs(from_pretrained=False).eval()
    theirs.load_state_dict(weights)
    places = torch.tensor(np.concatenate([WORLD, places_on_earth(40)]), dtype=torch.float32)
    ours = LocationEncoder(weights)
    with torch.inference_mode():
        expected, found = theirs(places), ours.unscaled(places)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # the last bits decide which place comes first
    assert ours.width == 512
    assert 0.1 < float(expected.norm(dim=1).min()) < float(expected.norm(dim=1).max()) < 0.6  # no unit vectors


@pytest.mark.parametrize("wrong", ["named", "missing", "shape"])
def test_weights_of_another_thing_are_refused(wrong: str) -> None:
    _, weights = small_weights()
    if wrong == "named":
        weights["LocEnc0.body.1.weight"] = weights.pop("LocEnc0.capsule.1.weight")
    elif wrong == "missing":
        del weights["LocEnc1.head.0.bias"]
    else:
        weights["LocEnc1.capsule.3.weight"] = weights["LocEnc1.capsule.3.weight"][:, :5]
    with pytest.raises((LookupError, RuntimeError, ValueError)):
        LocationEncoder(weights)
