"""What a run is made from, each thing opened when it is first asked for.

`fit` asks for all and ends at the first that cannot be had; `training.checking` asks for all and names every one.
"""

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from encoder.class_maps.cache import SegmentationCache, open_cache
from encoder.config import Preprocessing
from encoder.encode import MapSource, check_maps
from encoder.models.checkpoint import LoadedEncoder, load_encoder
from encoder.models.device import choose_device
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from encoder.models.vision_model import VisionModel
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.manifest import manifest_digest
from indexer.errors import InputError
from indexer.photos.sources import PhotoSource, open_photos
from indexer.vectors.prototypes import Placement
from training.cells.heads import ClassifierHead, GeocellHead, head_for
from training.config import FitConfig, ModelConfig
from training.photos.batches import Photos, ValidationPhotos
from training.photos.run_photos import open_half, source_of

log = logging.getLogger(__name__)


class RunInputs:
    """The inputs of a run, as its configuration names them. Each raises an InputError where it cannot be used."""

    def __init__(self, hierarchy: Path, config: FitConfig) -> None:
        self.folder, self.config = hierarchy, config

    @cached_property
    def device(self) -> torch.device:
        """Where this process trains."""
        options = self.config.trainer
        if options.accelerator == "gpu" and not torch.cuda.is_available():
            raise InputError("trainer.accelerator is gpu, and torch finds none. Use auto or cpu, or mend the driver.")
        device = choose_device({"auto": "auto", "cpu": "cpu", "gpu": "cuda"}[options.accelerator])  # type: ignore[arg-type]
        if device.type == "cuda" and torch.cuda.device_count() < options.devices:
            raise InputError(
                f"trainer.devices is {options.devices}, and torch finds {torch.cuda.device_count()} of them. Lower it, "
                "and raise trainer.accumulate_grad_batches, so that a part of a batch still fits."
            )
        return device

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """The cells to learn; an ArtifactError where the folder is damaged."""
        opened = load_hierarchy(self.folder)
        for number, level in enumerate(opened.levels):
            if len(level) == 1:
                raise InputError(
                    f"Level {number} (tau_max {level.tau_max}) has a single cell, which teaches nothing. "
                    "Leave that one out of `tau_max` of the partition."
                )
        return opened

    @cached_property
    def cache(self) -> SegmentationCache | None:
        """The class maps that do not come with the photos; None where the configuration names none."""
        folders = self.config.data.segmentation_cache
        return None if folders is None else open_cache(folders)

    @cached_property
    def start(self) -> LoadedEncoder | None:
        """The encoder that is begun with; None for a new one."""
        name = self.config.model.start_from
        return None if name is None else load_encoder(name)

    @cached_property
    def encoder(self) -> GeoEncoder:
        """The encoder to train. Its fusion, if it has one, understands the maps of the cache, if there is one."""
        encoder = self.encoder_beside(self.cache)
        check_maps(encoder, MapSource(self.cache))
        return encoder

    def encoder_beside(self, cache: SegmentationCache | None) -> GeoEncoder:
        """The same, whether or not it understands these maps. To be called once: what `start` has is changed."""
        model = self.config.model
        if model.unused:
            names = ", ".join(model.unused)
            log.warning("%s has its own model.%s: what is given has no effect", model.start_from, names)
        if cache is not None and model.fusion is not None and model.fusion.segmenter is None:
            # On record: no maps of another segmenter may be taken for those that the fusion learned from.
            model = replace(model, fusion=replace(model.fusion, segmenter=cache.origin.segmenter))
        start = self.start
        torch.manual_seed(self.config.seed_everything)
        return build_encoder(model, start)

    @cached_property
    def head(self) -> GeocellHead | ClassifierHead:
        """What is learned beside the encoder."""
        return self.head_beside(self.encoder)

    def head_beside(self, encoder: GeoEncoder) -> GeocellHead | ClassifierHead:
        """The same for any encoder."""
        return head_for(self.config, self.hierarchy, width=encoder.width)

    @cached_property
    def source(self) -> PhotoSource:
        """All photos, whatever they are for."""
        return open_photos(self.config.data.photos)

    def check_maps_come(self, encoder: GeoEncoder) -> None:
        """Raise InputError where an encoder needs class maps, and neither a cache nor the photos have any."""
        if encoder.fusion is not None and self.config.data.segmentation_cache is None and not self.source.may_have_maps:
            raise InputError(
                f"{self.source.location}: model.fusion sees each photo with its class map, and none come with these. "
                "Give data.segmentation_cache (python -m encoder segment makes one), or leave out model.fusion."
            )

    def digests(self) -> dict[str, str | None]:
        """What tells these inputs from others, by name."""
        return {
            "photos": self.source.identity,
            "hierarchy": manifest_digest(self.folder),
            "maps": None if self.cache is None else self.cache.origin.segmenter,
            "start_from": None if self.start is None else self.start.digest,
        }

    @cached_property
    def learnt(self) -> Photos:
        """The photos to learn from."""
        return open_half(self.config.data, "train", **self._how_photos_are_read)

    @cached_property
    def validation(self) -> ValidationPhotos:
        """The photos to measure with."""
        return open_half(self.config.data, "validation", **self._how_photos_are_read)

    @property
    def _how_photos_are_read(self) -> dict[str, Any]:
        return {"hierarchy": self.hierarchy, "encoder": self.encoder, "cache": self.cache, "device": self.device}

    @cached_property
    def gallery(self) -> Placement | None:
        """Where the photos to learn from were taken, for the gallery; None where none is wanted.

        With a column of owners, as the table of photos says it. Raises InputError where the photos come in no table, or
        in one without that column.
        """
        config = self.config
        if not config.wants_gallery:
            return None
        _, chosen = source_of(config.data, "train")
        if config.owner_column is None:
            return Placement(self.hierarchy, chosen=chosen)
        split = None if config.data.validation_share is not None else config.data.train_split
        return Placement(
            self.hierarchy, config.data.photos, split=split, chosen=chosen, owner_column=config.owner_column
        )


