import pytest
import torch
from transformers import ViTConfig, ViTModel

from encoder.config import Preprocessing
from encoder.models.vision_model import VisionModel
from tests.encoder.conftest import EDGE, VISION


def vision_model(**settings: int) -> VisionModel:
    torch.manual_seed(0)
    return VisionModel(ViTModel(ViTConfig(**VISION | settings)).eval(), Preprocessing(EDGE, EDGE, squash=True))


def test_vectors_are_unit_rows_of_float32_of_its_width() -> None:
    for model in (vision_model(), vision_model(pooler_output_size=12), vision_model().bfloat16()):
        vectors = model(torch.randn(5, 3, EDGE, EDGE, dtype=model.dtype))
        assert vectors.shape == (5, model.width)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
        assert model.device == torch.device("cpu")
    assert (vision_model().width, vision_model(pooler_output_size=12).width) == (VISION["hidden_size"], 12)


def test_it_takes_no_class_maps() -> None:
    with pytest.raises(ValueError, match="takes no class maps"):
        vision_model()(torch.randn(1, 3, EDGE, EDGE), torch.zeros((1, EDGE, EDGE), dtype=torch.uint8))
    assert vision_model().fusion_config is None
