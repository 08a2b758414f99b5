import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.config import Preprocessing
from encoder.embedding import embed_photos
from encoder.encode import PhotoEncoder
from encoder.models.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.models.files import encoder_width
from encoder.models.model import GeoEncoder, GeoEncoderConfig, make_head
from indexer.errors import ArtifactError, InputError
from indexer.photos.sources import listed_photos
from tests.encoder.conftest import EDGE, VISION, WIDTH, natural, tiny_encoder


def test_vectors_are_unit_rows_of_float32() -> None:
    vectors = tiny_encoder()(torch.randn(5, 3, EDGE, EDGE))
    assert vectors.shape == (5, WIDTH)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))


def test_another_precision_inside_gives_float32_outside() -> None:
    encoder, pixels = tiny_encoder(), torch.randn(4, 3, EDGE, EDGE)
    expected = encoder(pixels)
    precise = encoder.double()(pixels.double())  # float64: half precision takes CPUs very long
    assert precise.dtype == torch.float32
    torch.testing.assert_close(precise, expected)


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, same, other = (tiny_encoder(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name in ("projection.weight", "vision.embeddings.class_embedding", "vision.embeddings.patch_embedding.weight"):
        assert not torch.equal(one[name], other[name])


def test_random_weights_have_clips_own_spread(clip: CLIPModel) -> None:
    ours, theirs = tiny_encoder().state_dict(), clip.state_dict()
    for name, tensor in ours.items():
        twin = theirs[name.replace("vision.", "vision_model.").replace("projection.", "visual_projection.")]
        assert tensor.shape == twin.shape
        if tensor.numel() > 500:
            assert 0.8 < tensor.std() / twin.std() < 1.25, name


def test_save_pretrained_and_from_pretrained_are_the_identity(tmp_path: Path) -> None:
    encoder = tiny_encoder(resize=40)
    encoder.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    again = GeoEncoder.from_pretrained(tmp_path).eval()
    assert again.preprocessing == Preprocessing(40, EDGE)
    pixels = torch.randn(2, 3, EDGE, EDGE)
    assert torch.equal(encoder(pixels), again(pixels))


def test_a_head_upon_the_projection_comes_back_with_it(tmp_path: Path) -> None:
    encoder, pixels = tiny_encoder(), torch.randn(3, 3, EDGE, EDGE)
    torch.manual_seed(5)
    head = make_head(WIDTH, [24, 6])
    projected = encoder.unscaled(pixels)
    encoder.add_head(head)
    assert encoder.width == 6
    torch.testing.assert_close(encoder.unscaled(pixels), head[2](torch.relu(head[0](projected))))
    save_checkpoint(tmp_path / "C", encoder=encoder, geocells=None, config={}, inputs={})
    loaded = load_encoder(str(tmp_path / "C"))
    assert loaded.width == encoder_width(tmp_path / "C") == 6
    assert torch.equal(loaded.model(pixels), encoder(pixels))
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "C").eval()(pixels), encoder(pixels))
    bfloat16 = load_encoder(str(tmp_path / "C"), dtype=torch.bfloat16).model(pixels.bfloat16())
    assert bfloat16.dtype == torch.float32
    assert (bfloat16 * encoder(pixels)).sum(dim=1).min() > 0.99


def test_a_head_of_another_width_or_of_no_width_is_refused() -> None:
    with pytest.raises(InputError, match=f"head for 9 dimensions upon an encoder of {WIDTH}"):
        tiny_encoder().add_head(make_head(9, [4]))
    with pytest.raises(InputError, match="0 dimensions"):
        GeoEncoderConfig(vision_config=VISION, projection_dim=WIDTH, head=[4, 0])


def test_hugging_face_can_open_a_checkpoint_folder(checkpoint: Path, encoder: LoadedEncoder) -> None:
    pixels = torch.randn(2, 3, EDGE, EDGE)
    for opener in (GeoEncoder, AutoModel):
        theirs = opener.from_pretrained(checkpoint).eval()
        assert torch.equal(theirs(pixels), encoder.model(pixels))


