"""Where photos were taken, from Python: what `search query` and `search check` do, as an object that stays open."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from encoder.config import CropName, DeviceName, EncoderOptions, FeedOptions, MapFolders, PrecisionName, ReadOptions
from encoder.embedding import embed_photos
from encoder.encode import PhotoEncoder, open_encoder
from indexer.choices import check_choice
from indexer.errors import InputError
from indexer.jobs.job_folder import OK
from indexer.photos.photo import FileRange, Photo
from indexer.photos.sources import listed_photos
from indexer.vectors.features import FeatureBatch, joined
from search.answers.answer import Answer, album_answer, album_query, answers_of
from search.answers.claims import CheckedClaim, Claim, ClaimCheck, claim_of
from search.answers.engine import Engine, check_vectors
from search.answers.options import DEFAULT_OPTIONS, SearchOptions
from search.retrieval.posterior import Posterior

GivenPhoto = str | Path | bytes | Image.Image  # a path or a URI; the bytes of a file; an opened image
GivenMap = str | Path | bytes | Image.Image | np.ndarray  # the same of a PNG; or its values, (h, w) uint8
_DEFAULT_READ = ReadOptions()
_LONGEST = 1.001  # norm of a photo vector: 1 or less, but for rounding


class Locator:
    """Says where photos were taken, from one bundle for as long as it lives, whatever is published meanwhile.

    All work is done in this process. No more than a batch of photos is decoded at once, and a vector of each is kept.
    For millions of photos there are jobs: `search.run`.

    One call at a time: a search keeps room for scores from call to call. Threads open a locator each, or share a lock.
    """

    def __init__(
        self, engine: Engine, encode: PhotoEncoder | None = None, *, read: ReadOptions = _DEFAULT_READ
    ) -> None:
        """encode: what photos go through, of the encoder that the bundle was built for; None for vectors alone."""
        self.engine, self.encode, self._read = engine, encode, read

    @classmethod
    def open(
        cls,
        registry: str | Path,
        *,
        checkpoint: str | Path | None = None,
        version: str | None = None,
        crops: CropName = "one",
        device: DeviceName = "auto",
        options: SearchOptions = DEFAULT_OPTIONS,
        read: ReadOptions = _DEFAULT_READ,
        precision: PrecisionName = "auto",
        segmentation_cache: MapFolders | None = None,
        segmenter: str | None = None,
    ) -> "Locator":
        """Open the bundle of a registry, and the encoder whose vectors it understands.

        Args:
            registry: folder with a published bundle.
            checkpoint: the one the bundle was built from, a folder or hf:<hub id or folder>. None: only vectors can be
                located, those of photos that were made into vectors as `crops` says.
            version: a bundle's digest or its beginning; the current one by default.
            crops: of each photo, averaged: one, the middle; five, that and the corners; ten, those and mirror images.
            device: where the encoder runs, and the search; cuda where there is none is an error.
            options: how places are searched for.
            read: which photos are read.
            precision: of the encoder; bfloat16 where the processor has it, by default.
            segmentation_cache: class maps for an encoder with semantic fusion: their folder, or several of one
                segmenter. Maps given with photos go before them.
            segmenter: folder or hub id of the model that makes the maps that are neither given nor in the cache.

        Raises:
            InputError: nothing is published there, no such version or device, a word that is no choice, options that
                the bundle cannot have, or maps that do not go with the encoder.
            ArtifactError: a bundle, a checkpoint or a cache that is damaged, or none.
            BundleMismatch: the bundle was built for another encoder.
        """
        check_choice("crops", crops, CropName)
        how = EncoderOptions(
            segmentation_cache=segmentation_cache, segmenter=segmenter, device=device, precision=precision
        )
        engine = Engine.open(registry, version=version, device=device, options=options, protocol=crops)
        if checkpoint is None:
            if how.says_how_maps_come:
                raise InputError(
                    "`segmentation_cache` and `segmenter` go with `checkpoint`: vectors need no class maps."
                )
            return cls(engine, read=read)
        encode = open_encoder(checkpoint, how, crops=crops)
        engine.check_encoder(encode.encoder.digest, source=str(checkpoint))
        return cls(engine, encode, read=read)

    @property
    def encoder_digest(self) -> str | None:
        """Of the encoder that photos go through; None where only vectors are located."""
        return None if self.encode is None else self.encode.encoder.digest

    def locate(
        self,
        photos: GivenPhoto | Iterable[GivenPhoto],
        *,
        class_maps: GivenMap | Iterable[GivenMap | None] | None = None,
        k: int = 1,
    ) -> list[Answer]:
        """An answer to each photo, in order: always a list, of one photo too.

        A photo that cannot be read has an answer with a `status` and a `reason`, and no place.

        Args:
            photos: one or several. Images that are open already are used as they are, upright, in their full size;
                of large JPEG files fewer pixels are decoded, which changes the last digits of an answer.
            class_maps: for an encoder with semantic fusion, one for each photo, or None where it has none; an encoder
                that learned to do without answers these too, with `Answer.class_map` False.
            k: places to name for each photo, in `Answer.top` where there are several.

        Raises:
            InputError: there is no checkpoint, k is no whole number from 1 to that of the cells, something is no photo
                or no map, or there are class maps, but not as many as photos.
            WorkError: memory ran out.
        """
        self.engine.check_k(k)
        return self.answers(self.embed(given_photos(photos, class_maps)), k=k)

    def locate_album(
        self,
        photos: Iterable[GivenPhoto],
        *,
        class_maps: Iterable[GivenMap | None] | None = None,
        k: int = 1,
    ) -> Answer:
        """One answer to several photos of one place: more sure than that of each, and calibrated apart.

        Photos that cannot be read are left out; where none can, the answer says why of the first. All else as `locate`.
        """
        self._album_engine.check_k(k)
        (answer,) = self.answers(self.embed(given_photos(photos, class_maps)), k=k, album=True)
        return answer

    def locate_vectors(self, vectors: np.ndarray, *, k: int = 1) -> list[Answer]:
        """An answer to each photo vector, in order; `Answer.photo` is its number.

        vectors: (N, D), or (D,) for one: unit vectors, or means of those of crops, not renormalised.

        Raises:
            InputError: another width than the encoder's, a value that is not finite, a vector of zeros or of a norm
                above 1, or k as for `locate`.
        """
        self.engine.check_k(k)
        return self.answers(given_vectors(vectors, width=self.engine.bundle.model.geocells.width), k=k)

    def embed(self, photos: Sequence[Photo]) -> FeatureBatch:
        """The vectors of photos, and what is wrong with those that have none. Raises as `locate`."""
        if self.encode is None:
            raise InputError(
                "This locator was opened without a checkpoint, so it takes vectors alone (`locate_vectors`). Give "
                "`checkpoint` to `Locator.open`."
            )
        # No worker processes: a few photos are decoded before another interpreter has started.
        feed = FeedOptions(max_pixels=self._read.max_pixels, schemes=self._read.schemes, workers=0)
        nothing = FeatureBatch([], np.empty((0, self.encode.encoder.width), np.float32), [], [], *np.empty((2, 0)))
        return joined([nothing, *embed_photos(self.encode, photos, feed=feed)])

    def answers(self, batch: FeatureBatch, *, k: int = 1, album: bool = False) -> list[Answer]:
        """The answers to photos whose vectors are known. Raises InputError as `locate_vectors`.

        album: they are of one place, and have one answer.
        """
        if album:
            return [album_answer(self._album_engine, batch, k=k)]
        return answers_of(self.engine, batch, k=k)

    def check(
        self,
        photos: GivenPhoto | Iterable[GivenPhoto],
        claim: str | tuple[float, float],
        *,
        within_km: float | None = None,
        class_maps: GivenMap | Iterable[GivenMap | None] | None = None,
    ) -> list[CheckedClaim]:
        """Whether each photo may have been taken where it is said to have been, in order, however places are searched.

        Args:
            photos: one or several, as for `locate`; each is checked by itself.
            claim: latitude and longitude, as two numbers or as text, or the name of a city: `Lyon`, `Paris, US`.
            within_km: how far from there it may have been; by default at that very place, or, of a city, within 25 km.
            class_maps: as for `locate`.

        Raises:
            InputError: no such place, a radius below the precision cap, a locator with a region or another prior, a
                bundle that was not calibrated for such photos or before claims could be checked, or as `locate`.
            WorkError: memory ran out.
        """
        wanted = self.claim(claim, within_km=within_km)
        return self.checked(self.embed(given_photos(photos, class_maps)), wanted)

    def claim(self, place: str | tuple[float, float], *, within_km: float | None = None) -> Claim:
        """The claim that a photo is from a place, if this locator can check it. Raises InputError as `check`."""
        claim = claim_of(place, within_km=within_km)
        self._claims.refuse(claim)
        return claim

    def checked(self, batch: FeatureBatch, claim: Claim) -> list[CheckedClaim]:
        """The same of photos whose vectors are known. Raises InputError as `check`."""
        return self._claims(batch, claim)

    @cached_property
    def _album_engine(self) -> Engine:
        """What albums are answered by, opened when the first one is asked for."""
        engine = self.engine
        return Engine(engine.bundle, device=engine.device, options=engine.options, protocol="album")

    @cached_property
    def _claims(self) -> ClaimCheck:
        """What claims are checked with, opened when the first one is."""
        engine = self.engine
        return ClaimCheck(engine.bundle, device=engine.device, options=engine.options, protocol=engine.protocol)

    def posterior(self, batch: FeatureBatch, *, k: int = 1, album: bool = False) -> Posterior:
        """The probabilities of all leaves for the photos of a batch that have a vector; no leaf is left out.

        k: as of the answers: a beam visits more cells where those it visits hold fewer leaves. album: the photos are of
        one place, and are one query.
        """
        engine, n_photos = self.engine, None
        queries = engine.prepared(batch.embedding[batch.ok])
        if album:
            engine, n_photos = self._album_engine, np.array([len(queries)])
            queries = album_query(queries)
        k = k if engine.coarse is None else 1
        found = engine.find(queries, k=k, n_photos=n_photos, left_out=0.0)
        assert found.posterior is not None
        return found.posterior


def given_photos(
    photos: GivenPhoto | Iterable[GivenPhoto],
    class_maps: GivenMap | Iterable[GivenMap | None] | None = None,
) -> list[Photo]:
    """Photos as the encoder takes them; what has no path or URI is named by its number. Nothing is opened here.

    Raises:
        InputError: something that is no photo or no map, or class maps, but not as many as photos.
    """
    advice = "a path or a URI, the bytes of a file, or a PIL image"
    photos = _listed(photos, GivenPhoto, what="Photo", advice=advice)
    advice += ", of a PNG; an array of its values; or None"
    maps = [] if class_maps is None else _listed(class_maps, GivenMap | None, what="Class map", advice=advice)
    if maps and len(maps) != len(photos):
        raise InputError(f"{len(maps)} class maps for {len(photos)} photos: give one for each, in their order.")
    each = zip(photos, maps or [None] * len(photos), strict=True)
    return [_photo(number, photo, class_map) for number, (photo, class_map) in enumerate(each)]


def given_vectors(vectors: np.ndarray, *, width: int) -> FeatureBatch:
    """Vectors of photos as a batch, each named by its number. width: of the bundle's. Raises as `locate_vectors`."""
    try:
        rows = np.atleast_2d(np.asarray(vectors, np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"`vectors` must be an array of numbers, (N, D) or (D,): {error}.") from None
    check_vectors(rows, width=width)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    wrong = np.flatnonzero((norms == 0) | (norms > _LONGEST))
    if wrong.size:
        raise InputError(
            f"{wrong.size} vectors are no photo's, the first in row {wrong[0]}, of norm {norms[wrong[0]]:g}. "
            "Give unit vectors, or means of those of a photo's crops."
        )
    n, nowhere = len(rows), np.full(len(rows), np.nan)
    return FeatureBatch([str(number) for number in range(n)], rows, [OK] * n, [""] * n, nowhere, nowhere)


def _listed(given: Any, kind: Any, *, what: str, advice: str) -> list[Any]:
    """What is given as a list, be it one of that kind or several. Of arrays those with two axes are one map."""
    axes = getattr(given, "ndim", None)
    one = not isinstance(given, Iterable) or axes == 0 or (isinstance(given, kind) and axes in (None, 2))
    listed = [given] if one else list(given)
    for number, each in enumerate(listed):
        if not isinstance(each, kind):
            raise InputError(f"{what} {number} is of type {type(each).__name__}. Give {advice}.")
    return listed


def _photo(number: int, photo: GivenPhoto, class_map: GivenMap | None) -> Photo:
    named = Photo(str(number), photo) if isinstance(photo, bytes | Image.Image) else listed_photos([str(photo)])[0]
    if isinstance(class_map, str | Path):
        return replace(named, class_map=FileRange(str(class_map)) if str(class_map) else None)
    # Of an image the indices of its palette, or its grey values.
    return replace(named, class_map=np.asarray(class_map) if isinstance(class_map, Image.Image) else class_map)