def build_encoder(config: ModelConfig, start: LoadedEncoder | None = None) -> GeoEncoder:
    """The encoder training begins with; random weights come from torch's global generator.

    start: what `config.start_from` names, which is changed; None where it names nothing. Raises InputError where that
    is a model which is only read.
    """
    if start is None:
        encoder, trainable = _new_encoder(config), config.trainable_blocks
    elif isinstance(start.model, VisionModel):
        raise InputError(
            f"model.start_from: {start.name} can encode photos, but only a CLIP (a MetaCLIP, too), or an encoder of "
            "this project, can be trained, or be given a fusion. Embed photos with it (python -m encoder embed), and "
            "fit cells to their vectors (python -m training refit)."
        )
    else:
        encoder = start.model.requires_grad_(True).train()
        trainable = 1 if config.trainable_blocks is None else config.trainable_blocks
    known = encoder.fusion_config
    if config.fusion is not None:
        if known is None:
            encoder.add_fusion(config.fusion)
        elif config.fusion != known == replace(config.fusion, leave_out=known.leave_out, segmenter=known.segmenter):
            encoder.config.fusion["leave_out"] = config.fusion.leave_out
        else:
            raise InputError(
                f"{config.start_from} has a fusion already. Leave out model.fusion; or give the kind and sizes it has, "
                "and another leave_out."
            )
    if isinstance(trainable, int):
        encoder.freeze(trainable_blocks=trainable)
    return encoder


def _new_encoder(config: ModelConfig) -> GeoEncoder:
    vision = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_size,
        "hidden_act": config.activation,
    }
    preprocessing = Preprocessing(config.image_size, config.image_size, config.mean, config.std).to_dict()
    return GeoEncoder(GeoEncoderConfig(vision_config=vision, projection_dim=config.width, preprocessing=preprocessing))
