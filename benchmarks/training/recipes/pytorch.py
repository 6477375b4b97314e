"""PyTorch alone on pictures: every weight learns, channels_last, AdamW, one cycle over four epochs, batches of 32.

Pictures are decoded once and kept in memory. Validated after each epoch, the best epoch is kept.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.training.recipes.job import Answers, Examples, Job, perform
from training.evaluate import macro_f1

BATCH = 32
EPOCHS = 4


def run(job: Job) -> Answers:
    torch.manual_seed(job.seed)
    config = json.loads((Path(job.backbone) / "config.json").read_text())
    network = pretrained(config["architecture"], Path(job.backbone), job.classes)
    train, validation, test = (pixels(part, config["pretrained_cfg"]) for part in (job.train, job.validation, job.test))
    labels, steps = torch.tensor(job.train.labels), -(-len(train) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=job.rate or 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, job.rate or 1e-3, epochs=EPOCHS, steps_per_epoch=steps)
    curve: list[float] = []
    best: dict[str, Tensor] = {}
    for _ in range(EPOCHS):
        network.train()
        for indices in torch.split(torch.randperm(len(train)), BATCH):
            loss = F.cross_entropy(network(train[indices]), labels[indices])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        answered = np.array(answers(network, validation))
        curve.append(macro_f1(np.array(job.validation.labels), answered, job.classes))
        if curve[-1] == max(curve):
            best = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)
    return Answers(answers(network, test), curve, [])


def pretrained(architecture: str, folder: Path, classes: int) -> nn.Module:
    network: nn.Module = timm.create_model(architecture, num_classes=classes)
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict({name: one for name, one in weights.items() if "classifier" not in name}, strict=False)
    return network.to(memory_format=torch.channels_last)


def pixels(part: Examples, config: dict[str, Any]) -> Tensor:
    """(pictures, channels, height, width), lying as channels_last."""
    height, width = config["input_size"][1:]
    mean, std = (torch.tensor(config[name]) for name in ("mean", "std"))
    whole = torch.empty(len(part), 3, height, width).contiguous(memory_format=torch.channels_last)
    for number, place in enumerate(part.inputs):
        with Image.open(place) as picture:
            wanted = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        scaled = (torch.from_numpy(np.array(wanted)) / 255 - mean) / std
        whole[number] = scaled.permute(2, 0, 1)
    return whole


def answers(network: nn.Module, pictures: Tensor) -> list[int]:
    network.eval()
    with torch.no_grad():
        return torch.cat([network(some).argmax(dim=1) for some in torch.split(pictures, 2 * BATCH)]).tolist()


if __name__ == "__main__":
    perform(run)
