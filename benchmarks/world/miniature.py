"""A miniature of what the paper's configuration needs: MP-16, published weights, a benchmark, all in their own formats.

In: the embedded world. Out: a folder with

    hub/clip        a CLIP of random weights as the hub has it, the weights a pickle
    hub/oneformer   a OneFormer of random weights
    mp16/photos.csv IMG_ID, LAT, LON of the photos below mp16/
    mp16/0000.tar.. the same photos as shards: key.jpg, and key.json with lat and lon
    mp16/benchmarks/im2gps3k    photos that nothing learns from, and im2gps3k_places365.csv
"""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from benchmarks.gpu import random_oneformer
from benchmarks.world.generator import WorldConfig, generate
from encoder.config import PICKLED_WEIGHTS
from indexer.photos.sources import PhotoTable, read_photos

_SHARDS = 2
_EDGE = 32  # pixels that the CLIP sees
_VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": _EDGE,
    "patch_size": 8,
}
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 99,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_WIDTH = 64  # of its vectors
_SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
_ONEFORMER = {
    "num_queries": 10,
    "conv_dim": 32,
    "mask_dim": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "num_attention_heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "query_dec_layers": 1,
}


def make(out: Path, world: WorldConfig) -> None:
    """Write it into a folder, whose parts are not there yet: training photos of a world, its test photos to test."""
    table = generate(world, out / "world") / "photos.parquet"
    mp16 = out / "mp16"
    photos = read_photos(table, split="train", coordinates=True)
    _save_table(_copied(photos, table.parent, mp16), mp16, "photos.csv")
    _save_shards(photos, table.parent, mp16)
    benchmark = mp16 / "benchmarks" / "im2gps3k"
    tested = _copied(read_photos(table, split="test", coordinates=True), table.parent, benchmark)
    _save_table(tested, benchmark, "im2gps3k_places365.csv")
    _save_clip(out / "hub" / "clip")
    _save_oneformer(out / "hub" / "oneformer")


def _copied(photos: PhotoTable, world: Path, folder: Path) -> PhotoTable:
    """The photos, copied to folders of two digits each, as MP-16 was given out; with their names there."""
    names = []
    for number, photo in enumerate(photos.photo):
        name = f"{number % 7:02x}/{number % 11:02x}/{number}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(world / photo, folder / name)
        names.append(name)
    return replace(photos, photo=names)


def _save_table(photos: PhotoTable, folder: Path, name: str) -> None:
    columns = {"IMG_ID": list(photos.photo), "LAT": photos.lat_deg, "LON": photos.lng_deg}
    csv.write_csv(pa.table(columns), folder / name)


def _save_shards(photos: PhotoTable, world: Path, folder: Path) -> None:
    parts = np.array_split(np.arange(len(photos)), _SHARDS)
    for shard, rows in enumerate(parts):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for row in rows.tolist():
                place = {"lat": float(photos.lat_deg[row]), "lon": float(photos.lng_deg[row])}
                _add(tar, f"{row:08d}.jpg", (world / photos.photo[row]).read_bytes())
                _add(tar, f"{row:08d}.json", json.dumps(place).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _save_clip(folder: Path) -> None:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=_WIDTH)
    config.save_pretrained(folder)
    torch.save(CLIPModel(config).state_dict(), folder / PICKLED_WEIGHTS)
    crop = {"height": _EDGE, "width": _EDGE}
    CLIPImageProcessorPil(size={"shortest_edge": _EDGE}, crop_size=crop).save_pretrained(folder)


def _save_oneformer(folder: Path) -> None:
    model = random_oneformer(_SWIN, _ONEFORMER)
    # As they are drawn, all queries see the same, and maps have one class.
    torch.nn.init.normal_(model.model.transformer_module.queries_embedder.weight, std=10)
    torch.nn.init.normal_(model.model.pixel_level_module.decoder.mask_projection.weight)
    model.save_pretrained(folder)
    OneFormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
