"""A small random CLIP with both halves and a tokenizer of its own, saved as transformers saves them."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

EDGE, WIDTH, CONTEXT = 32, 16, 40
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: a token for each byte of a text, and another one where it ends a word."""
    # How byte-level tokenizers write bytes: those that can be seen as they are, the others from 256 on.
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in seen] + [chr(256 + number) for number in range(256 - len(seen))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])


def save_text_clip(folder: Path, *, seed: int = 0, context: int = CONTEXT, old_end: bool = False) -> CLIPModel:
    """Save one and return it. old_end: its configuration has the end of texts that CLIPs of before 2023 have."""
    tokenizer = byte_tokenizer()
    text = {
        **_SIZES,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": context,
        "bos_token_id": 0 if old_end else tokenizer.bos_token_id,
        "eos_token_id": 2 if old_end else tokenizer.eos_token_id,
    }
    vision = {**_SIZES, "image_size": EDGE, "patch_size": 8}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).eval()
    with torch.no_grad():  # as they are drawn, all texts look alike, and so do all photos
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5 if "embedding" in name else 0.3)
        model.vision_model.embeddings.class_embedding.zero_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": EDGE}, crop_size={"height": EDGE, "width": EDGE})
    processor.save_pretrained(folder)
    return model


@torch.no_grad()
def own_text_vectors(model: CLIPModel, folder: Path, texts: list[str]) -> torch.Tensor:
    """Unit vectors of texts (N, D), by the model's own tokenizer and feature call."""
    tokens = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    return torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
