"""The model's own stage: a batch of decoded photos becomes vectors, with class maps and several crops where asked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from encoder.class_maps.cache import SegmentationCache, open_cache
from encoder.config import MAP_EDGE, CropName, EncoderOptions, ReadOptions
from encoder.models.checkpoint import LoadedEncoder, load_encoder
from encoder.models.device import choose_device, choose_precision, memory_explained
from encoder.models.segmentation import Segmenter, load_segmenter
from encoder.models.vision_model import PhotoModel
from encoder.photos.crops import N_CROPS, crop_maps, crop_photos, normalise
from encoder.photos.decoded_batch import DecodedBatch
from encoder.photos.photo_reader import PhotoReader
from indexer.choices import check_choice
from indexer.errors import InputError
from indexer.photos.sources import PhotoSource
from indexer.vectors.features import FeatureBatch


@dataclass(frozen=True, slots=True, eq=False)
class MapSource:
    """Where class maps come from that did not come with their photos. With neither, every photo must bring its own."""

    cache: SegmentationCache | None = None
    segmenter: Segmenter | None = None  # makes the maps that the cache lacks

    @property
    def digest(self) -> str | None:
        """Of the model that makes the maps."""
        cached = None if self.cache is None else self.cache.origin.segmenter
        made = None if self.segmenter is None else self.segmenter.digest
        if cached is not None and made is not None and cached != made:
            raise InputError(
                f"The cache holds maps of the segmentation model {cached[:8]}; `segmenter` is {made[:8]}. Give the "
                "model the cache was made with, or leave one of them out."
            )
        return made if cached is None else cached

    @property
    def n_classes(self) -> int | None:
        """Of the maps; None where there is neither cache nor segmenter."""
        if self.cache is not None:
            return len(self.cache.origin.class_names)
        return None if self.segmenter is None else self.segmenter.n_classes


class PhotoEncoder:
    """An encoder with what it is to do to each photo."""

    def __init__(self, encoder: LoadedEncoder, *, crops: CropName = "one", maps: MapSource | None = None) -> None:
        """Raises InputError where the maps are not of the kind the encoder learned from."""
        self.encoder = encoder
        self.crops = crops
        self.maps = maps or MapSource()
        self.device = encoder.model.device
        check_maps(encoder.model, self.maps)

    @property
    def inputs(self) -> dict[str, str | None]:
        """Digests of what decides its vectors, for manifests."""
        return {"encoder": self.encoder.digest, "maps": self.maps.digest}

    def check_source(self, photos: PhotoSource) -> None:
        """Raise InputError for photos that cannot have the class maps this encoder needs, before any is read."""
        fusion = self.encoder.model.fusion_config
        if fusion is not None and fusion.needs_maps and self.maps.digest is None and not photos.may_have_maps:
            raise InputError(
                f"{photos.location}: this encoder sees each photo with its class map, and none come with these. Give "
                "`segmentation_cache` (python -m encoder segment makes one), or `segmenter`; or train an encoder that "
                "also takes photos without (`model.fusion.leave_out`)."
            )

    def photos_in(self, batch_size: int) -> int:
        """How many photos make a batch of so many crops."""
        return max(1, batch_size // N_CROPS[self.crops])

    def reader(self, options: ReadOptions) -> PhotoReader:
        """What must be done to photos before they come here."""
        return reader_of(self.encoder.model, self.maps, crops=self.crops, options=options)

    @property
    def makes_maps(self) -> bool:
        """Whether `segment` has anything to do."""
        return self.maps.segmenter is not None

    def segment(self, batch: DecodedBatch) -> DecodedBatch:
        """The same photos with the class maps that they lack; may be called from another thread than the encoding."""
        to_segment = batch.to_segment()
        lacking = [photo for photo in to_segment if photo is not None]
        if not lacking:
            return batch
        assert self.maps.segmenter is not None, "nothing is prepared for a segmenter that is not there"
        with memory_explained(
            f"to make class maps of {len(lacking)} photos beside the encoder",
            "Make them first (python -m encoder segment, `batch_size` 1), and give `segmentation_cache`.",
        ):
            made = iter(self.maps.segmenter.segment(lacking))
        return batch.with_maps([None if photo is None else next(made) for photo in to_segment])

    def __call__(self, batch: DecodedBatch) -> FeatureBatch:
        """Vectors of the photos of a batch; of several crops the mean of their unit vectors, which is shorter than 1.

        The mean is what averaging the logits of the crops, level by level, comes to (ARCHITECTURE: the score is linear
        in the vector).
        """
        vectors, seen = np.zeros((len(batch), self.encoder.width), np.float32), None
        if batch.rows:
            batch = self.segment(batch)
            with memory_explained(*self._work_and_advice(len(batch.rows))):
                vectors[batch.rows] = self._vectors(batch.to(self.device)).cpu().numpy()
        if self.encoder.model.fusion is not None:
            found = dict(zip(batch.rows, batch.class_maps(), strict=True))
            seen = [found[row] is not None if row in found else None for row in range(len(batch))]
        return FeatureBatch(batch.name, vectors, batch.status, batch.reason, batch.lat_deg, batch.lng_deg, seen)

    def _work_and_advice(self, photos: int) -> tuple[str, str]:
        """What the encoder takes memory for, and how to ask for less of it."""
        crops = photos * N_CROPS[self.crops]
        # A photo's crops are never parted: of one photo no batch size makes less.
        ways = [f"with `batch_size` below {crops} (in a query: fewer photos)"] if photos > 1 else []
        if self.crops != "one":
            ways.append("with fewer `crops`")
        if self.makes_maps:
            ways.append("with class maps made before (python -m encoder segment)")
        return (
            f"for {crops} crop{'s' if crops > 1 else ''} at once",
            f"Run again {', or '.join([*ways, 'with `device` cpu'])}.",
        )

    @torch.inference_mode()
    def _vectors(self, batch: DecodedBatch) -> torch.Tensor:
        preprocessing = self.encoder.preprocessing
        pixels = batch.pixels()
        crops = crop_photos(pixels, preprocessing, crops=self.crops).flatten(0, 1)
        maps = None
        if self.encoder.model.fusion is not None:
            maps = crop_maps(batch.maps_to_cut(), batch.shapes, preprocessing, crops=self.crops).flatten(0, 1)
        model = self.encoder.model
        vectors = model(normalise(crops, preprocessing).to(model.dtype), maps)
        return vectors.unflatten(0, (len(pixels), -1)).mean(dim=1)


def open_encoder(checkpoint: str | Path, options: EncoderOptions, *, crops: CropName = "one") -> PhotoEncoder:
    """The encoder of a checkpoint folder, or of `hf:<hub id or folder>`.

    Raises:
        InputError: a model cannot be had, there is no such device, or maps and encoder do not go together.
        ArtifactError: a checkpoint or a cache that is none, or damaged.
    """
    check_choice("crops", crops, CropName)
    device, cache, segmenter = choose_device(options.device), options.segmentation_cache, options.segmenter
    encoder = load_encoder(checkpoint, device=device, dtype=choose_precision(options.precision, device))
    maps = MapSource(
        None if cache is None else open_cache(cache),
        None if segmenter is None else load_segmenter(segmenter, device=device),
    )
    return PhotoEncoder(encoder, crops=crops, maps=maps)


def reader_of(model: PhotoModel, maps: MapSource, *, crops: CropName, options: ReadOptions) -> PhotoReader:
    """What must be done to photos before a model can see them."""
    fusion = model.fusion_config
    return PhotoReader(
        model.preprocessing.resizing(crops),
        max_pixels=options.max_pixels,
        schemes=options.schemes,
        classes=None if fusion is None else fusion.classes,
        needs_map=fusion is None or fusion.needs_maps,
        cache=maps.cache,
        segmenter=None if maps.segmenter is None else maps.segmenter.input,
        map_edge=MAP_EDGE if maps.cache is None else maps.cache.origin.map_edge,
    )


def check_maps(model: PhotoModel, maps: MapSource) -> None:
    """Raise InputError where a source's maps are not of the kind a model takes, or has learned from."""
    fusion, made_by, classes = model.fusion_config, maps.digest, maps.n_classes
    if classes is None:
        return
    if fusion is None:
        raise InputError("This encoder has no semantic fusion: leave out the segmentation cache and the segmenter.")
    if classes != fusion.classes:
        raise InputError(
            f"Class maps of {classes} classes for an encoder that knows {fusion.classes}: they cannot mean the same. "
            "Give the segmentation model, or its cache, that the encoder learned from."
        )
    if made_by is not None and fusion.segmenter is not None and made_by != fusion.segmenter:
        raise InputError(
            f"The encoder learned from maps of the segmentation model {fusion.segmenter[:8]}; these are of "
            f"{made_by[:8]}. Make maps with the same model: python -m encoder segment"
        )
