"""Places as vectors: seams, scales, the queue, and that a photo finds its place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from benchmarks.world.location_encoder import LocationEncoder, LocationHead, place_loss
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km
from tests.training.cells.test_heads import WIDTH, learnt, toy
from tests.training.cells.test_losses import sample
from training.cells.heads import best_rows
from training.photos.batches import Truth, places_of


def small(width: int = WIDTH, scales: tuple[float, ...] = (1.0, 8.0)) -> LocationEncoder:
    return LocationEncoder(width, scales=scales, frequencies=32, hidden=64)


def encoded(encoder: LocationEncoder, lat: list[float], lng: list[float]) -> torch.Tensor:
    with torch.no_grad():
        return encoder(places_of(np.array(lat), np.array(lng)))


@given(lat=st.floats(-90, 90), lng=st.floats(-180, 180))
def test_vectors_have_length_one_everywhere(lat: float, lng: float) -> None:
    assert float(encoded(small(), [lat], [lng]).norm()) == pytest.approx(1, abs=1e-5)


def test_there_is_no_seam_at_the_antimeridian_or_at_a_pole() -> None:
    here = encoded(small(), [12.0, 90.0, 12.0], [180.0, 0.0, 179.9999])
    there = encoded(small(), [12.0, 90.0, 12.0], [-180.0, 123.0, -179.9999])
    torch.testing.assert_close(here, there, atol=1e-3, rtol=0)


def test_a_larger_scale_tells_nearer_places_apart() -> None:
    coarse, fine = (
        (encoded(small(scales=(s,)), [48.0], [2.0]) * encoded(small(scales=(s,)), [48.5], [2.0])).sum()
        for s in (1.0, 64.0)
    )
    assert coarse > 0.99
    assert fine < 0.9


def test_the_same_seed_gives_the_same_encoder_whatever_was_drawn_before() -> None:
    one = small()
    torch.rand(3)
    for a, b in zip(one.state_dict().values(), small().state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_queue_holds_the_latest_places() -> None:
    lat, lng = np.linspace(-80, 80, 30), np.linspace(-170, 170, 30)
    head = LocationHead(small(), lat, lng, queue=8)
    before = head.queue.clone()
    assert all((head.gallery == place).all(dim=1).any() for place in before)
    for rows in (slice(0, 5), slice(5, 10)):
        head.end_batch(Truth.alone(torch.zeros((5, 1), dtype=torch.int64), lat[rows], lng[rows]))
    assert torch.equal(head.queue, torch.cat([head.gallery[5:10], head.gallery[0:3]]))
    assert torch.equal(head.state_dict()["queue"], head.queue)  # a killed run goes on with it
    assert "gallery" not in head.state_dict()


def test_photos_find_their_places(hierarchy: Hierarchy) -> None:
    vectors, truth, lat, lng = toy(hierarchy)
    head = LocationHead(small(), lat, lng, queue=50)
    begin, end = learnt(head, vectors, truth, steps=60)
    assert end < begin - 1
    with torch.no_grad():
        projected = head.queries(vectors)
        best = best_rows(projected, head.rows()).numpy()
    # The vectors are given and nothing turns them, so the places must come to them.
    assert np.median(haversine_km(lat, lng, lat[best], lng[best])) < 500


def test_the_loss_is_one_over_all_candidates(hierarchy: Hierarchy) -> None:
    """Against a loop; a photo in no cell is left out, but its place stays a negative."""
    vectors, truth, lat, lng = toy(hierarchy, n=12)
    truth.targets[3] = -1
    head = LocationHead(small(), lat, lng, queue=7)
    with torch.no_grad():
        ours = float(head.loss(vectors, truth))
        places = head.encoder(torch.cat([truth.places, head.queue]))
        logits = (normalize(vectors, dim=-1) @ places.T / 0.07).double()
    there = [row for row in range(12) if (truth.targets[row] >= 0).any()]
    expected = np.mean([float(logits[row].logsumexp(0) - logits[row, row]) for row in there])
    assert len(there) < 12
    assert ours == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_places_tells_a_photo_from_all_candidates_and_its_gradients_are_right() -> None:
    vectors, candidates, _ = sample(4, 9, 5, seed=12)
    everyone = torch.tensor([[0, 1], [2, 3], [-1, -1], [-1, 1], [0, 0]])
    # The last four of a batch of five, of which one has no cell.
    truth = Truth(everyone[1:], everyone, torch.zeros((5, 3)), 1)
    tau = torch.tensor(0.5, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (vectors, normalize(candidates, dim=-1).detach(), tau)]
    assert torch.autograd.gradcheck(lambda v, c, t: place_loss(v, c, t, truth), inputs)
    logs = (inputs[0] @ inputs[1].T / 0.5).log_softmax(dim=1).detach()
    expected = -sum(float(logs[row, 1 + row]) for row in (0, 2, 3)) / 4  # four of the batch have a cell
    assert place_loss(*inputs, truth).item() == pytest.approx(expected, rel=1e-12)
