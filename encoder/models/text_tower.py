"""The half of a published CLIP that makes vectors of texts, in the space of its vectors of photos.

In: a CLIP or MetaCLIP 2 with both halves, as `hf:<hub id or folder>`, and its own `tokenizer.json`. Out: unit vectors
of texts. They are tied to the digest that `encoder.models.checkpoint` gives the photos' half of the same files, so that
texts of one model never meet photos of another unnoticed. Nothing in a model's files is run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from encoder.models.device import memory_explained
from encoder.models.files import (
    CONFIG_FILE,
    HUB_PREFIX,
    PROCESSOR_FILES,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    fetch,
    one_line,
    read_json,
    settings_of,
    weights_of,
)
from encoder.models.published import ModelFiles
from encoder.models.weights import open_weights
from indexer.disk.manifest import file_digest
from indexer.errors import InputError

# By model type the class of the configuration and that of the text tower. Both see a token's past alone, so that what
# texts are padded with changes nothing.
_TOWERS: Mapping[str, tuple[str, str]] = {
    "clip": ("CLIPConfig", "CLIPTextModelWithProjection"),
    "metaclip_2": ("MetaClip2Config", "MetaClip2TextModelWithProjection"),
}
# `eos_token_id` of CLIPs of before 2023, which is not their tokenizer's: the largest number is the end.
_UNKNOWN_END = 2


@dataclass(frozen=True, slots=True, eq=False)
class TextTower:
    """The text tower of a CLIP, ready to use."""

    name: str  # as it was asked for
    model: PreTrainedModel  # in eval mode, on its device
    tokenizer: Tokenizer
    tokenizer_digest: str
    digest: str  # that of the encoder of photos in the same files
    temperature: float  # what the model's cosines are divided by before it compares them

    @property
    def context(self) -> int:
        """How many tokens a text may have, the two that stand for its ends included."""
        config: Any = self.model.config
        return int(config.max_position_embeddings)

    @property
    def width(self) -> int:
        """D, the number of dimensions of its vectors."""
        config: Any = self.model.config
        return int(config.projection_dim)

    @property
    def precision(self) -> str:
        """What it computes in: float32 or bfloat16."""
        return str(self.model.dtype).removeprefix("torch.")

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of the tokens of each text, its ends included."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts))]

    def vectors(self, texts: Sequence[str], *, batch_size: int) -> np.ndarray:
        """Unit vectors of texts that are no longer than the context: (N, D) float32.

        Texts of about one length go through the model together, so that little of a batch is padding. Raises WorkError
        where the device has too little memory.
        """
        tokens = self.tokens(texts)
        order = np.argsort([len(each) for each in tokens], kind="stable")
        vectors = np.empty((len(texts), self.width), np.float32)
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            with memory_explained(f"for {len(rows)} texts at once", "Run again with a smaller `batch_size`."):
                vectors[rows] = self._batch([tokens[row] for row in rows.tolist()]).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def _batch(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """tokens: of each text. The first end counts, so that more of the same may follow."""
        longest = max(map(len, tokens))
        ids = torch.tensor([[*each, *[each[-1]] * (longest - len(each))] for each in tokens])
        seen = self.model(input_ids=ids.to(self.model.device))
        return torch.nn.functional.normalize(seen.text_embeds.float(), dim=-1)


def load_text_tower(
    checkpoint: str | Path, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> TextTower:
    """Open the text tower of a CLIP: `hf:<hub id or folder>`. It computes in `dtype`.

    Raises:
        InputError: a checkpoint folder or a model without texts; or the hub cannot be reached, or a file is missing.
        ArtifactError: its weights are not those of the model.
    """
    name = str(checkpoint)
    if not name.startswith(HUB_PREFIX):
        raise InputError(
            f"{name}: texts need a published CLIP with its text tower, as {HUB_PREFIX}<hub id or folder>; a checkpoint "
            "of this project has none."
        )
    source = name.removeprefix(HUB_PREFIX)
    try:
        config_file = fetch(source, CONFIG_FILE, prefix=HUB_PREFIX)
    except InputError as error:
        if Path(source).is_dir() or Path(source).is_absolute():
            raise
        raise InputError(
            f"{error} Without a network: copy {CONFIG_FILE}, {WEIGHTS_FILE}, {PROCESSOR_FILES[0]} and {TOKENIZER_FILE} "
            f"of {source} from a machine that has one into a folder, and give that."
        ) from None
    settings = read_json(config_file)
    kind = str(settings.get("model_type"))
    if kind not in _TOWERS:
        raise InputError(
            f"{name}: its model type is {kind!r}, of which no texts are read. Read are those of "
            f"{' and '.join(_TOWERS)}, with both halves."
        )
    tokenizer_file = fetch(source, TOKENIZER_FILE, prefix=HUB_PREFIX)
    files = ModelFiles.find(source, config_file, settings)
    config_name, model_name = _TOWERS[kind]
    with settings_of("a CLIP", files.name, config_file):
        config = getattr(transformers, config_name).from_dict(dict(settings))
        config.text_config.projection_dim = config.projection_dim
    with weights_of("text encoder", files.weights):
        model, misfits = open_weights(getattr(transformers, model_name), config.text_config, files.weights)
        lacking = [*misfits.missing, *misfits.changed]
        if lacking:
            raise ValueError(f"missing or of another shape: {', '.join(lacking[:3])}")
        temperature = _temperature(files.weights)
    tower = TextTower(
        name,
        model.to(device, dtype),
        _tokenizer(tokenizer_file),
        file_digest(tokenizer_file),
        files.digest,
        temperature,
    )
    _check_tokens(tower, config.text_config)
    return tower


def _temperature(weights_file: Path) -> float:
    """1 over the logit scale, whose logarithm is a weight; LookupError or ValueError where there is no such one."""
    with safe_open(weights_file, framework="pt") as file:
        if "logit_scale" not in file.keys():
            raise LookupError("it has no logit_scale")
        scale = float(file.get_tensor("logit_scale"))
    if not math.isfinite(scale) or abs(scale) > 20:
        raise ValueError(f"its logit_scale is {scale:g}")
    return math.exp(-scale)


def _tokenizer(file: Path) -> Tokenizer:
    """Without padding and without a length at which texts are cut in silence."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 (what the Rust code raises has no class of its own)
        raise InputError(f"{file}: cannot be read as a tokenizer ({one_line(error)}). Download it again.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _check_tokens(tower: TextTower, config: Any) -> None:
    """Raise InputError for a tokenizer that is not the model's: no texts would end where the model looks."""
    largest = max(tower.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= config.vocab_size:
        raise InputError(
            f"{tower.name}: {TOKENIZER_FILE} is not its tokenizer: it has {largest + 1:,} tokens, of which the model "
            f"knows {config.vocab_size:,}. Download both again."
        )
    ids = tower.tokens(["a photo"])[0]
    unknown = config.model_type == "clip_text_model" and config.eos_token_id == _UNKNOWN_END
    end = max(ids, default=0) if unknown else config.eos_token_id
    if end not in ids or ids.index(end) != len(ids) - 1:
        raise InputError(
            f"{tower.name}: {TOKENIZER_FILE} is not its tokenizer: texts must end with token {end}, these are {ids}. "
            "Download both again."
        )
