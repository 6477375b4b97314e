"""A tiny real image network of the timm library, and pictures that it can learn."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.images import pixels

COLOURS = {"red": (255, 60, 60), "green": (60, 255, 60), "blue": (60, 60, 255)}


def save_image_backbone(
    folder: Path, name: str = "test_efficientnet", side: int = 32, channels: int = 3, **arguments: Any
) -> Path:
    """A timm folder with random weights: configuration, safetensors, model card."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    model = timm.create_model(name, num_classes=5, in_chans=channels, **arguments).train()
    with torch.no_grad():
        for _ in range(20):  # so that the running statistics are those of what comes through
            model(torch.rand(16, channels, side, side) * 2 - 1)
    config = {
        "architecture": name,
        "num_classes": 5,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [channels, side, side],
            "interpolation": "bilinear",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5] * channels,
            "std": [0.5] * channels,
            "num_classes": 5,
            "license": "apache-2.0",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def save_pictures(folder: Path, count: int) -> Path:
    """`folder`/<label>/<number>.png: noisy pictures, tinted by their label."""
    for index, (label, tint) in enumerate(COLOURS.items()):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            picture = Image.fromarray(pixels(1000 * index + number, height=40, width=40))
            Image.blend(picture, Image.new("RGB", picture.size, tint), 0.5).save(folder / label / f"{number}.png")
    return folder
