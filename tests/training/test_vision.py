"""Image networks of the transformers library, random and small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    RegNetConfig,
    RegNetModel,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from regraft.errors import ConfigError
from regraft.sections import Backbone
from tests.training.conftest import CARD
from tests.training.pictures import save_pictures
from tests.training.test_images import SPEC, write_task
from training.backbone import open_backbone
from training.dataset import read_dataset
from training.export import FP32, Exported, principal_components, write_onnx
from training.kinds import encoder_of
from training.network import Network
from training.pictures import open_image_files
from training.targets.labels import Probabilities
from training.train import fine_tune
from training.vision import VisionEncoder

SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
RESNET = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
READS = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
PAIR = {"vision_config": SMALL | {"intermediate_size": 32}, "text_config": READS}
SQUARE = {"height": 32, "width": 32}
PREPARED = {"size": SQUARE, "crop_size": SQUARE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def save(folder: Path, model: Any, **prepared: Any) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARED | prepared))
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (ViTModel(ViTConfig(**SMALL, intermediate_size=32)), 4),
        (DeiTModel(DeiTConfig(**SMALL, intermediate_size=32)), 4),
        (Dinov2Model(Dinov2Config(**SMALL)), 4),
        (ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)), 0),
        (SwinModel(SwinConfig(**SWIN)), 0),
        (ResNetModel(ResNetConfig(**RESNET)), 0),
        (RegNetModel(RegNetConfig(**RESNET, groups_width=8)), 0),
        (CLIPModel(CLIPConfig(**PAIR)), 4),
        (SiglipModel(SiglipConfig(**PAIR)), 4),
    ],
    ids=lambda value: value.config.model_type if hasattr(value, "config") else str(value),
)  # fmt: skip
def test_any_network_for_images_answers_as_it_did_cut_or_whole_in_pytorch_and_exported(
    model: Any, layers: int, tmp_path: Path
) -> None:
    card = open_backbone(Backbone(source=str(save(tmp_path, model))))
    encoder = encoder_of(card, open_image_files(tmp_path, 1_000_000))
    assert isinstance(encoder, VisionEncoder)
    assert len(encoder.layers) == layers
    network = Network(encoder, labels=3, frozen=0.75, seed=0)
    assert [group.name for group in network.groups()] == ["head", "layer 3"][: 1 + bool(layers)]
    network.learning_mode(on=False)
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = getattr(model, "vision_model", model).eval()(pixel_values=pixels).last_hidden_state
        whole = states.mean(dim=(2, 3)) if states.dim() == 4 else states.mean(dim=1)
        output = network(pixels)
        for boundary in range(layers, -1, -1):
            network.unfreeze(boundary)
            torch.testing.assert_close(network.suffix(network.prefix(pixels)).pooled, whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.pooled, whole, atol=1e-5, rtol=1e-4)
    attention = encoder.model.config._attn_implementation
    write_onnx(
        Exported(network, Probabilities(1.0), principal_components(np.eye(16, dtype=np.float32), 2)), tmp_path / FP32
    )
    (answered,) = onnxruntime.InferenceSession(tmp_path / FP32).run(["probabilities"], {"pixels": pixels.numpy()})
    assert np.abs(answered - output.logits.softmax(dim=1).numpy()).max() < 1e-5
    assert encoder.model.config._attn_implementation == attention


@pytest.mark.parametrize(
    ("model", "unused"),
    [
        (ViTModel(ViTConfig(**SMALL, intermediate_size=32)), set()),
        (ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)), {"model.layernorm"}),
        (ResNetModel(ResNetConfig(**RESNET)), set()),
    ],
)  # fmt: skip
def test_all_that_an_answer_depends_on_can_learn(model: Any, unused: set[str]) -> None:
    network = Network(VisionEncoder(model, SPEC), labels=3, frozen=0.75, seed=0)
    network.requires_grad_(True)
    network(torch.rand(2, 3, 32, 32)).logits.square().sum().backward()
    still = {name.rpartition(".")[0] for name, one in network.encoder.named_parameters() if one.grad is None}
    assert still == unused


@pytest.mark.parametrize(
    "model", [ViTModel(ViTConfig(**SMALL, intermediate_size=32)), ResNetModel(ResNetConfig(**RESNET))]
)
def test_a_network_of_coloured_pictures_is_fitted_to_others(model: Any, tmp_path: Path) -> None:
    """Grey is the sum of its three colours; a fourth channel takes its share of what they weigh."""
    source = str(save(tmp_path, model))
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    colours = grey.expand(-1, 3, -1, -1)
    said = []
    for pixels in (colours, grey, torch.cat([colours * 4 / 3, torch.zeros_like(grey)], dim=1)):
        backbone = Backbone(source=source, channels=pixels.shape[1])
        encoder = encoder_of(open_backbone(backbone), open_image_files(tmp_path, 1_000_000, backbone))
        with torch.no_grad():
            said.append(Network(encoder, labels=3, frozen=1.0, seed=0).eval()(pixels).pooled)
    for one in said[1:]:
        torch.testing.assert_close(one, said[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        (ResNetModel(ResNetConfig(**RESNET)), "images in 3 channels"),
        (CLIPModel(CLIPConfig(**PAIR)), "images of 32 pixels in 3 channels"),
    ],
)
def test_what_takes_images_is_said_to(model: Any, takes: str, tmp_path: Path) -> None:
    assert open_backbone(Backbone(source=str(save(tmp_path, model)))).input_format == takes


def test_a_vision_transformer_is_fine_tuned_on_pictures(tmp_path: Path) -> None:
    save_pictures(tmp_path / "pictures", 20)
    torch.manual_seed(7)
    backbone = save(tmp_path / "vit", ViTModel(ViTConfig(**SMALL, intermediate_size=32)))
    task = write_task(tmp_path, backbone)
    manifest = fine_tune(task, read_dataset(task), tmp_path / "run", version="v")
    assert manifest.test["accuracy"].value > 0.8
    assert manifest.backbone["input_format"] == "images of 32 pixels in 3 channels"


@pytest.mark.parametrize(
    ("prepared", "height", "resize", "crop", "interpolation"),
    [
        ({"image_processor_type": "ViTImageProcessor", "size": 48}, 48, "squash", 1.0, "bilinear"),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, 224, "squash", 1.0, "bilinear"),
        ({"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 56}, 56, "crop", 0.875, "bicubic"),
        ({"image_processor_type": "DeiTImageProcessor"}, 224, "crop", 0.875, "bicubic"),
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875},
            224,
            "crop",
            0.875,
            "bicubic",
        ),
        ({"image_processor_type": "ConvNextImageProcessor"}, 384, "squash", 1.0, "bicubic"),
        ({"image_processor_type": "PoolFormerImageProcessor"}, 224, "crop", 0.9, "bicubic"),
        ({"image_processor_type": "BitImageProcessor", "do_normalize": False}, 224, "crop", 1.0, "bicubic"),
        (
            {"image_processor_type": "ViTImageProcessor", "do_rescale": False, "image_mean": [110, 120, 130]},
            224,
            "squash",
            1.0,
            "bilinear",
        ),
    ],
    ids=str,
)
def test_pictures_are_prepared_as_the_network_was_trained(
    prepared: dict[str, Any], height: int, resize: str, crop: float, interpolation: str, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    ours = open_image_files(tmp_path, 1_000_000)
    assert (ours.spec.height, ours.spec.width, ours.spec.resize, ours.spec.crop) == (height, height, resize, crop)
    assert ours.spec.interpolation == interpolation
    rows, columns = np.indices((600, 600)) * 255 // 600
    picture = Image.fromarray(np.stack([rows, columns, (rows + columns) // 2], axis=-1).astype(np.uint8))
    picture.save(tmp_path / "picture.png")
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(picture, return_tensors="np")["pixel_values"]
    files: Any = ours.encode([str(tmp_path / "picture.png")])
    mine = ours.collate(files)["pixels"]
    assert np.abs(mine - theirs).mean() / theirs.std() < 0.02


def test_a_network_that_takes_no_such_pictures_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, ViTModel(ViTConfig(**SMALL, intermediate_size=32)), size=40)
    with pytest.raises(ConfigError, match="the architecture 'vit' takes no images as its preprocessor makes them"):
        encoder_of(open_backbone(Backbone(source=str(folder))), open_image_files(folder, 1_000_000))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="does not say how timm or transformers prepares its images"):
        open_image_files(folder, 1_000_000)