def test_a_plain_clip_gives_its_own_image_embedding(clip: CLIPModel, clip_folder: Path, tmp_path: Path) -> None:
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    encoder = load_encoder(f"hf:{clip_folder}")
    for seed, shape in enumerate([(36, 36), (90, 50), (33, 70)]):
        image = natural(*shape, seed=seed)
        image.save(tmp_path / f"{seed}.png")
        with torch.no_grad():
            theirs = clip.get_image_features(processor(image, return_tensors="pt")["pixel_values"]).pooler_output[0]
        photo = listed_photos([str(tmp_path / f"{seed}.png")])
        (batch,) = embed_photos(PhotoEncoder(encoder), photo)
        assert batch.embedding[0] @ (theirs / theirs.norm()).numpy() >= 0.9999


def test_weights_of_a_plain_clip_give_its_vectors_to_the_last_digits(clip: CLIPModel, clip_folder: Path) -> None:
    pixels = torch.randn(4, 3, EDGE, EDGE)
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
        torch.testing.assert_close(load_encoder(f"hf:{clip_folder}").model(pixels), theirs)


def test_half_the_bits_keep_the_direction(clip: CLIPModel, clip_folder: Path) -> None:
    pixels = torch.randn(8, 3, EDGE, EDGE)
    half = load_encoder(f"hf:{clip_folder}", dtype=torch.bfloat16)
    assert half.precision == "bfloat16"
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
        ours = half.model(pixels.bfloat16())
    assert ours.dtype == torch.float32
    assert (ours * theirs).sum(dim=1).min() >= 0.999


def test_attention_is_the_fused_one() -> None:
    assert tiny_encoder().vision.config._attn_implementation == "sdpa"


def test_the_defaults_are_the_papers_encoder() -> None:
    config = GeoEncoderConfig()
    assert (config.vision_config.hidden_size, config.vision_config.num_hidden_layers) == (1024, 24)
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (336, 14)
    assert config.projection_dim == 768
    assert Preprocessing.from_dict(config.preprocessing) == Preprocessing(336, 336)


def test_impossible_sizes_are_a_clear_error() -> None:
    with pytest.raises(InputError, match="vision transformer"):
        GeoEncoderConfig(vision_config=VISION | {"num_attention_heads": 5})
    with pytest.raises(InputError, match="sees 32 x 32 pixels, but photos are cut to 24 x 24"):
        GeoEncoderConfig(vision_config=VISION, preprocessing=Preprocessing(32, 24).to_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 0}, "vision transformer"),
        ({"patch_size": 0}, "Patches of 0 pixels in an image of 32"),
        ({"patch_size": 33}, "a patch must fit"),
        ({"hidden_act": "quick_gelv"}, "no activation 'quick_gelv'"),
    ],
)
def test_values_that_fail_only_when_the_model_is_built_are_refused_before(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        GeoEncoderConfig(vision_config=VISION | change)


def test_vectors_without_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="0 dimensions"):
        GeoEncoderConfig(vision_config=VISION, projection_dim=0)


def test_the_visual_half_of_a_clip_alone_will_do(clip: CLIPModel, clip_folder: Path, tmp_path: Path) -> None:
    """As CLIPVisionModelWithProjection saves it; without the projection it is no CLIP."""
    config = clip.config.vision_config
    config.projection_dim = clip.config.projection_dim
    half = CLIPVisionModelWithProjection(config)
    half.vision_model.load_state_dict(clip.vision_model.state_dict())
    half.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    shutil.copytree(clip_folder, tmp_path / "half")
    half.save_pretrained(tmp_path / "half")
    whole, alone = (load_encoder(f"hf:{folder}").model for folder in (clip_folder, tmp_path / "half"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(alone.state_dict()[name], weight), name
    CLIPVisionModel(config).save_pretrained(tmp_path / "half")
    with pytest.raises(ArtifactError, match="it has no visual_projection"):
        load_encoder(f"hf:{tmp_path / 'half'}")


def test_weights_in_several_files_and_folders_that_are_not_there_are_named(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "parts")
    (tmp_path / "parts" / "model.safetensors").rename(tmp_path / "parts" / "model-00001-of-00001.safetensors")
    (tmp_path / "parts" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="its weights are in several files"):
        load_encoder(f"hf:{tmp_path / 'parts'}")
    with pytest.raises(InputError, match=r"absent: no such folder\."):
        load_encoder(f"hf:{tmp_path / 'absent'}")
