"""Decoded photos in one buffer: what goes in comes out, whatever sizes, maps and faults there are."""

import pickle

import numpy as np
import torch

from encoder.class_maps.class_map import NO_CLASS
from encoder.photos.decoded_batch import pack
from encoder.photos.photo_reader import DecodedPhoto, PreparedPhoto
from indexer.errors import BadImage
from indexer.photos.photo import Photo


def values(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


PIXELS = [values(4, 6, 3, seed=0), values(5, 3, 3, seed=1), values(2, 2, 3, seed=2)]
CLASS_MAP, TO_SEGMENT = values(2, 3, seed=3), values(7, 5, 3, seed=4)


def test_what_goes_in_comes_out_with_its_row() -> None:
    prepared = PreparedPhoto(TO_SEGMENT, (9, 8))
    batch = pack(
        [
            (Photo("a", b"", 1.0, 2.0), DecodedPhoto(PIXELS[0], CLASS_MAP)),
            (Photo("b", b"", 3.0, 4.0), BadImage("damaged", "why")),
            (Photo("c", b""), DecodedPhoto(PIXELS[1], None, prepared)),
            (Photo("d", b"", 5.0, 6.0), DecodedPhoto(PIXELS[2], None)),
        ]
    )
    assert (len(batch), batch.rows) == (4, [0, 2, 3])
    assert (batch.name, batch.status) == (["a", "b", "c", "d"], ["ok", "damaged", "ok", "ok"])
    assert batch.reason == ["", "why", "", ""]
    np.testing.assert_array_equal(batch.lat_deg, [1, 3, np.nan, 5])
    np.testing.assert_array_equal(batch.lng_deg, [2, 4, np.nan, 6])
    for sent in (batch, pickle.loads(pickle.dumps(batch)), batch.to(torch.device("cpu"))):
        for have, want in zip(sent.pixels(), PIXELS, strict=True):
            np.testing.assert_array_equal(have.numpy(), want)
        own, none, absent = sent.class_maps()
        assert none is absent is None
        assert own is not None
        np.testing.assert_array_equal(own.numpy(), CLASS_MAP)
        first, to_segment, last = sent.to_segment()
        assert first is last is None
        assert to_segment is not None
        assert to_segment.map_shape == (9, 8)
        np.testing.assert_array_equal(np.asarray(to_segment.pixels), TO_SEGMENT)


def test_a_fusion_sees_nothing_where_a_photo_has_no_map() -> None:
    photos = [DecodedPhoto(PIXELS[0], CLASS_MAP), DecodedPhoto(PIXELS[1], None)]
    own, absent = pack([(Photo(str(row), b""), photo) for row, photo in enumerate(photos)]).maps_to_cut()
    np.testing.assert_array_equal(own.numpy(), CLASS_MAP)
    assert absent.tolist() == [[NO_CLASS]]


def test_maps_that_were_made_take_the_place_of_what_they_were_made_from() -> None:
    prepared = PreparedPhoto(TO_SEGMENT, (5, 3))
    photos = [
        DecodedPhoto(PIXELS[0], CLASS_MAP),
        DecodedPhoto(PIXELS[1], None, prepared),
        DecodedPhoto(PIXELS[2], None),
    ]
    made = values(5, 3, seed=5)
    batch = pack([(Photo(str(row), b""), photo) for row, photo in enumerate(photos)]).with_maps([None, made, None])
    own, new, absent = batch.class_maps()
    assert absent is None
    assert batch.to_segment() == [None] * 3
    for have, want in zip([own, new, *batch.pixels()], [CLASS_MAP, made, *PIXELS], strict=True):
        np.testing.assert_array_equal(np.asarray(have), want)


def test_a_batch_of_faults_alone_has_no_pixels() -> None:
    batch = pack([(Photo("a", b""), BadImage("empty", "why"))])
    assert (len(batch), batch.rows, batch.pixels(), batch.class_maps(), batch.to_segment()) == (1, [], [], [], [])
